"""The middleware between a server and an application: the lifespan, `request.state`, and the page by path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgi_jobs import Event, InvalidOption, InvalidOptionType, Jobs, JobsMiddleware, JobState, NotRunning
from asgi_jobs.testing import settle
from tests.servers.testclient import TestClient

JSON = {"Accept": "application/json"}
SOON = timedelta(seconds=5)


async def noop() -> None:
    pass


def local(**options: Any) -> Jobs:
    return Jobs(authorize=lambda request: True, **options)


class Server:
    """The server's end of the lifespan protocol."""

    def __init__(self, app: ASGIApp, **scope: Any) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.outbox: asyncio.Queue[Message] = asyncio.Queue()
        self.scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}, **scope}
        self.task: asyncio.Task[None] = asyncio.create_task(app(self.scope, self.inbox.get, self.outbox.put))  # type: ignore[arg-type]

    async def startup(self) -> Message:
        return await self._exchange("lifespan.startup")

    async def shutdown(self) -> Message:
        answer = await self._exchange("lifespan.shutdown")
        async with asyncio.timeout(5):
            await asyncio.wait([self.task])
        assert self.outbox.empty()  # servers take a second answer for an error
        return answer

    async def _exchange(self, kind: str) -> Message:
        await self.inbox.put({"type": kind})
        async with asyncio.timeout(5):
            return await self.outbox.get()


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does not know the lifespan, and answers 204 to every request."""
    if scope["type"] == "http":
        await Response(status_code=204)(scope, receive, send)


async def ask(app: ASGIApp, path: str = "/", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, root_path=options.pop("root_path", ""))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, **options)


# Wiring, as the design prints it


def enqueue_from(request: Request) -> Response:
    job = request.state.jobs.enqueue(noop, name="from a request")
    return JSONResponse({"id": job.id})


def starlette_app(jobs: Jobs) -> Starlette:
    return Starlette(
        routes=[Route("/enqueue", enqueue_from, methods=["POST"]), Mount("/jobs", jobs)],
        middleware=[Middleware(JobsMiddleware, jobs=jobs)],
    )


def fastapi_app(jobs: Jobs) -> FastAPI:
    app = FastAPI()
    app.mount("/jobs", jobs)
    app.add_middleware(JobsMiddleware, jobs=jobs)
    app.add_api_route("/enqueue", enqueue_from, methods=["POST"])
    return app


def wrapped_app(jobs: Jobs) -> ASGIApp:
    return JobsMiddleware(
        Starlette(routes=[Route("/enqueue", enqueue_from, methods=["POST"])]), jobs=jobs, path="/jobs"
    )


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, wrapped_app])
def test_a_request_enqueues_the_job_runs_and_the_page_shows_it(make: Any) -> None:
    jobs = local()

    with TestClient(make(jobs)) as client:
        id = client.post("/enqueue").json()["id"]
        client.portal.call(jobs.join)  # type: ignore[union-attr]
        shown = client.get(f"/jobs/jobs/{id}", headers=JSON).json()
        page = client.get("/jobs/").text

    assert shown["state"] == "succeeded"
    assert shown["name"] == "from a request"
    assert "from a request" in page
    assert jobs.status == "stopped"


async def test_a_lifespan_of_jobs_alone_starts_and_stops_the_engine() -> None:
    jobs = local()
    server = Server(Starlette(routes=[Mount("/jobs", jobs)], lifespan=jobs.lifespan))

    await server.startup()
    running = jobs.status
    ended = await server.shutdown()

    assert running == "running"
    assert ended == {"type": "lifespan.shutdown.complete"}
    assert jobs.status == "stopped"


async def test_a_fastapi_lifespan_composes_it_by_hand() -> None:
    jobs, events = local(), []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append(f"start-up, engine {jobs.status}")
        async with jobs.lifespan(app):
            events.append(f"between, engine {jobs.status}")
            yield
        events.append(f"shutdown, engine {jobs.status}")

    server = Server(FastAPI(lifespan=lifespan))
    await server.startup()
    await server.shutdown()

    assert events == ["start-up, engine new", "between, engine running", "shutdown, engine stopped"]


# request.state


async def test_a_second_jobs_has_a_name_of_its_own() -> None:
    jobs, mail_jobs = local(), local()

    def names(request: Request) -> Response:
        return JSONResponse([request.state.jobs is jobs, request.state.mail_jobs is mail_jobs])

    app = Starlette(
        routes=[Route("/", names), Mount("/jobs", jobs), Mount("/mail", mail_jobs)],
        middleware=[
            Middleware(JobsMiddleware, jobs=jobs),
            Middleware(JobsMiddleware, jobs=mail_jobs, state="mail_jobs"),
        ],
    )
    server = Server(app)
    started = await server.startup()

    assert started == {"type": "lifespan.startup.complete"}
    assert (jobs.status, mail_jobs.status) == ("running", "running")
    assert (await ask(app)).json() == [True, True]
    await server.shutdown()
    assert (jobs.status, mail_jobs.status) == ("stopped", "stopped")


async def test_one_page_by_mount_and_one_by_path_show_their_own_jobs() -> None:
    jobs, mail_jobs = local(title="Ours"), local(title="Mail")
    app = JobsMiddleware(
        Starlette(routes=[Mount("/jobs", jobs)], middleware=[Middleware(JobsMiddleware, jobs=jobs)]),
        jobs=mail_jobs,
        path="/mail",
        state="mail_jobs",
    )
    server = Server(app)
    await server.startup()
    await jobs.enqueue(noop, name="ordinary").wait()
    await mail_jobs.enqueue(noop, name="letter").wait()

    ours, mail = (
        (await ask(app, "/jobs/jobs", headers=JSON)).json(),
        (await ask(app, "/mail/jobs", headers=JSON)).json(),
    )
    await server.shutdown()

    assert [job["name"] for job in ours["jobs"]] == ["ordinary"]
    assert [job["name"] for job in mail["jobs"]] == ["letter"]


@pytest.mark.parametrize("inner", ["starlette", "silent"])
async def test_a_name_taken_by_another_jobs_fails_the_start(inner: str) -> None:
    jobs, other = local(), local()
    app = JobsMiddleware(JobsMiddleware(Starlette() if inner == "starlette" else silent, jobs=jobs), jobs=other)
    server = Server(app)

    answer = await server.startup()

    assert answer["type"] == "lifespan.startup.failed"
    assert "state='mail_jobs'" in answer["message"]
    with pytest.raises(InvalidOption, match=r"request\.state\.jobs is taken"):
        await server.task
    assert server.outbox.empty()  # and says it once
    assert jobs.status != "running"
    assert other.status != "running"


@pytest.mark.parametrize("goes_on", [True, False])
async def test_an_application_that_swallows_the_refusal_does_not_start_either(goes_on: bool) -> None:
    async def swallows(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Exception):
            await receive()
        if goes_on:
            await send({"type": "lifespan.startup.complete"})

    jobs, other = local(), local()
    server = Server(JobsMiddleware(JobsMiddleware(swallows, jobs=jobs), jobs=other))

    answer = await server.startup()

    assert answer["type"] == "lifespan.startup.failed"
    with pytest.raises(InvalidOption, match="taken"):
        await server.task
    assert "running" not in (jobs.status, other.status)


async def test_a_name_taken_by_the_applications_own_lifespan_state_fails_the_start() -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"jobs": "something else"}

    jobs = local()
    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))

    answer = await server.startup()

    assert answer["type"] == "lifespan.startup.failed"
    with pytest.raises(InvalidOption, match=r"request\.state\.jobs is taken"):
        await server.task
    assert server.outbox.empty()  # Starlette says it once more; the server hears it once
    assert jobs.status == "stopped"


async def test_the_lifespan_state_of_the_application_is_kept() -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"pool": "a pool"}

    jobs = local()
    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    await server.startup()
    state = dict(server.scope["state"])
    await server.shutdown()

    assert state["pool"] == "a pool"
    assert state["jobs"] is jobs


def test_a_request_sees_the_lifespan_state_beside_jobs() -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"pool": "a pool"}

    def show(request: Request) -> Response:
        return JSONResponse([request.state.pool, type(request.state.jobs).__name__])

    jobs = local()
    app = Starlette(routes=[Route("/", show)], lifespan=lifespan, middleware=[Middleware(JobsMiddleware, jobs=jobs)])

    with TestClient(app) as client:
        assert client.get("/").json() == ["a pool", "Jobs"]


# Started twice


@pytest.mark.parametrize("second", ["middleware", "lifespan"])
async def test_started_twice_starts_once_with_a_warning(second: str, caplog: pytest.LogCaptureFixture) -> None:
    jobs = local()
    if second == "middleware":
        app: ASGIApp = JobsMiddleware(JobsMiddleware(silent, jobs=jobs), jobs=jobs)
    else:
        app = JobsMiddleware(Starlette(lifespan=jobs.lifespan), jobs=jobs)
    server = Server(app)

    await server.startup()
    job = jobs.enqueue(noop)
    await job.wait(SOON)
    ended = await server.shutdown()

    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    warnings = [said for said in told if "server processes" not in said]  # as parallel test processes seem to be
    assert len(warnings) == 1
    assert "started already" in warnings[0]
    assert job.state is JobState.SUCCEEDED
    assert ended == {"type": "lifespan.shutdown.complete"}
    assert jobs.status == "stopped"


# The order of events


async def test_the_engine_starts_after_the_start_up_and_drains_before_the_shutdown() -> None:
    jobs, events = local(), []
    gate = asyncio.Event()

    async def work() -> None:
        events.append("job begins")
        await gate.wait()
        events.append("job ends")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        jobs.enqueue(work)
        await settle()
        events.append("start-up complete")
        yield
        events.append("shutdown begins")

    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    await server.startup()
    (job,) = await jobs.find()
    stopping = asyncio.create_task(server.shutdown())
    while jobs.status != "stopping":
        await asyncio.sleep(0)
    gate.set()
    await stopping

    assert events == ["start-up complete", "job begins", "job ends", "shutdown begins"]
    assert job.state is JobState.SUCCEEDED


async def test_a_start_up_that_fails_is_told_to_the_server_and_leaves_nothing_behind() -> None:
    jobs = local()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        jobs.enqueue(noop, name="too early")
        raise RuntimeError("no database")
        yield

    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    started = asyncio.get_running_loop().time()
    answer = await server.startup()

    assert answer["type"] == "lifespan.startup.failed"
    assert "no database" in answer["message"]
    with pytest.raises(RuntimeError, match="no database"):
        await server.task
    assert jobs.status == "stopped"
    assert asyncio.get_running_loop().time() - started < 2  # there is nobody to wait for


async def test_a_start_up_that_fails_without_raising_leaves_nothing_behind_either() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    jobs = local()
    server = Server(JobsMiddleware(fails, jobs=jobs))

    answer = await server.startup()
    await server.task

    assert answer == {"type": "lifespan.startup.failed", "message": "no database"}
    assert jobs.status == "stopped"


@pytest.mark.parametrize("step", ["open", "begin"])
async def test_an_engine_that_cannot_start_fails_the_servers_start(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise OSError("no store")

    jobs = local()
    monkeypatch.setattr(jobs._engine, step, broken)
    server = Server(JobsMiddleware(silent, jobs=jobs))

    answer = await server.startup()

    assert answer == {"type": "lifespan.startup.failed", "message": "OSError: no store"}
    with pytest.raises(OSError, match="no store"):
        await server.task
    assert jobs.status in ("new", "stopped")


async def test_a_start_up_that_fails_names_the_jobs_it_had_enqueued(caplog: pytest.LogCaptureFixture) -> None:
    jobs = local()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        jobs.enqueue(noop, name="too early")
        raise RuntimeError("no database")
        yield

    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    await server.startup()
    with pytest.raises(RuntimeError):
        await server.task

    assert "1 jobs were lost at shutdown: 'too early'" in caplog.text.replace("1 job was", "1 jobs were")


async def test_a_shutdown_that_fails_is_told_to_the_server_after_the_engine_has_stopped() -> None:
    jobs = local()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        raise RuntimeError("the pool would not close")

    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    await server.startup()
    answer = await server.shutdown()

    assert answer["type"] == "lifespan.shutdown.failed"
    assert jobs.status == "stopped"
    with pytest.raises(RuntimeError, match="would not close"):
        server.task.result()


# Applications without a lifespan


async def raises_value_error(scope: Scope, receive: Receive, send: Send) -> None:
    """As Django does."""
    if scope["type"] != "http":
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")
    await Response(status_code=204)(scope, receive, send)


async def asserts(scope: Scope, receive: Receive, send: Send) -> None:
    """As small hand-written applications do."""
    assert scope["type"] == "http"
    await Response(status_code=204)(scope, receive, send)


async def receives_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the message before it finds out that it has no use for it."""
    message = await receive()
    if not message["type"].startswith("http"):
        raise NotImplementedError(message["type"])
    await Response(status_code=204)(scope, receive, send)


