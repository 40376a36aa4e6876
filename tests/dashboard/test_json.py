"""The JSON of every address: its shape is a promise."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from asgi_jobs import Jobs, JobState, current_job
from asgi_jobs.dashboard.visit import wants_json
from asgi_jobs.testing import FakeClock

from .conftest import Site

HOUR = timedelta(hours=1)
JOB_IN_LIST = {
    "id", "name", "task", "queue", "state", "cancelling", "source", "attempt", "enqueued_at", "run_at", "started_at",
    "finished_at", "cancel_requested_at", "cancel_reason", "retries", "retry_of", "error", "progress", "waiting_at",
    "uncommitted",
}  # fmt: skip
JOB = JOB_IN_LIST | {"attempts", "log"}
QUEUE = {
    "name", "limit", "running", "queued", "paused_since", "oldest_wait", "current", "blocked_by", "blocked_since",
    "waiting_at", "last_error",
}  # fmt: skip
TASK = {"task", "description", "queue", "schedule", "next_run", "last_run", "needs_arguments"}


async def fine() -> None:
    """Does what it should."""


async def broken() -> None:
    current_job().progress(1, 4, "letters")
    current_job().log("began")
    raise ValueError("out of paper")


async def greet(name: str) -> None: ...


def open_jobs(**settings: Any) -> Jobs:
    return Jobs(authorize=lambda request: True, **settings)


@pytest.fixture
def ask(site: Site) -> Any:
    """A client that asks for JSON."""

    def of(jobs: Jobs) -> httpx.AsyncClient:
        client = site(jobs)
        client.headers["accept"] = "application/json"
        return client

    return of


async def test_the_overview_has_counts_queues_tasks_and_jobs(ask: Any) -> None:
    jobs = open_jobs()
    jobs.task(fine)
    async with jobs:
        await jobs.enqueue(broken, queue="email").wait()
        await jobs.pause("email")
        jobs.enqueue(fine, delay=HOUR)
        data = (await ask(jobs).get("/")).json()
    assert set(data) == {"counts", "queues", "tasks", "jobs"}
    assert data["counts"] == {
        "scheduled": 1, "queued": 0, "running": 0, "succeeded": 0, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    assert [set(queue) for queue in data["queues"]] == [QUEUE]
    assert [set(task) for task in data["tasks"]] == [TASK]
    assert [job["state"] for job in data["jobs"]] == ["scheduled", "failed"]


async def test_jobs_in_lists_come_without_what_is_long(ask: Any) -> None:
    jobs = open_jobs()
    async with jobs:
        await jobs.enqueue(broken).wait()
        data = (await ask(jobs).get("/jobs")).json()
    assert set(data) == {"jobs", "next"}
    (job,) = data["jobs"]
    assert set(job) == JOB_IN_LIST
    assert job["error"] == {"type": "ValueError", "message": "out of paper"}
    assert data["next"] is None


async def test_one_job_comes_whole_with_iso_times_in_utc(ask: Any) -> None:
    clock = FakeClock(datetime(2026, 5, 1, 8, 30, tzinfo=UTC))
    jobs = open_jobs(clock=clock)
    async with jobs:
        job = jobs.enqueue(broken, queue="email", name="Receipt 7")
        await job.wait()
        data = (await ask(jobs).get(f"/jobs/{job.id}")).json()
    assert set(data) == JOB
    assert (data["id"], data["name"], data["queue"], data["state"]) == (job.id, "Receipt 7", "email", "failed")
    assert data["enqueued_at"] == "2026-05-01T08:30:00.000000Z"
    assert (data["attempt"], data["retries"], data["retry_of"], data["source"]) == (1, 0, None, "code")
    assert set(data["error"]) == {"type", "message", "traceback"}
    assert "broken" in data["error"]["traceback"]
    assert data["progress"] == {"done": 1, "total": 4, "text": "letters", "at": data["enqueued_at"]}
    assert data["log"] == ["began"]
    (attempt,) = data["attempts"]
    assert set(attempt) == {"started_at", "finished_at", "error"}


async def test_a_progress_that_is_no_number_for_json_is_null(ask: Any) -> None:
    jobs = open_jobs()

    async def counts_oddly() -> None:
        current_job().progress(float("nan"), float("inf"))

    async with jobs:
        job = jobs.enqueue(counts_oddly)
        await job.wait()
        answer = await ask(jobs).get(f"/jobs/{job.id}")
        page = await ask(jobs).get(f"/jobs/{job.id}", headers={"accept": "text/html"})
    if job.state is JobState.SUCCEEDED:
        assert (answer.json()["progress"]["done"], answer.json()["progress"]["total"]) == (None, None)
    assert (answer.status_code, page.status_code) == (200, 200)


async def test_queues_and_tasks_are_lists(ask: Any) -> None:
    clock = FakeClock()
    jobs = open_jobs(clock=clock, queues={"thumbnails": 4})
    jobs.task(every=timedelta(hours=6))(fine)
    jobs.task(greet)
    go, started = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await go.wait()

    async with jobs:
        job = jobs.enqueue(hang, queue="email")
        jobs.enqueue(fine, queue="email")
        await started.wait()
        await jobs.pause("print")
        await clock.advance(timedelta(seconds=70))
        queues = {queue["name"]: queue for queue in (await ask(jobs).get("/queues")).json()}
        tasks = (await ask(jobs).get("/tasks")).json()
        go.set()
    assert set(queues) == {"email", "print", "thumbnails"}
    assert all(set(queue) == QUEUE for queue in queues.values())
    assert queues["email"] | {"blocked_since": None, "waiting_at": None} == {
        "name": "email", "limit": 1, "running": 1, "queued": 1, "paused_since": None, "oldest_wait": 70.0,
        "current": job.id, "blocked_by": job.id, "blocked_since": None, "waiting_at": None, "last_error": None,
    }  # fmt: skip
    assert "hang" in queues["email"]["waiting_at"]
    assert queues["print"]["paused_since"].startswith("2026-01-01T00:00:00")
    assert queues["thumbnails"]["limit"] == 4
    assert [task["needs_arguments"] for task in tasks] == [False, True]
    assert (tasks[0]["description"], tasks[0]["schedule"]) == ("Does what it should.", "every 6 h")
    assert tasks[0]["next_run"].startswith("2026-01-01T06:00:00")


async def test_cancel_and_retry_answer_with_the_job_or_with_409(ask: Any) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine, delay=HOUR)
        client = ask(jobs)
        too_early = await client.post(f"/jobs/{job.id}/retry")
        assert (too_early.status_code, set(too_early.json())) == (409, {"error"})
        cancelled = await client.post(f"/jobs/{job.id}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert set(cancelled.json()) == JOB
        assert (await client.post(f"/jobs/{job.id}/cancel")).status_code == 409
        again = await client.post(f"/jobs/{job.id}/retry")
        assert (again.status_code, again.json()["retry_of"]) == (200, job.id)
        done = jobs.enqueue(fine)
        await done.wait()
        assert (await client.post(f"/jobs/{done.id}/retry")).status_code == 409  # its arguments are gone
        assert (await client.post(f"/jobs/{done.id}/release")).status_code == 409
        for action in ("cancel", "retry", "release"):
            assert (await client.post(f"/jobs/gone/{action}")).status_code == 404


async def test_many_jobs_answer_with_numbers(ask: Any) -> None:
    jobs = open_jobs()
    async with jobs:
        waiting = [jobs.enqueue(fine, queue="email", delay=HOUR) for _ in range(3)]
        await jobs.enqueue(fine, queue="email").wait()
        client = ask(jobs)
        assert (await client.post("/jobs/cancel", data={"queue": "email"})).json() == {"done": 3, "skipped": 1}
        ids = [waiting[0].id, "gone"]
        assert (await client.post("/jobs/retry", data={"id": ids})).json() == {"done": 1, "skipped": 1}
        nothing = await client.post("/jobs/retry", data={})
        assert (nothing.status_code, set(nothing.json())) == (400, {"error"})
        await jobs.join()


async def test_queues_answer_with_how_they_stand(ask: Any) -> None:
    jobs = open_jobs()
    async with jobs:
        client = ask(jobs)
        paused = await client.post("/queues/pause", data={"queue": "email"})
        assert paused.json() == {"queue": "email", "paused": True}
        jobs.enqueue(fine, queue="email")
        cancelled = await client.post("/queues/cancel", data={"queue": "email"})
        assert cancelled.json() == {"done": 1, "skipped": 0}
        resumed = await client.post("/queues/resume", data={"queue": "email"})
        assert resumed.json() == {"queue": "email", "paused": False}
        assert (await client.post("/queues/pause", data={})).status_code == 422
        assert (await client.post("/queues/pause", data={"queue": "x" * 201})).status_code == 422


async def test_a_task_answers_with_its_job_with_409_or_404(ask: Any) -> None:
    jobs = open_jobs()
    task, needy = jobs.task(fine), jobs.task(greet)
    async with jobs:
        client = ask(jobs)
        run = await client.post("/tasks/run", data={"task": task.key})
        assert (run.status_code, run.json()["task"], run.json()["source"]) == (200, task.key, "manual")
        assert (await client.post("/tasks/run", data={"task": needy.key})).status_code == 409
        assert (await client.post("/tasks/run", data={"task": "os:getcwd"})).status_code == 404
        await jobs.join()


async def test_without_a_running_engine_nothing_is_enqueued(ask: Any) -> None:
    jobs = open_jobs()
    task = jobs.task(fine)
    answer = await ask(jobs).post("/tasks/run", data={"task": task.key})
    assert (answer.status_code, set(answer.json())) == (503, {"error"})


async def test_errors_are_json_too(ask: Any) -> None:
    client = ask(open_jobs())
    for method, path, status in [
        ("GET", "/jobs/gone", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/jobs", 405),
        ("GET", "/jobs?limit=0", 422),
        ("POST", "/jobs/cancel", 400),
    ]:
        answer = await client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), path
        assert answer.headers["content-type"] == "application/json"
    refused = await ask(Jobs()).get("/")
    assert (refused.status_code, set(refused.json())) == (403, {"error"})


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("APPLICATION/JSON;q=0.9", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/html, application/json;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_json_is_for_who_prefers_it(accept: str, json: bool) -> None:
    assert wants_json(accept) is json


async def test_counts_are_there_for_every_state(ask: Any) -> None:
    data = (await ask(open_jobs()).get("/")).json()
    assert data["counts"] == {str(state): 0 for state in JobState}
