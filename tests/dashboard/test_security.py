"""Hostile text, hostile requests, and that no route can forget to ask who is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs, current_job
from asgi_jobs.dashboard.assets import load_assets
from asgi_jobs.dashboard.jobpage import JobPage
from asgi_jobs.dashboard.routes import Dashboard

from .conftest import Site

HOUR = timedelta(hours=1)
HOSTILE = [
    "<x-evil onload=alert(1)>",
    '"><x-evil>',
    "'><x-evil>",
    "</title></textarea></script><x-evil>",
    "{{7*7}}{% for x in y %}",
    "javascript:alert(1)//",
    "]]><x-evil/>",
    "\u202egnp.exe",
    "nul\x00nul",
    "half \ud800 pair",
    "/../..//evil.example",
]
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
async def test_hostile_text_of_a_job_stays_text_on_every_page(site: Site, text: str) -> None:
    jobs = open_jobs(title=f"T {text}"[:200].replace("\ud800", "?").replace("\x00", "?"))
    queue = text.replace("\x00", "0").replace("\ud800", "8")

    async def hostile() -> None:
        current_job().log(text)
        current_job().progress(1, 2, text)
        raise type(f"E{text}".replace("\x00", "").replace("\ud800", ""), (Exception,), {})(text)

    hostile.__doc__ = text.replace("\x00", "")
    jobs.task(key=f"k{queue}")(hostile)
    async with jobs:
        failed = jobs.using(name=text, queue=queue).enqueue(hostile)
        await failed.wait()
        waiting = jobs.using(name=text, queue=queue, delay=HOUR).enqueue(hostile)
        ended = jobs.using(name=text, queue=queue, delay=HOUR).enqueue(hostile)
        await ended.cancel(text.replace("\x00", "").replace("\ud800", ""))
        client = site(jobs)
        paths = [
            "/",
            "/jobs",
            "/jobs?state=failed",
            "/queues",
            "/tasks",
            *(f"/jobs/{job.id}" for job in (failed, waiting, ended)),
        ]
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 200, path
            check_page(answer.text)
            check_headers(answer)
            data = await client.get(path, headers={"accept": "application/json"})
            assert data.status_code == 200, path
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
    for name in (
        "state",
        "queue",
        "task",
        "q",
        "before",
        "limit",
        "start",
        "confirm",
        "did",
        "n",
        "skipped",
        "key",
        text,
    ):
        for path in ("/", "/jobs", "/queues", "/nothing"):
            answer = await client.get(path, params={name.encode("utf-8", "replace").decode(): sent})
            assert answer.status_code < 500
            check_page(answer.text)
            check_headers(answer)
    for name in ("id", "queue", "task", "q", "back", "reason", "state"):
        for path in ("/jobs/cancel", "/jobs/x/cancel", "/queues/pause", "/tasks/run"):
            answer = await client.post(path, data={name: sent})
            assert answer.status_code < 500
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


def every_route() -> Iterator[tuple[str, str]]:
    for route in Dashboard(Jobs()).routes():
        for method in sorted(route.methods or ()):
            yield method, route.path.replace("{id}", "x").replace("{name}", "y")


def test_the_walk_sees_every_address_of_the_design() -> None:
    assert set(every_route()) >= {
        ("GET", "/"),
        ("GET", "/jobs"),
        ("GET", "/jobs/x"),
        ("GET", "/queues"),
        ("GET", "/tasks"),
        ("GET", "/assets/y"),
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


@pytest.mark.parametrize(("method", "path"), [*every_route(), ("GET", "//"), ("PUT", "/jobs"), ("GET", "/nothing")])
async def test_no_route_answers_whom_the_rule_refuses(site: Site, method: str, path: str) -> None:
    refused = await site(Jobs(authorize=lambda request: False)).request(method, path)
    assert refused.status_code == 403
    check_headers(refused)


@pytest.mark.parametrize("path", [path for method, path in every_route() if method == "POST"])
async def test_no_route_that_acts_obeys_readers_or_other_sites(site: Site, path: str) -> None:
    form = {"queue": "q", "id": "x", "task": "t"}
    reader = await site(Jobs(authorize=lambda request: "read")).post(path, data=form)
    stranger = await site(open_jobs()).post(path, data=form, headers={"sec-fetch-site": "cross-site"})
    assert (reader.status_code, stranger.status_code) == (403, 403)
    check_headers(reader)
    check_headers(stranger)


@pytest.mark.parametrize(("method", "path"), [*every_route()])
async def test_looking_changes_nothing(site: Site, method: str, path: str) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(print, "never", delay=HOUR, queue="q")
        client = site(jobs)
        before = jobs.revision
        for safe in ("GET", "HEAD"):
            await client.request(safe, path.replace("/x", f"/{job.id}"), params={"queue": "q", "id": job.id})
        assert jobs.revision == before


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


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused_with_those_that_are_allowed(site: Site, method: str) -> None:
    answer = await site(open_jobs()).request(method, "/jobs")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    check_headers(answer)


@pytest.mark.parametrize("path", ["/jobs/cancel", "/jobs/retry", "/queues/pause", "/tasks/run", "/jobs/x/cancel"])
async def test_what_acts_is_not_got(site: Site, path: str) -> None:
    answer = await site(open_jobs()).get(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


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