async def receives_and_returns(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    if message["type"].startswith("http"):
        await Response(status_code=204)(scope, receive, send)


async def starts_and_returns(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not wait for the shutdown."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
    else:
        await Response(status_code=204)(scope, receive, send)


@pytest.mark.parametrize(
    "app",
    [silent, raises_value_error, asserts, receives_and_raises, receives_and_returns, starts_and_returns],
    ids=lambda app: app.__name__,
)
async def test_the_middleware_answers_the_lifespan_for_an_application_that_does_not(app: ASGIApp) -> None:
    jobs = local()
    wrapped = JobsMiddleware(app, jobs=jobs, path="/jobs")
    server = Server(wrapped)

    started = await server.startup()
    await jobs.enqueue(noop).wait(SOON)
    answers = [(await ask(wrapped, path)).status_code for path in ("/", "/jobs/")]
    ended = await server.shutdown()

    assert started == {"type": "lifespan.startup.complete"}
    assert answers == [204, 200]
    assert ended == {"type": "lifespan.shutdown.complete"}
    assert server.task.exception() is None
    assert jobs.status == "stopped"


async def test_an_application_that_dies_between_start_and_end_still_drains() -> None:
    died = asyncio.Event()

    async def dies(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await died.wait()
        raise RuntimeError("dead")

    jobs = local()
    server = Server(JobsMiddleware(dies, jobs=jobs))
    await server.startup()
    died.set()

    with pytest.raises(RuntimeError, match="dead"):
        await asyncio.wait_for(server.task, 5)
    assert jobs.status == "stopped"


async def test_a_lifespan_that_the_server_cancels_leaves_no_engine_behind() -> None:
    jobs = local()
    server = Server(JobsMiddleware(Starlette(), jobs=jobs))
    await server.startup()
    job = jobs.enqueue(asyncio.sleep, 60)
    while job.state is not JobState.RUNNING:
        await asyncio.sleep(0)

    server.task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([server.task])

    assert server.task.cancelled()
    assert jobs.status == "stopped"
    assert job.state is JobState.CANCELLED


async def test_a_server_without_lifespan_state_can_still_be_used() -> None:
    jobs = local()
    server = Server(JobsMiddleware(Starlette(), jobs=jobs))
    del server.scope["state"]

    assert await server.startup() == {"type": "lifespan.startup.complete"}
    assert await server.shutdown() == {"type": "lifespan.shutdown.complete"}


# Without a start


def test_a_client_without_with_is_told_what_to_do() -> None:
    client = TestClient(starlette_app(local()))

    with pytest.raises(NotRunning) as raised:
        client.post("/enqueue")

    for remedy in ("JobsMiddleware", "jobs.lifespan", "with TestClient(app)", "async with jobs", "mounted app"):
        assert remedy in str(raised.value)


async def test_an_asgi_transport_is_told_what_to_do_and_async_with_is_the_remedy() -> None:
    jobs = local()
    app = starlette_app(jobs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with pytest.raises(NotRunning, match="async with jobs"):
            await client.post("/enqueue")
        async with jobs:
            answer = await client.post("/enqueue")
            job = await jobs.get(answer.json()["id"])
            await job.wait(SOON)

    assert job.state is JobState.SUCCEEDED


async def test_the_page_says_that_the_engine_is_not_running() -> None:
    app = starlette_app(local())

    page = await ask(app, "/jobs/")

    assert page.status_code == 200
    assert "The engine is not running" in page.text
    assert "JobsMiddleware" in page.text


# Other scopes, and bodies


def test_a_websocket_passes_through_with_its_state() -> None:
    jobs = local()

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        job = socket.state.jobs.enqueue(noop)
        await job.wait(SOON)
        await socket.send_text(job.state)
        await socket.close()

    app = JobsMiddleware(Starlette(routes=[WebSocketRoute("/talk", talk)]), jobs=jobs, path="/jobs")

    with TestClient(app) as client, client.websocket_connect("/talk") as socket:
        assert socket.receive_text() == "succeeded"


def test_a_websocket_to_the_page_is_closed_not_crashed() -> None:
    app = JobsMiddleware(silent, jobs=local(), path="/jobs")

    with TestClient(app) as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/jobs/"):
        pass


async def test_an_unknown_scope_passes_through_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))

    async def nothing() -> Message:
        raise AssertionError

    await JobsMiddleware(app, jobs=local(), path="/jobs")({"type": "mqtt", "path": "/jobs"}, nothing, nothing)  # type: ignore[arg-type]

    assert seen == [{"type": "mqtt", "path": "/jobs"}]


async def test_a_streamed_answer_is_passed_on_piece_by_piece() -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    async def pieces() -> AsyncIterator[bytes]:
        for number, gate in enumerate(gates):
            await gate.wait()
            yield b"piece %d" % number

    app = JobsMiddleware(Starlette(routes=[Route("/", lambda _: StreamingResponse(pieces()))]), jobs=local())
    sent: asyncio.Queue[Message] = asyncio.Queue()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
    task: asyncio.Task[None] = asyncio.create_task(app(scope, receive, sent.put))
    async with asyncio.timeout(5):
        assert (await sent.get())["type"] == "http.response.start"
        for number, gate in enumerate(gates):
            assert sent.empty()
            gate.set()
            assert (await sent.get())["body"] == b"piece %d" % number
        await task


# The page by path


@pytest.fixture
def by_path() -> JobsMiddleware:
    def echo(request: Request) -> Response:
        return PlainTextResponse(f"the application's {request.url.path}")

    app = Starlette(routes=[Route("/{path:path}", echo)])
    return JobsMiddleware(app, jobs=local(title="The jobs page"), path="/jobs")


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/jobs", "/jobs/queues", "/jobs/tasks", "/jobs/?q=x"])
async def test_what_lies_below_the_path_is_the_page(by_path: JobsMiddleware, path: str) -> None:
    answer = await ask(by_path, path)

    assert answer.status_code == 200
    assert "The jobs page" in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/jobsX", "/jobsX/", "/job", "/jobs.html", "//jobs", "//jobs/", "/x/jobs/", "/JOBS/"]
)
async def test_what_only_resembles_the_path_is_the_applications(by_path: JobsMiddleware, path: str) -> None:
    # The client would take what follows two slashes for a host: hand it the path by a whole address.
    answer = await ask(by_path, f"http://test{path}")

    assert answer.status_code == 200
    assert answer.text.startswith("the application's ")


async def test_the_path_without_its_slash_leads_to_the_page(by_path: JobsMiddleware) -> None:
    answer = await ask(by_path, "/jobs")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/jobs/"


@pytest.mark.parametrize("path", ["/jobs//", "/jobs//jobs", "/jobs/../secret", "/jobs/%2e%2e/secret", "/jobs/nothing"])
async def test_odd_paths_below_the_page_never_reach_the_application(by_path: JobsMiddleware, path: str) -> None:
    # httpx resolves dots; a raw scope is what a hostile client sends.
    from urllib.parse import unquote

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": path.encode(),
        "headers": [(b"host", b"test")],
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "scheme": "http",
    }
    await by_path(scope, receive, send)

    assert sent[0]["status"] in (200, 303, 404)
    assert b"the application's" not in b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("style", ["with the prefix", "without the prefix"])
