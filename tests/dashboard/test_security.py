"""Hostile text, hostile requests, and that no route can forget to ask who is there."""

from __future__ import annotations

import html
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs, JobState
from asgi_jobs.dashboard import routes
from asgi_jobs.dashboard.assets import load_assets
from asgi_jobs.dashboard.jobpage import JobPage
from asgi_jobs.dashboard.masking import visible

from .conftest import Site
from .haunted import HOSTILE, HOUR, ROUTES, every_page, every_route, haunted, sendable

PARAMETERS = (
    *("state", "queue", "task", "q", "before", "limit", "start"),
    *("confirm", "did", "n", "skipped", "key"),
)
ACTS = [path for method, path in every_route() if method == "POST"]
AROUND = ["/nothing", "//", "/jobs//", "/%2e%2e/jobs", "/%2e%2e%2fjobs", "/jobs%2fx", "/assets/", "/assets/../jobs"]
"""Addresses that are none."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def open_jobs(**settings: Any) -> Jobs:
    return Jobs(authorize=lambda request: True, **settings)


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check_page(page: str) -> None:
    """No element, script, style or address that is not ours."""
    for tag, attributes in Elements(page).found:
        assert tag != "x-evil"
        assert tag not in {"style", "iframe", "base", "object"}
        assert not [name for name in attributes if name.startswith("on") or name == "style"], attributes
        for name in ("href", "src", "action", "formaction"):
            address = attributes.get(name)
            if address is not None:
                assert re.match(r"/jobs(/|$)|#|\?|data:image/svg", address), address
                assert "//" not in address.partition("data:")[0]
    assert "7*7" in page or "49" not in re.findall(r">(\d+)<", page)
    page.encode()
    seen = re.sub(r' value="[^"]*"', "", page)  # what a form sends back must be exact, and nobody reads it
    assert "\u202e" not in seen
    assert "\x00" not in page


def check_headers(answer: httpx.Response) -> None:
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["content-security-policy"]
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers.get_list("cache-control") in (
        ["no-store"],
        ["private, max-age=31536000, immutable"],
    )


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_hostile_text_of_a_job_stays_text_on_every_page(site: Site, tmp_path: Path, kind: str, text: str) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db" if kind == "sqlite" else None
    async with haunted([text], url) as (jobs, made):
        client = site(jobs)
        for path in every_page([job.id for job in made]):
            answer = await client.get(path)
            assert answer.status_code == (200 if jobs.durable or path != "/workers" else 404), path
            assert visible(sendable(text)) in html.unescape(answer.text), path
            check_page(answer.text)
            check_headers(answer)
            data = await client.get(path, headers={"accept": "application/json"})
            assert (data.status_code, data.headers["content-type"]) == (answer.status_code, "application/json"), path
            assert data.content.isascii()
            data.json()
            check_headers(data)


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_of_a_request_stays_text(site: Site, text: str) -> None:
    jobs = open_jobs()
    async with jobs:
        await ask_everything(site(jobs), text)


async def ask_everything(client: httpx.AsyncClient, text: str) -> None:
    sent = text.encode("utf-8", "replace").decode()
    pages = [path for path in [*every_page(["x"]), "/nothing"] if path != "/jobs/x"]
    for name in (*PARAMETERS, sent):
        for path in pages:
            for accept in ("text/html", "application/json"):
                answer = await client.get(path, params={name: sent}, headers={"accept": accept})
                assert answer.status_code in {200, 404, 422}, path
                if accept == "text/html":
                    check_page(answer.text)
                else:
                    answer.json()
                check_headers(answer)
    for name in ("id", "queue", "task", "q", "back", "reason", "state", "before", "limit", sent):
        for path in ACTS:
            answer = await client.post(path, data={name: sent})
            assert answer.status_code in {303, 400, 404, 409, 422}, path
            check_headers(answer)
            assert re.match(r"/jobs/[a-z?]*", answer.headers.get("location", "/jobs/"))


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/<x-evil>",
        "/%3Cx-evil%3E",
        "/jobs/%00",
        "/jobs/%ff%fe",
        "/jobs/a%2fb",
        "/jobs/..%2f..%2fetc",
        "/jobs//",
        "/%2e%2e/",
        "/jobs/%F0%9F%98%80",
        "/jobs/" + "a" * 5_000,
    ],
)
async def test_hostile_paths_are_unknown_and_nothing_else(site: Site, path: str) -> None:
    answer = await site(open_jobs()).get(path)
    assert answer.status_code == 404
    check_page(answer.text)
    check_headers(answer)


def test_the_walk_sees_every_address_of_the_design() -> None:
    assert set(every_route()) >= {
        ("GET", "/"),
        ("GET", "/jobs"),
        ("GET", "/jobs/x"),
        ("GET", "/queues"),
        ("GET", "/tasks"),
        ("GET", f"/assets/{load_assets()['app.js'].name}"),
        ("GET", "/workers"),
        ("POST", "/jobs/x/cancel"),
        ("POST", "/jobs/x/retry"),
        ("POST", "/jobs/x/release"),
        ("POST", "/jobs/cancel"),
        ("POST", "/jobs/retry"),
        ("POST", "/queues/pause"),
        ("POST", "/queues/resume"),
        ("POST", "/queues/cancel"),
        ("POST", "/tasks/run"),
    }


def test_every_parameter_that_a_page_reads_is_among_those_that_are_tried() -> None:
    code = "".join(path.read_text() for path in Path(routes.__file__).parent.glob("*.py"))
    read = re.findall(r"""(?:query\.get\(|one\([\w.]+, )"(\w+)\"""", code)
    assert {name for name in read if name not in {"reason", "task", "queue"}} <= {*PARAMETERS}


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
@pytest.mark.parametrize(
    ("method", "path"), [*every_route(), *(("GET", path) for path in AROUND), ("PUT", "/jobs"), ("OPTIONS", "/")]
)
async def test_no_route_answers_whom_the_rule_refuses(site: Site, method: str, path: str, accept: str) -> None:
    headers = {"accept": accept, "origin": "https://evil.example", "access-control-request-method": "POST"}
    refused = await site(Jobs(authorize=lambda request: False)).request(method, path, headers=headers)
    assert refused.status_code == 403
    check_headers(refused)


ELSEWHERE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://test:81"},
]


