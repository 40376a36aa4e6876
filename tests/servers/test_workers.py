"""Several processes of one server on stores in memory, and one that is loaded anew."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import Server, children, granian, hypercorn, lives, until, uvicorn

pytestmark = pytest.mark.processes

APP = "tests.servers.apps.site:app"


def process(server: Server) -> dict[str, Any]:
    """What a process says of itself."""
    found: dict[str, Any] = server.client.get("/process").json()
    return found


def both_know(server: Server) -> bool:
    """Whether two processes have been asked and both have seen the other."""
    said = [process(server) for _ in range(20)]
    return len({one["pid"] for one in said}) == 2 and {one["processes"] for one in said} == {2}


@pytest.mark.parametrize("serve", [uvicorn, hypercorn, granian])
def test_two_workers_both_warn_and_the_page_says_so(serve: Callable[..., AbstractContextManager[Server]]) -> None:
    with serve(APP, "--workers", "2") as server:
        until(lambda: both_know(server))
        page = server.client.get("/jobs/").text
        workers = children(server.process.pid)
        code = server.stop()

        assert server.output.count("2 server processes run this application") == 2
        assert "2 server processes" in page
        assert code in (0, -signal.SIGTERM)
        until(lambda: not [pid for pid in workers if lives(pid)])


def test_jobs_of_every_worker_drain_and_lost_ones_are_named_by_each() -> None:
    with uvicorn(APP, "--workers", "2", SHUTDOWN_SECONDS="1") as server:
        until(lambda: len({process(server)["pid"] for _ in range(20)}) == 2)
        ids = [server.post("/enqueue/forever") for _ in range(12)]
        server.stop()

        assert all(any(id in warning for warning in server.warnings) for id in ids), server.output


def test_a_reload_does_not_warn_and_keeps_the_key(tmp_path: Path) -> None:
    served = tmp_path / "served.py"
    served.write_text("from tests.servers.apps.site import app\n")
    options = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path))
    environment = {"AUTHORIZE": "key", "ASGI_JOBS_KEY": None, "XDG_STATE_HOME": str(tmp_path / "state")}
    with uvicorn("served:app", *options, **environment) as server:
        before = process(server)
        (key,) = {line.partition("?key=")[2].split()[0] for line in server.output.splitlines() if "?key=" in line}
        served.write_text("from tests.servers.apps.site import app  # once more\n")
        until(lambda: "WatchFiles detected" in server.output or "detected changes" in server.output)
        server.says("Application startup complete", times=2)
        after = until(lambda: process(server))
        welcome = server.client.get("/jobs/", params={"key": key})
        opened = server.client.get("/jobs/")
        server.stop()

    assert after["life"] != before["life"]
    assert after["processes"] == 1
    assert "server processes run this application" not in server.output
    assert welcome.status_code == 303
    assert opened.status_code == 200