async def test_a_root_path_is_understood_whether_the_path_has_it_or_not(by_path: JobsMiddleware, style: str) -> None:
    prefix = "/api" if style == "with the prefix" else ""

    overview = await ask(by_path, f"{prefix}/jobs/", root_path="/api")
    jobs_list = await ask(by_path, f"{prefix}/jobs/jobs", root_path="/api", headers=JSON)
    bare = await ask(by_path, f"{prefix}/jobs", root_path="/api")

    assert overview.status_code == 200
    assert 'href="/api/jobs/queues"' in overview.text
    assert jobs_list.json() == {"jobs": [], "next": None}
    assert bare.headers["location"] == "/api/jobs/"


@pytest.mark.parametrize("style", ["with the prefix", "without the prefix"])
async def test_a_mounted_page_works_behind_a_prefix(style: str) -> None:
    jobs = local()
    app = starlette_app(jobs)
    prefix = "/api" if style == "with the prefix" else ""

    overview = await ask(app, f"{prefix}/jobs/", root_path="/api")

    assert overview.status_code == 200
    assert 'href="/api/jobs/queues"' in overview.text


async def test_a_page_mounted_below_another_prefix_links_to_itself() -> None:
    jobs = local()
    inner = Starlette(routes=[Mount("/admin/jobs", jobs)])
    app = Starlette(routes=[Mount("/site", inner)], middleware=[Middleware(JobsMiddleware, jobs=jobs)])

    page = await ask(app, "/site/admin/jobs/")

    assert page.status_code == 200
    assert 'href="/site/admin/jobs/queues"' in page.text