@pytest.mark.parametrize("path", ACTS)
async def test_no_route_that_acts_obeys_readers_or_other_sites(site: Site, path: str) -> None:
    form = {"queue": "q", "id": "x", "task": "t"}
    answers = [await site(Jobs(authorize=lambda request: "read")).post(path, data=form)]
    answers += [await site(open_jobs()).post(path, data=form, headers=headers) for headers in ELSEWHERE]
    for answer in answers:
        assert answer.status_code == 403
        check_headers(answer)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_looking_changes_nothing(site: Site, tmp_path: Path, kind: str) -> None:
    jobs = open_jobs(store=f"sqlite+aiosqlite:///{tmp_path}/jobs.db" if kind == "sqlite" else None)
    task = jobs.task(print)
    async with jobs:
        job = await task.using(delay=HOUR, queue="q").enqueue("never")
        ended = await task.using(delay=HOUR).enqueue("never")
        await ended.cancel()
        client = site(jobs)

        async def all_there_is() -> list[object]:
            paths = ("/jobs", "/queues", f"/jobs/{job.id}", f"/jobs/{ended.id}")
            return [(await client.get(path, headers={"accept": "application/json"})).json() for path in paths]

        before = await all_there_is()
        fields = {"queue": "q", "id": job.id, "task": task.key, "confirm": "all", "did": "cancel", "state": "scheduled"}
        for _, path in [*every_route(job.id), *every_route(ended.id)]:
            for method in ("GET", "HEAD"):
                await client.request(method, path, params=fields)
        assert await all_there_is() == before


async def test_the_key_stands_in_no_answer_of_any_route(site: Site) -> None:
    jobs = Jobs()
    key = jobs.access.key.value
    task = jobs.task(print)
    async with jobs:
        job = await task.enqueue("done").wait()
        client = site(jobs)
        welcome = await client.get("/", params={"key": key, "q": "x"})
        answers = [welcome]
        for accept in ("text/html", "application/json"):
            for method, path in [*every_route(job.id), *(("GET", path) for path in AROUND)]:
                form = {"queue": "q", "id": job.id, "task": task.key} if method == "POST" else None
                headers = {"accept": accept, "referer": f"http://test/jobs/?key={key}"}
                answers.append(await client.request(method, path, data=form, headers=headers))
        await jobs.join()
    assert welcome.status_code == 303
    for answer in answers:
        assert answer.status_code != 403
        assert key not in answer.text
        assert key not in str(answer.headers)
        assert jobs.access.cookie not in answer.text


