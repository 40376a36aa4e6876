"""What a new user does first, in the order in which it is done, with nothing but the README at hand."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from asgi_jobs import Jobs, JobsMiddleware, NotRunning, RequestBound, Retry
from asgi_jobs.engine.neighbours import Neighbours
from asgi_jobs.testing import FakeClock, settle
from tests.servers.testclient import TestClient

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
STARLETTE, FASTAPI = EXAMPLES[1], EXAMPLES[2]
LONG = 60  # seconds; a machine that is busy with other tests is slow to start a server


# A server in a process of its own


class Server:
    """A process and what it says. Nothing here sleeps: it reads until what it waits for has been said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def says(self, pattern: str) -> re.Match[str]:
        """The next line with the pattern."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LONG):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"{pattern!r} was never said:\n{''.join(self.lines)}")

    async def rest(self) -> str:
        """What it says until it ends."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LONG):
            return (await self.process.stdout.read()).decode()


@asynccontextmanager
async def running(directory: Path, *arguments: str) -> AsyncIterator[Server]:
    """`python -m …` in a directory, in a process group that is ended afterwards."""
    home = {"XDG_STATE_HOME": str(directory / "state"), "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
    environment = {name: value for name, value in os.environ.items() if name != "ASGI_JOBS_KEY"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        cwd=directory,
        env={**environment, **home, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Server(process)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has ended this moment
                os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@asynccontextmanager
async def browser(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, follow_redirects=True, trust_env=False, timeout=LONG) as client:
        yield client


UVICORN = ("uvicorn", "app:app", "--port", "0")
ADDRESS = r"running on (http://[\d.]+:\d+)"
KEY = r"add (\?key=\S+) to its address"
STARTED = "startup complete"


# 1. One command shows a running application and a page


@pytest.mark.processes
async def test_one_command_shows_an_application_and_its_page(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"^demo:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = recipe.partition("-m ")[2].split()
    assert "make demo" in README
    async with running(tmp_path, *command, "--port", "0") as server:
        application = await server.says(r"(http://\S+/)$")
        page = await server.says(r"(http://\S+/jobs/\?key=\S+)$")
        async with browser("") as client:
            assert (await client.get(application[1])).status_code == 200
            assert "Airfield jobs" in (await client.get(page[1])).text


# 2. The key in the log works at the first try, also after a reload


@pytest.mark.processes
async def test_the_key_in_the_log_opens_the_page_and_outlives_a_reload(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(STARLETTE)
    async with running(tmp_path, *UVICORN, "--reload") as server:
        address = (await server.says(ADDRESS))[1]
        key = (await server.says(KEY))[1]
        await server.says(STARTED)
        async with browser(address) as client:
            assert (await client.get("/jobs/")).status_code == 403
            assert (await client.get(f"/jobs/{key}")).status_code == 200
            app.write_text(f"{STARLETTE}\n# changed\n")
            assert (await server.says(KEY))[1] == key
            await server.says(STARTED)
            assert (await client.get("/jobs/")).status_code == 200  # by the cookie


@pytest.mark.processes
async def test_who_was_refused_finds_the_key_at_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(STARLETTE)
    async with running(tmp_path, *UVICORN) as server:
        await server.says(STARTED)
        async with browser((await server.says(ADDRESS))[1]) as client:
            refused = await client.get("/jobs/")
            assert refused.status_code == 403
            assert "?key=" in refused.text
            assert "authorize" in refused.text
            assert (await client.get(f"/jobs/{(await server.says(KEY))[1]}")).status_code == 200


# 3. The README's example runs as printed, in an own application


@pytest.mark.processes
@pytest.mark.parametrize("example", [STARLETTE, FASTAPI], ids=["starlette", "fastapi"])
async def test_the_example_runs_as_printed(tmp_path: Path, example: str) -> None:
    (tmp_path / "app.py").write_text(example)
    async with running(tmp_path, *UVICORN) as server:
        async with browser((await server.says(ADDRESS))[1]) as client:
            assert (await client.post("/sign-up?email=ada@example.com")).json()["job"]
        await server.says("Dear ada@example.com, welcome!")


# 4. The session parameter first


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


async def session_first(session: AsyncSession, user_id: int) -> str:
    return (await session.get_one(User, user_id)).email


async def session_last(user_id: int, session: AsyncSession) -> str:
    return await session_first(session, user_id)


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    maker = async_sessionmaker(engine)
    async with maker.begin() as session:
        session.add(User(id=1, email="ada@example.com"))
    yield maker
    await engine.dispose()


@pytest.mark.parametrize("function", [session_first, session_last])
async def test_the_session_may_stand_anywhere(sessions: async_sessionmaker[AsyncSession], function: Any) -> None:
    async with Jobs(authorize="local", session_factory=sessions) as jobs:
        assert await jobs.enqueue(function, 1).result() == "ada@example.com"


# 5. An ORM object in a lambda: refused, and the message has the mended line


async def test_the_line_in_the_message_works(sessions: async_sessionmaker[AsyncSession]) -> None:
    async def send(to: str) -> str:
        return f"sent to {to}"

    async with Jobs(authorize="local") as jobs, sessions() as session:
        user = await session.get_one(User, 1)
        with pytest.raises(RequestBound) as refused:
            jobs.enqueue(lambda: send(user.email))
        mended = re.search(r"jobs\.enqueue\(.*\)", str(refused.value))
        assert mended is not None
        job = eval(mended[0], {"jobs": jobs, "user": user, "send": send})
        assert await job.result() == "sent to ada@example.com"


class EmailSender:
    async def send(self, to: str) -> str:
        return f"sent to {to}"


async def test_the_line_in_the_message_works_for_a_service(sessions: async_sessionmaker[AsyncSession]) -> None:
    from dishka import Provider, Scope

    services = Provider(scope=Scope.REQUEST)
    services.provide(EmailSender)
    async with Jobs(authorize="local", providers=[services]) as jobs, sessions() as session:
        user = await session.get_one(User, 1)
        with pytest.raises(RequestBound) as refused:
            jobs.enqueue_with(EmailSender, lambda s: s.send(user.email))
        mended = re.search(r"jobs\.enqueue_with\(.*\)", str(refused.value))
        assert mended is not None, str(refused.value)
        job = eval(mended[0], {"jobs": jobs, "user": user, "EmailSender": EmailSender})
        assert await job.result() == "sent to ada@example.com"


# 6. A first test that does not start the jobs


def application(jobs: Jobs) -> Starlette:
    async def sign_up(request: Request) -> JSONResponse:
        return JSONResponse({"job": jobs.enqueue(print, "welcome").id})

    routes = [Route("/sign-up", sign_up, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(JobsMiddleware, jobs=jobs)])


REMEDIES = (
    "Middleware(JobsMiddleware, jobs=jobs)",
    "with TestClient(app)",
    "async with jobs:` around",
    "a mounted app gets",
)


def test_a_test_client_without_with_is_told_what_to_do() -> None:
    with pytest.raises(NotRunning) as told:
        TestClient(application(Jobs(authorize="local"))).post("/sign-up")
    assert all(remedy in str(told.value) for remedy in REMEDIES)


async def test_an_asgi_transport_is_told_what_to_do() -> None:
    transport = httpx.ASGITransport(application(Jobs(authorize="local")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(NotRunning) as told:
            await client.post("/sign-up")
    assert all(remedy in str(told.value) for remedy in REMEDIES)


def test_an_application_that_is_only_mounted_is_told_what_to_do() -> None:
    mounted = Starlette(routes=[Mount("/shop", application(Jobs(authorize="local")))])
    with TestClient(mounted) as client, pytest.raises(NotRunning) as told:
        client.post("/shop/sign-up")
    assert all(remedy in str(told.value) for remedy in REMEDIES)


# 8. A job between two attempts, and others behind it


async def test_the_page_says_that_a_queue_waits_for_the_next_attempt() -> None:
    async def unlucky() -> None:
        raise ConnectionError("the mail server is away")

    clock = FakeClock()
    jobs = Jobs(authorize=lambda request: True, clock=clock)
    app = Starlette(routes=[Mount("/jobs", jobs)])
    async with jobs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        retries = Retry(3, base=timedelta(minutes=4), jitter=0)
        first = jobs.enqueue(unlucky, name="Newsletter", queue="email", retries=retries)
        behind = jobs.enqueue(print, name="Receipt", queue="email")
        await clock.advance(timedelta(seconds=90))

        page = plain((await client.get(f"/jobs/jobs/{first.id}")).text)
        assert "2nd try of 4" in page
        assert "in 2 min" in page
        assert "ConnectionError" in page
        page = plain((await client.get(f"/jobs/jobs/{behind.id}")).text)
        assert "Why it has not started" in page
        assert "It is the next" in page
        assert "Newsletter" in page
        page = plain((await client.get("/jobs/")).text)
        assert "Queue email: 1 job waits behind Newsletter" in page
        assert "waits behind Newsletter It is between two attempts: 2nd try of 4" in page


def plain(page: str) -> str:
    """The words of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", page.partition("<main")[2]).split()).replace(" :", ":")


# 9. Four workers


async def test_the_readme_quotes_what_the_log_says_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Neighbours, "count", lambda self: 4)
    async with Jobs(authorize="local"):
        await settle()
        (line,) = (record.getMessage() for record in caplog.records if "server processes" in record.getMessage())
    prose = " ".join(README.split())
    assert "`uvicorn --workers 4`" in prose
    assert f"`{line.partition(',')[0]}`" in prose


# 14. Ctrl-C


SLOW = """
import asyncio
from datetime import timedelta
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from asgi_jobs import Jobs, JobsMiddleware

jobs = Jobs(shutdown_timeout=timedelta(seconds=1))
go_on = asyncio.Event()

async def import_rows():
    print("importing")
    await go_on.wait()

async def start(request):
    for name in ("Import of Monday", "Import of Tuesday"):
        jobs.enqueue(import_rows, queue="import", name=name)
    jobs.enqueue(import_rows, delay=timedelta(hours=1), name="Import of Sunday")
    return JSONResponse({})

async def finish(request):
    await jobs.cancel((await jobs.find(text="Sunday"))[0].id)
    go_on.set()
    return JSONResponse({})

routes = [Route("/start", start, methods=["POST"]), Route("/finish", finish, methods=["POST"])]
app = Starlette(routes=routes, middleware=[Middleware(JobsMiddleware, jobs=jobs)])
"""


@pytest.mark.processes
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "nothing lost"])
async def test_ctrl_c_says_what_was_lost(tmp_path: Path, *, lost: bool) -> None:
    (tmp_path / "app.py").write_text(SLOW)
    async with running(tmp_path, *UVICORN) as server:
        async with browser((await server.says(ADDRESS))[1]) as client:
            await client.post("/start")
            await server.says("importing")
            if not lost:
                await client.post("/finish")
        server.process.send_signal(signal.SIGINT)
        said = await server.rest()
    warning = re.search(
        r"3 jobs were lost at shutdown: 'Import of Monday' \(\w+\) running; "
        r"'Import of Tuesday' \(\w+\) waiting; 'Import of Sunday' \(\w+\) waiting",
        said,
    )
    assert bool(warning) is lost, said
    assert ("lost" in said) is lost
    assert "Traceback" not in said


# 15. How to test own jobs


def test_the_readme_says_how_to_test_own_jobs() -> None:
    assert "[Testing](#testing-your-jobs)" in README.partition("\n## ")[0]
    section = README.partition("\n## Testing your jobs\n")[2].partition("\n## ")[0]
    for needed in (
        "with TestClient(app)",
        "httpx.ASGITransport",
        "async with jobs",
        "jobs.join",
        "FakeClock",
        "advance",
    ):
        assert needed in section
