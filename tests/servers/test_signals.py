"""Real servers and the signals that end them."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from tests.servers.process import Process, Server, granian, hypercorn, until, uvicorn

pytestmark = pytest.mark.processes

APP = "tests.servers.apps.site:app"
Serve = Callable[..., AbstractContextManager[Server]]
EVERY_SERVER = pytest.mark.parametrize("serve", [uvicorn, hypercorn, granian])
SHORT = 2.0
"""The shutdown_timeout, in seconds, of servers whose jobs do not end by themselves."""
LITTLE = timedelta(seconds=SHORT + 6)
"""And when they must have ended, on a busy machine."""
ENDS_WELL: dict[tuple[Serve, int], set[int]] = {
    # uvicorn ends by the signal that it got, once it has shut down; the others exit.
    (uvicorn, signal.SIGTERM): {0, -signal.SIGTERM},
    (uvicorn, signal.SIGINT): {0, -signal.SIGINT, 130},
}


def ends_well(serve: Serve, number: int) -> set[int]:
    return ENDS_WELL.get((serve, number), {0})


@EVERY_SERVER
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_running_job_may_end_before_the_application_stops(serve: Serve, number: int) -> None:
    with serve(APP) as server:
        server.post("/enqueue/short?queue=q")
        behind = server.post("/enqueue/short?queue=q")
        server.says("[short begins]")
        code = server.stop(number)

        assert code in ends_well(serve, number)
        assert server.told == [
            "application starts",
            *["short begins", "short ends"] * 2,
            "application stops",
        ], server.output
        assert server.warnings == []
        assert "Traceback" not in server.output
        assert behind


@EVERY_SERVER
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_job_that_does_not_end_in_time_is_cancelled_and_named(serve: Serve, number: int) -> None:
    with serve(APP, SHUTDOWN_SECONDS=str(SHORT)) as server:
        id = server.post("/enqueue/forever")
        server.wait_for(id, "running")
        code = server.stop(number, LITTLE)

        assert code in ends_well(serve, number)
        assert server.told == ["application starts", "forever cleans up", "application stops"]
        (warning,) = server.warnings
        assert f"1 job was lost at shutdown: 'forever' ({id}) running" in warning
        assert "Traceback" not in server.output


@EVERY_SERVER
def test_five_terms_are_one(serve: Serve) -> None:
    with serve(APP, SHUTDOWN_SECONDS=str(SHORT)) as server:
        id = server.post("/enqueue/forever")
        server.wait_for(id, "running")
        server.send(*[signal.SIGTERM] * 5)
        code = server.ended(LITTLE)

        assert code in ends_well(serve, signal.SIGTERM)
        assert server.told[-2:] == ["forever cleans up", "application stops"]
        assert len(server.warnings) == 1


@EVERY_SERVER
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_second_signal_while_it_drains_neither_hangs_nor_loses_the_names(serve: Serve, number: int) -> None:
    with serve(APP, SHUTDOWN_SECONDS=str(SHORT)) as server:
        id = server.post("/enqueue/forever")
        server.wait_for(id, "running")
        server.send(number)
        server.says("Stopping: waiting up to")
        server.send(number)
        server.ended(LITTLE)

        assert [id in warning for warning in server.warnings] == [True]


@EVERY_SERVER
@pytest.mark.parametrize("kind", ["stubborn", "thread"])
def test_a_job_that_cannot_be_stopped_does_not_keep_the_server_alive(serve: Serve, kind: str) -> None:
    with serve(APP, SHUTDOWN_SECONDS=str(SHORT)) as server:
        id = server.post(f"/enqueue/{kind}")
        server.wait_for(id, "running")
        server.send(signal.SIGTERM)
        server.says("lost at shutdown")
        server.says("[application stops]")

        (warning,) = server.warnings
        assert f"'{kind}' ({id}) still running: it does not stop" in warning
        server.ended(LITTLE)
        assert "Traceback" not in server.output


def test_ctrl_c_without_jobs_says_nothing_of_jobs() -> None:
    with uvicorn(APP) as server:
        code = server.stop(signal.SIGINT)

        assert code in ends_well(uvicorn, signal.SIGINT)
        assert "lost" not in server.output
        assert "Stopping" not in server.output
        assert "Traceback" not in server.output


def test_queued_jobs_that_find_no_time_are_named_too() -> None:
    with uvicorn(APP, SHUTDOWN_SECONDS="0.5") as server:
        first = server.post("/enqueue/forever?queue=q")
        server.wait_for(first, "running")
        others = [server.post("/enqueue/noop?queue=q") for _ in range(25)]
        server.stop()

        (warning,) = server.warnings
        assert "26 jobs were lost at shutdown" in warning
        assert [id in warning for id in others] == [True] * 19 + [False] * 6
        assert warning.endswith("and 6 more")


def test_a_request_that_waits_for_its_job_is_answered_before_the_end() -> None:
    with uvicorn(APP) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.client.post, "/wait")
        server.says("[short begins]")
        server.stop()

        assert answer.result(10).json() == {"state": "succeeded"}
        assert server.warnings == []


def test_the_probe_of_a_running_server_is_well() -> None:
    with uvicorn(APP) as server:
        health = server.client.get("/health")

        assert (health.status_code, health.json()) == (200, {"reasons": []})


def test_the_server_ends_soon_after_its_jobs_have() -> None:
    with uvicorn(APP) as server:
        server.post("/enqueue/short")
        server.says("[short begins]")
        began = time.monotonic()
        server.stop()

        assert time.monotonic() - began < 10  # and not after the 25 s that it would have waited
        until(lambda: server.process.returncode is not None)


# A script, which has no server to catch the signal


def test_ctrl_c_lets_the_jobs_of_a_script_end() -> None:
    with Process("tests.servers.apps.script", "short") as script:
        script.says("[job begins]")
        script.stop(signal.SIGINT)

    assert script.told == ["job begins", "job ends"]
    assert script.warnings == []
    assert script.output.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_names_the_jobs_that_a_script_loses() -> None:
    with Process("tests.servers.apps.script", "forever") as script:
        script.says("[job begins]")
        script.stop(signal.SIGINT, LITTLE)

    assert [line.partition(" (")[0] for line in script.warnings] == ["1 job was lost at shutdown: 'forever'"]


def test_a_second_ctrl_c_ends_a_script_at_once_and_still_names_its_jobs() -> None:
    with Process("tests.servers.apps.script", "forever") as script:
        script.says("[job begins]")
        script.send(signal.SIGINT)
        script.says("Stopping: waiting up to")
        began = time.monotonic()
        script.stop(signal.SIGINT, LITTLE)

    assert time.monotonic() - began < 1.5
    # asyncio has cancelled the job itself, so it is told of as failed
    assert re.search("(lost|failed).*CancelledError|lost at shutdown: 'forever'", script.output), script.output
    assert "Task was destroyed" not in script.output