def test_key_and_cookie_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    access = Jobs().access
    monkeypatch.setattr("asgi_jobs.dashboard.access.hmac.compare_digest", compare)
    assert access.opens(access.key.value)
    assert not access.opens("wrong")
    assert compared == [(access.key.bytes, access.key.bytes), (b"wrong", access.key.bytes)]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_every_answer_has_its_headers(site: Site, tmp_path: Path, kind: str) -> None:
    jobs = open_jobs(store=f"sqlite+aiosqlite:///{tmp_path}/jobs.db" if kind == "sqlite" else None)
    task = jobs.task(print)
    seen = set()
    async with jobs:
        job = await task.using(delay=HOUR).enqueue("never")
        client = site(jobs)
        tag = (await client.get("/")).headers["etag"]
        for method, path in [*every_route(job.id), *(("GET", path) for path in AROUND), ("PUT", "/"), ("POST", "/")]:
            for more in ({}, {"accept": "application/json"}, {"if-none-match": tag}):
                headers = {"origin": "http://test", **more}
                answer = await client.request(method, path, data={"queue": "q", "task": task.key}, headers=headers)
                check_headers(answer)
                seen.add(answer.status_code)
    stopped = await site(jobs).get("/")
    check_headers(stopped)
    assert stopped.status_code == (503 if kind == "sqlite" else 200)
    assert seen == {200, 303, 304, 404, 405, 409}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_arguments_are_never_shown(site: Site, tmp_path: Path, kind: str) -> None:
    jobs = open_jobs(store=f"sqlite+aiosqlite:///{tmp_path}/jobs.db" if kind == "sqlite" else None)

    @jobs.task(key="shop:charge")
    async def charge(card: str, code: str) -> None:
        raise ValueError("declined")

    async with jobs:
        failed = await charge.enqueue("visa-4111", code="the c0de").wait()
        waits = await charge.using(delay=HOUR, name="Charge").enqueue("visa-4111", code="the c0de")
        client = site(jobs)
        for path in every_page([failed.id, waits.id]):
            for accept in ("text/html", "application/json"):
                said = (await client.get(path, headers={"accept": accept})).text
                assert "visa-4111" not in said, path
                assert "the c0de" not in said, path
        assert "No job matches" in (await client.get("/jobs?q=visa-4111")).text


async def test_nothing_is_imported_or_run_because_a_row_names_it(site: Site, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    async with Jobs(store=url, concurrency=0) as other:
        named = await other.task(key="antigravity:geohash")(print).enqueue("never")
        ended = await other.task(key="this:s")(repr).enqueue("never")
        await ended.cancel()
    jobs = open_jobs(store=url)
    async with jobs:
        client = site(jobs)
        for path in every_page([named.id, ended.id]):
            assert (await client.get(path)).status_code == 200
        assert (await client.post(f"/jobs/{ended.id}/retry")).status_code == 303  # for a process that knows its task
        assert (await client.post("/tasks/run", data={"task": "antigravity:geohash"})).status_code == 404
        await jobs.enqueue(jobs.task(len), []).wait()  # by then it would have run those before it
        states = [job.state for job in await jobs.find()]
        assert states == [JobState.SUCCEEDED, JobState.QUEUED, JobState.CANCELLED, JobState.QUEUED]
    assert not {"antigravity", "this"} & set(sys.modules)


def test_no_line_of_the_package_unpickles_or_evaluates() -> None:
    package = Path(routes.__file__).parents[1]
    code = {path.name: path.read_text() for path in package.rglob("*.py")}
    for name, text in code.items():
        assert not re.search(r"\b(pickle|marshal|shelve|dill|yaml)\b\.?load|\bexec\(", text), name
        assert "eval(" not in text or name == "planner.py", name  # annotations of functions that were declared
        assert "import_module" not in text or name == "__main__.py", name  # what its command line names


async def test_the_403_page_needs_no_asset_and_allows_its_few_rules_by_their_hash(site: Site) -> None:
    answer = await site(Jobs()).get("/")
    elements = Elements(answer.text).found
    assert [tag for tag, _ in elements if tag in {"script", "img"}] == []
    assert [attributes["href"] for tag, attributes in elements if tag == "link"] == ["data:,"]
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/=]{44}'", answer.headers["content-security-policy"])


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=1e3",
        "limit=%C2%B2",
        "limit=+5",
        "limit=1&limit=2",
        "state=done",
        "state=failed&state=failed",
        "q=a&q=b",
        "queue=a&queue=a",
        "before=1&before=2",
        "limit=99999999999",
        "q=" + "x" * 501,
        "q=%00",
        "queue=a%00b",
    ],
)
async def test_parameters_that_make_no_sense_are_refused(site: Site, query: str) -> None:
    assert (await site(open_jobs()).get(f"/jobs?{query}")).status_code == 422