async def test_a_middleware_inside_a_mount_serves_its_path_below_it() -> None:
    jobs = local()
    app = Starlette(routes=[Mount("/site", JobsMiddleware(silent, jobs=jobs, path="/jobs"))])

    page = await ask(app, "/site/jobs/")
    other = await ask(app, "/site/other")

    assert page.status_code == 200
    assert 'href="/site/jobs/queues"' in page.text
    assert other.status_code == 204


@pytest.mark.parametrize("path", ["/internal/jobs", "/internal/jobs/"])
async def test_a_deeper_path_serves_the_page_with_or_without_its_last_slash(path: str) -> None:
    app = JobsMiddleware(silent, jobs=local(), path=path)

    page, bare = await ask(app, "/internal/jobs/queues"), await ask(app, "/internal/jobs")

    assert page.status_code == 200
    assert 'href="/internal/jobs/queues"' in page.text
    assert bare.headers["location"] == "/internal/jobs/"


# Mistakes in the wiring


@pytest.mark.parametrize("path", ["jobs", "/", "", "//", 7])
def test_a_path_that_cannot_work_is_refused(path: Any) -> None:
    with pytest.raises(InvalidOption, match="path"):
        JobsMiddleware(silent, jobs=local(), path=path)


@pytest.mark.parametrize("state", ["", "mail jobs", "1st", None])
def test_a_state_that_is_no_name_is_refused(state: Any) -> None:
    with pytest.raises(InvalidOption, match="state"):
        JobsMiddleware(silent, jobs=local(), state=state)


def test_something_else_than_a_jobs_is_refused() -> None:
    with pytest.raises(InvalidOptionType, match="must be a Jobs"):
        JobsMiddleware(silent, jobs="jobs")  # type: ignore[arg-type]


# What listeners see of a life with the middleware


async def test_listeners_hear_of_a_job_enqueued_in_start_up() -> None:
    jobs, heard = local(), []
    jobs.subscribe(lambda event: heard.append(event.kind))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        jobs.enqueue(noop)
        yield

    server = Server(JobsMiddleware(Starlette(lifespan=lifespan), jobs=jobs))
    await server.startup()
    await jobs.join()
    await server.shutdown()

    assert heard == ["enqueued", "started", "succeeded"]
    assert Event.__slots__ == ("kind", "job", "at")
