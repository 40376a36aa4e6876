"""Each framework once, wrapped, in a real server: enqueue, run, look, drain."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.servers.process import KEY, Server, uvicorn

pytestmark = pytest.mark.processes

FRAMEWORKS = pytest.mark.parametrize("name", ["litestar", "quart", "django", "fastapi"])


def serve(name: str, tmp_path: Path, authorize: str) -> Server:
    return uvicorn(f"tests.servers.apps.{name}_app:app", AUTHORIZE=authorize, DATABASE=str(tmp_path / "notes.db"))


@FRAMEWORKS
def test_a_wrapped_application_has_jobs_and_a_page_and_drains(name: str, tmp_path: Path) -> None:
    with serve(name, tmp_path, "local") as server:
        first = server.post("/enqueue")
        job = server.wait_for(first, "succeeded")
        page = server.client.get("/jobs/")
        bare = server.client.get("/jobs")
        server.post("/enqueue")
        server.says("[job begins]")
        code = server.stop()

    assert job["queue"] is None
    assert page.status_code == 200
    assert "Background jobs" in page.text
    assert bare.headers["location"].endswith("/jobs/")
    assert code in (0, -signal.SIGTERM)
    lines = [line for line in server.told if not line.startswith("application starts")]
    assert lines[:4] == ["job begins", "job ends", "job begins", "job ends"], server.output
    if name != "django":  # which has no lifespan
        assert lines[4:] == ["application stops with 2 notes" if name == "fastapi" else "application stops"]
    assert "lost at shutdown" not in server.output
    assert "Traceback" not in server.output


@FRAMEWORKS
def test_the_page_opens_with_the_key_only(name: str, tmp_path: Path) -> None:
    with serve(name, tmp_path, "key") as server:
        refused = server.client.get("/jobs/")
        wrong = server.client.get("/jobs/?key=wrong")
        welcome = server.client.get("/jobs/", params={"key": KEY})
        opened = server.client.get(welcome.headers["location"])

    assert (refused.status_code, wrong.status_code) == (403, 403)
    assert welcome.status_code == 303
    assert opened.status_code == 200
    assert KEY not in server.output


def test_fastapi_jobs_use_the_generator_dependency_of_the_handlers(tmp_path: Path) -> None:
    with serve("fastapi", tmp_path, "local") as server:
        good = server.post("/enqueue?text=good")
        bad = server.post("/enqueue?text=bad")
        failed = server.wait_for(bad, "failed")
        server.wait_for(good, "succeeded")
        notes = server.client.get("/notes").json()

    assert notes == ["good"]  # what the failed job had flushed was rolled back
    assert failed["error"]["message"] == "after the flush"
    assert "uncommitted" not in server.output