@pytest.mark.parametrize("path", every_page(["x"]))
async def test_no_page_breaks_over_parameters_that_make_no_sense(site: Site, path: str) -> None:
    client = site(open_jobs())
    for name in PARAMETERS:
        for value in ("-1", "0", "1e9", "9" * 400, "²", "x" * 501, "\0", ""):
            for values in ([value], [value, value]):
                answer = await client.get(path, params={name: values})
                assert answer.status_code in {200, 404, 422}, (path, name, value)


async def test_a_huge_limit_is_capped(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        for _ in range(205):
            jobs.enqueue(print, delay=HOUR)
        answer = await site(jobs).get("/jobs?limit=99999999", headers={"accept": "application/json"})
    assert len(answer.json()["jobs"]) == 200
    assert answer.json()["next"] == answer.json()["jobs"][-1]["id"]


async def test_a_search_looks_at_a_bounded_number_of_jobs_and_never_at_what_is_masked(site: Site) -> None:
    jobs = open_jobs()

    async def leaky() -> None:
        raise ConnectionError("cannot reach postgresql://app:s3cret@db/shop")

    async with jobs:
        await jobs.enqueue(leaky, name="redis://:s3cret@cache").wait()
        client = site(jobs)
        assert "No job matches" in (await client.get("/jobs?q=s3cret")).text
        assert "leaky" in (await client.get("/jobs?q=cannot+reach")).text
        for path in ("/", "/jobs", f"/jobs/{(await jobs.find())[0].id}"):
            for accept in ("text/html", "application/json"):
                assert "s3cret@" not in (await client.get(path, headers={"accept": accept})).text


async def test_forms_of_the_wrong_type_size_or_shape_are_refused(site: Site) -> None:
    client = site(open_jobs())
    assert (await client.post("/queues/pause", json={"queue": "q"})).status_code == 415
    assert (await client.post("/queues/pause", content=b"queue=q")).status_code == 415
    assert (await client.post("/queues/pause", data={"queue": "q" * 300_000})).status_code == 413

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 10_000

    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await client.post("/queues/pause", content=endless(), headers=form)).status_code == 413
    files = await client.post("/queues/pause", files={"queue": ("a.txt", b"q")})
    assert files.status_code == 400
    broken = await client.post(
        "/queues/pause", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= broken.status_code < 500
    twice = await client.post("/queues/pause", data={"queue": ["a", "b"]})
    assert twice.status_code == 422
    many = await client.post("/jobs/cancel", data={"id": [str(number) for number in range(2_000)]})
    assert many.status_code == 400


def test_only_pages_and_assets_answer_a_get() -> None:
    """By name: what acts must not come to be among them."""
    pages = {"/", "/jobs", "/jobs/{id}", "/queues", "/tasks", "/workers", "/assets/{name}"}
    assert {route.path for route in ROUTES if (route.methods or set()) & {"GET", "HEAD"}} == pages


ALLOWED: dict[str, set[str]] = {}
for _method, _path in every_route():
    ALLOWED.setdefault(_path, set()).add(_method)


@pytest.mark.parametrize("path", ALLOWED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused_with_those_that_are_allowed(site: Site, method: str, path: str) -> None:
    answer = await site(open_jobs()).request(method, path)
    check_headers(answer)
    assert (answer.status_code == 405) == (method not in ALLOWED[path])
    if answer.status_code == 405:
        assert set(answer.headers["allow"].split(", ")) <= ALLOWED[path]


@pytest.mark.parametrize("path", ACTS)
async def test_no_route_that_acts_reads_what_is_no_form_or_too_large_a_one(site: Site, path: str) -> None:
    client = site(open_jobs())
    for answer, status in (
        (await client.post(path, json={"queue": "q"}), 415),
        (await client.post(path, content=b"queue=q", headers={"content-type": "text/plain"}), 415),
        (await client.post(path, data={"queue": "q" * 300_000}), 413),
    ):
        assert answer.status_code == status
        check_headers(answer)


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/\\evil.example", "/a\r\nset-cookie: x=1", "https://evil.example"]
)
async def test_redirects_stay_on_this_site_whatever_the_prefix_says(prefix: str) -> None:
    transport = httpx.ASGITransport(open_jobs(), root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        hostile = {"host": "evil.example", "referer": "http://evil.example/"}
        answer = await client.post("/queues/pause", data={"queue": "q", "back": "//evil.example"}, headers=hostile)
        page = (await client.get("/", headers=hostile)).text
    location = answer.headers["location"]
    assert re.match(r"/[^/\\]", location), location
    assert "\r" not in location
    assert "\n" not in location
    for tag, attributes in Elements(page).found:
        if tag in {"a", "form", "script"}:
            address = attributes.get("href") or attributes.get("action") or attributes.get("src") or "/x"
            assert re.match(r"/[^/\\]|/$|#|\?", address), address


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "///evil.example"])
async def test_the_exchange_of_the_key_leads_to_no_other_site(site: Site, path: str) -> None:
    jobs = Jobs()
    transport = httpx.ASGITransport(jobs)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": f"key={jobs.access.key.value}".encode(), "headers": [(b"host", b"test")], "client": ("1", 1),
        "server": ("test", 80),
    }  # fmt: skip
    await jobs(scope, receive, send)
    assert transport is not None
    location = dict(sent[0]["headers"])[b"location"].decode()
    assert sent[0]["status"] == 303
    assert re.match(r"/[^/\\]", location), location


