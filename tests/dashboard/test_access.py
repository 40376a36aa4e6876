"""Who may look, and who may act."""

from __future__ import annotations

import logging
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from asgi_jobs import Jobs, JobState
from asgi_jobs.dashboard import keyfile
from asgi_jobs.dashboard.access import is_local
from asgi_jobs.dashboard.keyfile import find_key, state_directory
from asgi_jobs.testing import FakeClock

from .conftest import Site

HOUR = timedelta(hours=1)


def key_in(text: str) -> str:
    found = re.search(r"\?key=(\S+)", text)
    assert found, text
    return found[1]


# The key


async def test_the_page_is_closed_to_everybody_without_the_key(site: Site) -> None:
    answer = await site(Jobs()).get("/")
    assert answer.status_code == 403
    assert "?key=" in answer.text
    assert "authorize" in answer.text
    assert key_in(f"?key={find_key().value}") not in answer.text


async def test_the_key_of_the_log_opens_the_page_at_the_first_try(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs()
    with caplog.at_level(logging.INFO, "asgi_jobs"):
        async with jobs.lifespan():
            client = site(jobs)
            welcome = await client.get(f"/jobs?state=failed&key={key_in(caplog.text)}&limit=5")
            assert (welcome.status_code, welcome.headers["location"]) == (303, "/jobs/jobs?state=failed&limit=5")
            page = await client.get("/jobs?state=failed&limit=5")
    assert page.status_code == 200


async def test_the_cookie_is_kept_from_scripts_other_sites_other_paths_and_does_not_tell_the_key(
    site: Site,
) -> None:
    answer = await site(Jobs()).get(f"/?key={find_key().value}")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/jobs;" in cookie
    assert "Secure" not in cookie
    assert find_key().value not in str(answer.headers)


async def test_under_https_the_cookie_is_secure() -> None:
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/jobs", Jobs())]))
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as client:
        answer = await client.get(f"/jobs/?key={find_key().value}")
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("given", ["wrong", "", "ä", "%00", "%ff"])
async def test_a_wrong_key_opens_nothing_and_is_not_repeated(site: Site, given: str) -> None:
    answer = await site(Jobs()).get(f"/?key={given}x9y8z7")
    assert answer.status_code == 403
    assert "x9y8z7" not in answer.text
    assert "set-cookie" not in answer.headers


async def test_two_keys_are_none(site: Site) -> None:
    key = find_key().value
    assert (await site(Jobs()).get(f"/?key={key}&key={key}")).status_code == 403


async def test_the_key_itself_as_a_cookie_opens_nothing(site: Site) -> None:
    client = site(Jobs())
    name = (await client.get(f"/?key={find_key().value}")).headers["set-cookie"].partition("=")[0]
    client.cookies.clear()
    answer = await client.get("/", headers={"cookie": f"{name}={find_key().value}"})
    assert answer.status_code == 403


async def test_the_key_is_not_taken_with_a_post(site: Site) -> None:
    jobs = Jobs()
    async with jobs:
        job = jobs.enqueue(print, delay=HOUR)
        answer = await site(jobs).post(f"/jobs/{job.id}/cancel?key={find_key().value}")
        assert answer.status_code == 403
        assert job.state is JobState.SCHEDULED


async def test_the_environment_gives_the_key_and_the_log_does_not_tell_it(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_JOBS_KEY", "correct horse")
    jobs = Jobs()
    with caplog.at_level(logging.INFO, "asgi_jobs"):
        async with jobs.lifespan():
            assert (await site(jobs).get("/?key=correct+horse")).status_code == 303
    assert "?key=$ASGI_JOBS_KEY" in caplog.text
    assert "correct horse" not in caplog.text


async def test_who_is_refused_finds_the_key_in_the_log_once_a_minute(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    client = site(Jobs(clock=clock))
    for _ in range(3):
        await client.get("/")
    assert caplog.text.count("?key=") == 1
    await clock.advance(timedelta(seconds=61))
    await client.get("/")
    assert caplog.text.count("?key=") == 2


async def test_with_a_rule_of_ones_own_there_is_no_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(authorize=lambda request: False)
    with caplog.at_level(logging.INFO, "asgi_jobs"):
        async with jobs.lifespan():
            answer = await site(jobs).get(f"/?key={find_key().value}")
    assert answer.status_code == 403
    assert "key" not in caplog.text
    assert "key" not in answer.text


# The key's file


def test_the_key_is_kept_in_a_file_that_only_its_user_can_read() -> None:
    key = find_key()
    path = state_directory() / "key"
    assert (key.origin, path.read_text()) == ("file", key.value)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_key() == key


def test_a_file_that_others_can_read_is_not_trusted() -> None:
    kept = find_key()
    (state_directory() / "key").chmod(0o644)
    key = find_key()
    assert key.origin == "process"
    assert key.value != kept.value


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("k" * 40)
    (tmp_path / "elsewhere").chmod(0o600)
    state_directory().mkdir(parents=True)
    (state_directory() / "key").symlink_to(tmp_path / "elsewhere")
    assert find_key().origin == "process"


def test_where_no_file_can_be_kept_each_process_has_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    key = find_key()
    assert key.origin == "process"
    assert len(key.value) >= 32


def test_a_relative_state_directory_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == tmp_path / ".local" / "state" / "asgi_jobs"


def test_of_two_processes_that_write_the_key_the_first_one_counts() -> None:
    kept = find_key()
    keyfile._create(state_directory() / "key", "k" * 32)
    assert find_key() == kept
    assert [path.name for path in state_directory().iterdir()] == ["key"]


@pytest.mark.processes
def test_processes_that_start_together_share_one_key() -> None:
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['find_key']().value)"
    started = [
        subprocess.Popen([sys.executable, "-c", code, keyfile.__file__], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [path.name for path in state_directory().iterdir()] == ["key"]


async def test_dashboards_below_one_another_have_cookies_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")  # a key each
    outer, inner = Jobs(), Jobs()
    routes = [Mount("/a/jobs", inner), Mount("/a", outer)]
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for jobs, path in ((outer, "/a/"), (inner, "/a/jobs/")):
            assert (await client.get(path, params={"key": jobs.access.key.value})).status_code == 303
        assert [(await client.get(path)).status_code for path in ("/a/", "/a/jobs/")] == [200, 200]


# A rule of one's own


async def answers(value: Any) -> Any:
    return value


def raises(request: Request) -> bool:
    raise LookupError(request.url.path)


async def forgets_to_await(request: Request) -> Any:
    return answers(True)


REFUSED: list[Callable[[Request], Any]] = [
    lambda request: False,
    lambda request: None,
    lambda request: 1,
    lambda request: "yes",
    lambda request: "write",
    lambda request: ["read"],
    lambda request: answers(None),
    raises,
    forgets_to_await,
]


@pytest.mark.parametrize("rule", REFUSED)
async def test_anything_but_a_clear_yes_is_refused(site: Site, rule: Callable[[Request], Any]) -> None:
    client = site(Jobs(authorize=rule))
    assert (await client.get("/")).status_code == 403
    assert (await client.post("/queues/pause", data={"queue": "q"})).status_code == 403


@pytest.mark.parametrize("rule", [lambda request: True, lambda request: answers(True)])
async def test_a_rule_may_be_sync_or_async(site: Site, rule: Callable[[Request], Any]) -> None:
    assert (await site(Jobs(authorize=rule)).get("/")).status_code == 200


async def test_a_rule_is_asked_once_a_request_whatever_the_path(site: Site) -> None:
    asked: list[str] = []

    def rule(request: Request) -> bool:
        asked.append(request.url.path)
        return True

    client = site(Jobs(authorize=rule))
    for path in ("/", "/jobs", "/jobs/x", "/nothing", "/assets/app.js", "//", "/%2e%2e/jobs"):
        asked.clear()
        await client.get(path)
        assert len(asked) == 1, path


async def test_readers_see_no_button_and_are_refused_on_the_server(site: Site) -> None:
    jobs = Jobs(authorize=lambda request: "read")
    jobs.task(fine)
    async with jobs:
        job = jobs.enqueue(fine, delay=HOUR, queue="q")
        client = site(jobs)
        for path in ("/", "/jobs", f"/jobs/{job.id}", "/queues", "/tasks"):
            page = (await client.get(path)).text
            assert 'method="post"' not in page, path
            assert "You may look, not act" in page, path
        for path in (f"/jobs/{job.id}/cancel", "/queues/cancel", "/tasks/run", "/jobs/cancel", "/nothing"):
            answer = await client.post(path, data={"queue": "q", "task": "x"})
            assert answer.status_code == 403, path
        assert job.state is JobState.SCHEDULED


async def fine() -> None: ...


# Local


def request(client: tuple[str, int] | None = ("127.0.0.1", 5), host: str = "localhost:8000", **more: str) -> Request:
    headers = [(b"host", host.encode()), *((n.replace("_", "-").encode(), v.encode()) for n, v in more.items())]
    return Request({"type": "http", "method": "GET", "path": "/", "client": client, "headers": headers})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "[::1]", "127.1.2.3"])
@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_local(host: str, client: str) -> None:
    assert is_local(request((client, 5), host))


@pytest.mark.parametrize(
    "stranger",
    [
        request(client=None),
        request(client=("10.0.0.7", 5)),
        request(client=("testclient", 5)),
        request(host="evil.example"),  # a name that points at 127.0.0.1
        request(host="localhost.evil.example"),
        request(host="127.0.0.1.evil.example"),
        request(host="[::1].evil.example"),
        request(host=""),
        request(x_forwarded_for="10.0.0.7"),
        request(x_forwarded_host="localhost"),
        request(forwarded="for=127.0.0.1"),
        request(x_real_ip="127.0.0.1"),
        request(via="1.1 proxy"),
    ],
)
def test_whoever_may_come_from_elsewhere_is_not_local(stranger: Request) -> None:
    assert not is_local(stranger)


async def test_local_opens_the_page_to_this_machine_only(site: Site) -> None:
    client = site(Jobs(authorize="local"))
    assert (await client.get("/", headers={"host": "localhost:8000"})).status_code == 200
    refused = await client.get("/", headers={"host": "localhost:8000", "x-forwarded-for": "10.0.0.7"})
    assert refused.status_code == 403
    assert "machine" in refused.text
