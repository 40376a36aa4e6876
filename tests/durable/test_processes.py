"""Several processes on one store, on both databases: what they share, and what becomes of the jobs of one that dies."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import Job, Jobs, JobState
from tests.durable.fleet import DIED, worker
from tests.durable.server import Server, until

pytestmark = [pytest.mark.postgresql, pytest.mark.processes]
Start = Callable[..., Any]
CLOCKS = timedelta(milliseconds=20)
"""By so much two processes may differ in what time the database has; the order is that of the claims."""


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url(await server.database())


def claim_of(job: Job) -> int:
    return job._record.detail().claim or 0


def deaths(job: Job) -> list[str]:
    return [attempt.error.type for attempt in job.attempts if attempt.error]


async def test_jobs_of_one_queue_run_in_order_and_never_side_by_side_whoever_runs_them(
    store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store, concurrency=4) as one, worker(store, concurrency=4) as other:
        enqueued = [
            await jobs.using(queue=f"queue {number % 5}").enqueue(tasks["note"], f"{number}") for number in range(60)
        ]
        await jobs.join()
        assert sorted(one.texts("ran") + other.texts("ran")) == sorted(f"{number}" for number in range(60))
    lines: dict[str | None, list[Job]] = defaultdict(list)
    for job in enqueued:
        await job.refresh()
        lines[job.queue].append(job)
    for line in lines.values():
        for before, after in pairwise(line):
            assert before.finished_at is not None
            assert after.started_at is not None
            assert claim_of(before) < claim_of(after)
            assert before.finished_at <= after.started_at + CLOCKS


async def test_the_jobs_of_a_process_that_was_killed_run_in_another_one_and_keep_their_places(
    store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as first:
        in_line = [await jobs.using(queue="q").enqueue(tasks[task], task) for task in ("hold", "note")]
        free = await jobs.using(name="free").enqueue(tasks["hold"], "free")
        await first.hears("began", "hold")
        await first.hears("began", "free")
        async with worker(store) as second:
            last = await jobs.using(queue="q").enqueue(tasks["note"], "last")
            first.kill()
            await second.hears("began", "hold")
            await second.hears("began", "free")
            second.open("hold")
            second.open("free")
            await jobs.join()
            assert second.texts("ran") == ["note", "last"]
    for job in (*in_line, free, last):
        await job.refresh()
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1), "the attempt that was cut off does not count"
    assert deaths(in_line[0]) == deaths(free) == [DIED]
    assert deaths(in_line[1]) == deaths(last) == []


async def test_a_process_that_stops_in_good_order_hands_its_jobs_over_at_once(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store, pace={"grace": 600.0, "beat": 0.1}) as first:
        job = await jobs.enqueue(tasks["hold"], "job")
        await first.hears("began", "job")
        async with worker(store, pace={"grace": 600.0, "beat": 0.1}) as second:
            await first.end()
            assert first.texts("cancelled") == ["job"]
            await second.hears("began", "job")
            second.open("job")
            await job.wait()
    assert (job.state, job.attempt, deaths(job)) == (JobState.SUCCEEDED, 1, [])


async def test_a_job_is_enqueued_watched_and_cancelled_from_another_process(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.enqueue(tasks["hold"], "to be cancelled")
        await runner.hears("began", "to be cancelled")
        waiting = asyncio.ensure_future(job.wait())
        await jobs.cancel(job.id)
        await runner.hears("cancelled", "to be cancelled")
        async with asyncio.timeout(5):
            assert (await waiting).state is JobState.CANCELLED
        note = await jobs.enqueue(tasks["note"], "to be waited for")
        async with asyncio.timeout(5):
            await note.wait()


async def test_what_one_process_enqueues_starts_in_another_soon(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0, beat=5.0)
    async with worker(store, pace={"grace": 60.0, "beat": 5.0}) as runner:
        loop, delays = asyncio.get_running_loop(), []
        for number in range(10):
            begin = loop.time()
            await jobs.enqueue(tasks["note"], f"{number}")
            await runner.hears("ran", f"{number}", seconds=3)
            delays.append(loop.time() - begin)
        assert sorted(delays)[5] < 0.5, delays


async def test_the_third_death_of_its_process_fails_a_job(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    job = await jobs.using(queue="q").enqueue(tasks["die"], "deadly")
    behind = await jobs.using(queue="q").enqueue(tasks["note"], "behind it")
    for _ in range(3):
        async with worker(store, wait=False) as victim:
            await victim.hears("began", "deadly")
    async with worker(store) as survivor:
        await survivor.hears("ran", "behind it")
        await behind.wait()
        await job.wait()
    assert (job.state, job.error and job.error.type) == (JobState.FAILED, DIED)
    assert deaths(job) == [DIED, DIED, DIED]


async def test_from_the_second_death_on_a_job_runs_beside_no_other_such_one(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    for text in ("a", "b"):
        await jobs.enqueue(tasks["hold"], text)
    for _ in range(2):
        async with worker(store, wait=False) as victim:
            for text in ("a", "b"):
                await victim.hears("began", text)
            victim.kill()
    async with worker(store) as survivor:
        await survivor.hears("began", "a")
        await jobs.enqueue(tasks["note"], "harmless")
        await survivor.hears("ran", "harmless")
        assert survivor.texts("began") == ["a"]
        survivor.open("a")
        await survivor.hears("began", "b")
        survivor.open("b")
        await jobs.join()
    assert (await jobs.counts())[JobState.SUCCEEDED] == 3


async def test_the_workers_are_listed_with_what_they_run(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store, concurrency=7, only=["hold"]) as runner:
        job = await jobs.enqueue(tasks["hold"], "job")
        await runner.hears("began", "job")
        info = next(info for info in await jobs.workers() if info.pid == runner.pid)
        assert (info.alive, info.concurrency, info.tasks) == (True, 7, ("hold",))
        assert [one.id for one in info.running] == [job.id]
        runner.open("job")
        await job.wait()
    await until(lambda: _gone(jobs, runner.pid))


async def _gone(jobs: Jobs, pid: int) -> bool:
    return pid not in {info.pid for info in await jobs.workers() if info.alive}
