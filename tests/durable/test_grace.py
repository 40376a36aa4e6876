"""Who is alive on PostgreSQL: frozen, cut off, forked and blocked processes, and what the others make of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import Job, Jobs, JobState
from tests.durable.fleet import DIED, PACE, Worker, worker
from tests.durable.server import Server, until

pytestmark = [pytest.mark.postgresql, pytest.mark.processes]
Start = Callable[..., Any]
LONGER_THAN_ANY_GRACE = 4 * PACE["grace"]


@pytest.fixture
async def store(server: Server) -> str:
    return server.url(await server.database())


def deaths(job: Job) -> list[str]:
    return [attempt.error.type for attempt in job.attempts if attempt.error]


async def end_session(server: Server, jobs: Jobs, store: str, of: Worker) -> None:
    """The server ends the session in which a worker holds its lock."""
    id = next(info.id for info in await jobs.workers() if info.pid == of.pid)
    ended = await server.ask(
        f"SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objid = {id} "
        f"AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        store.rpartition("/")[2],
    )
    assert ended == 1


async def test_a_frozen_process_keeps_its_jobs(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.using(queue="q").enqueue(tasks["hold"], "job")
        await runner.hears("began", "job")
        async with worker(store) as other:
            runner.freeze()
            await asyncio.sleep(LONGER_THAN_ANY_GRACE)
            runner.thaw()
            runner.open("job")
            await job.wait()
            assert other.texts("began") == []
    assert (job.state, job.attempt, deaths(job)) == (JobState.SUCCEEDED, 1, [])
    assert runner.texts("cancelled") == []


@pytest.mark.parametrize("task", ["hold", "stubborn"])
async def test_a_frozen_process_whose_session_ended_finds_its_jobs_taken_over(
    task: str, server: Server, store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.using(queue="q").enqueue(tasks[task], "job")
        await jobs.using(queue="q").enqueue(tasks["note"], "successor")
        await runner.hears("began", "job")
        async with worker(store) as other:
            runner.freeze()
            await end_session(server, jobs, store, runner)
            await other.hears("began", "job")
            other.open("job")
            await other.hears("ran", "successor")
            await job.wait()
            runner.thaw()
            await runner.hears("cancelled" if task == "hold" else "asked", "job")
            runner.open("job")
            await until(lambda: any("was refused" in line for line in runner.logged))
            await job.refresh()
            assert (job.state, job.attempt, deaths(job)) == (JobState.SUCCEEDED, 1, [DIED])
        await jobs.enqueue(tasks["note"], "afterwards")
        await runner.hears("ran", "afterwards")  # as a new process, it works on
        assert runner.texts("ran") == ["afterwards"]


async def test_a_frozen_process_whose_job_was_released_is_refused(store: str, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.using(queue="q").enqueue(tasks["stubborn"], "job")
        kept = await jobs.enqueue(tasks["hold"], "kept")
        await runner.hears("began", "job")
        await runner.hears("began", "kept")
        async with worker(store) as other:
            runner.freeze()
            await jobs.release(job.id)
            await other.hears("began", "job")
            other.open("job")
            await job.wait()
            runner.thaw()
            await runner.hears("asked", "job")
            runner.open("job")
            await until(lambda: any("was refused" in line for line in runner.logged))
            runner.open("kept")
            await kept.wait()
            await job.refresh()
            first, second = (next(said[2] for said in one.said if said[0] == "ended") for one in (runner, other))
            assert first < second, "the claim grows, so that what it writes to can tell the older one"
    assert (job.state, job.attempt, deaths(job), len(job.attempts)) == (JobState.SUCCEEDED, 1, [], 2)
    assert (kept.state, deaths(kept), runner.texts("cancelled")) == (JobState.SUCCEEDED, [], [])


async def test_a_released_job_is_cancelled_in_a_process_that_hears_of_it_and_runs_again(
    store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.enqueue(tasks["hold"], "job")
        await runner.hears("began", "job")
        await jobs.release(job.id)
        await runner.hears("cancelled", "job")
        await runner.hears("began", "job", times=2)
        runner.open("job")
        assert (await job.wait()).state is JobState.SUCCEEDED


async def test_a_process_whose_session_ended_takes_its_lock_again_and_keeps_its_jobs(
    server: Server, store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store, pace={"grace": 2.0, "beat": 0.1}) as runner:
        job = await jobs.enqueue(tasks["hold"], "job")
        await runner.hears("began", "job")
        for _ in range(3):
            await end_session(server, jobs, store, runner)
            await until(lambda: _is_alive(jobs, runner))
        runner.open("job")
        await job.wait()
    assert (job.state, job.attempt, deaths(job), runner.texts("cancelled")) == (JobState.SUCCEEDED, 1, [], [])


async def _is_alive(jobs: Jobs, one: Worker) -> bool:
    return any(info.alive for info in await jobs.workers() if info.pid == one.pid)


@pytest.mark.parametrize("_again", range(2))
async def test_a_process_whose_loop_is_blocked_for_longer_than_the_grace_keeps_its_jobs(
    _again: int, store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        beside = await jobs.enqueue(tasks["hold"], "beside it")
        await runner.hears("began", "beside it")
        async with worker(store, only=["hold"]) as other:
            runner.enqueue("block", "blocks", LONGER_THAN_ANY_GRACE)
            await runner.hears("ended", "blocks")
            runner.open("beside it")
            await beside.wait()
            await jobs.join()
            assert other.texts("began") == []
    assert (beside.state, deaths(beside), runner.texts("cancelled")) == (JobState.SUCCEEDED, [], [])


async def test_the_jobs_of_a_killed_process_are_rescued_though_a_forked_child_lives(
    server: Server, store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        job = await jobs.enqueue(tasks["fork"], "job")
        await runner.hears("began", "job")
        child = runner.texts("forked")[0]
        try:
            assert len(_to_server(runner.pid, server.port)) > 1
            await until(lambda: not _to_server(int(child), server.port))  # what an orphan keeps open keeps locks, too
            async with worker(store) as other:
                runner.kill()
                await other.hears("began", "job")
                other.open("job")
                await job.wait()
                os.kill(int(other.texts("forked")[0]), signal.SIGKILL)
        finally:
            os.kill(int(child), signal.SIGKILL)
    assert (job.state, deaths(job)) == (JobState.SUCCEEDED, [DIED])


def _to_server(pid: int, port: int) -> set[str]:
    """The connections of a process to a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = {f"socket:[{line[9]}]" for line in lines if line[2].endswith(f":{port:04X}")}
    return there & {str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()}