async def test_assets_are_a_fixed_set_under_names_that_change_with_their_content(site: Site) -> None:
    client = site(open_jobs())
    for asset in load_assets().values():
        answer = await client.get(f"/assets/{asset.name}")
        assert (answer.status_code, answer.content) == (200, asset.content)
        assert "immutable" in answer.headers["cache-control"]
        check_headers(answer)
    for name in ("style.css", "app.js", "..%2f..%2f__init__.py", "%2e%2e/access.py", "app.000000000000.js", ""):
        assert (await client.get(f"/assets/{name}")).status_code == 404


def test_style_and_script_stay_small() -> None:
    assets = load_assets()
    assert len(assets["style.css"].content) <= 16_384
    assert len(assets["app.js"].content) <= 8_192


async def test_a_page_that_breaks_is_a_500_that_tells_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(page: JobPage) -> str:
        raise RuntimeError("s3cret")

    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(print, delay=HOUR)
        monkeypatch.setattr(JobPage, "title", breaks)
        answer = await site(jobs).get(f"/jobs/{job.id}")
    assert answer.status_code == 500
    assert "s3cret" not in answer.text
    assert "s3cret" in caplog.text
    check_headers(answer)


async def test_nothing_but_declared_tasks_can_be_enqueued_from_the_page(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        for name in ("os:system", "builtins:print", "asgi_jobs.app:Jobs", "print"):
            assert (await site(jobs).post("/tasks/run", data={"task": name})).status_code == 404
        assert await jobs.find() == []


async def test_the_host_applications_own_error_pages_are_not_used(site: Site) -> None:
    def outer(request: Any, error: Exception) -> Any:
        raise AssertionError("the outer application answered")

    app = Starlette(routes=[Mount("/jobs", open_jobs())], exception_handlers={404: outer, 405: outer})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/jobs/nothing")).status_code == 404
        assert (await client.delete("/jobs/jobs")).status_code == 405
