"""The public verbs of `Jobs`: looking, acting, waiting; and that its memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from collections import deque
from datetime import timedelta

import pytest

from asgi_jobs import (
    ArgumentsGone,
    InvalidOption,
    InvalidState,
    Job,
    JobNotFound,
    Jobs,
    JobState,
    NotRunning,
    QueueFull,
    ShuttingDown,
    current_job,
)
from asgi_jobs.testing import FakeClock, settle

MINUTE = timedelta(minutes=1)


async def nothing() -> None:
    pass


async def fails() -> None:
    raise ValueError("a bad day")


# get, find, counts


async def test_get_gives_the_job_of_an_id(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing, name="mine")
    found = await jobs.get(job.id)
    assert (found.id, found.name) == (job.id, "mine")


async def test_get_of_an_unknown_id_says_how_long_records_are_kept(jobs: Jobs) -> None:
    with pytest.raises(JobNotFound, match="kept for 1 hour"):
        await jobs.get("unknown")


async def test_ids_are_unique_over_starts_and_engines() -> None:
    ids: list[str] = []
    jobs = Jobs(authorize="local")
    for _ in range(2):
        async with jobs, Jobs(authorize="local") as others:
            ids += [jobs.enqueue(nothing).id, others.enqueue(nothing).id]
    assert len(set(ids)) == 4
    assert {len(id) for id in ids} == {16}


async def test_find_filters_and_pages_newest_first(jobs: Jobs) -> None:
    await jobs.pause("q")
    for n in range(5):
        jobs.enqueue(nothing, queue="q", name=f"q{n}")
    failed = await jobs.enqueue(fails, queue="other", name="failed").wait()
    assert [job.name for job in await jobs.find()] == ["failed", "q4", "q3", "q2", "q1", "q0"]
    first = await jobs.find(queue="q", limit=2)
    assert [job.name for job in first] == ["q4", "q3"]
    second = await jobs.find(queue="q", limit=2, before=first[-1].id)
    assert [job.name for job in second] == ["q2", "q1"]
    assert [job.id for job in await jobs.find(state="failed")] == [failed.id]
    assert [job.id for job in await jobs.find(state=JobState.FAILED, text="BAD day")] == [failed.id]
    assert [job.id for job in await jobs.find(task=failed.task)] == [failed.id]
    assert await jobs.find(state="running") == []


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "5", None])
async def test_find_refuses_a_limit_that_is_none(jobs: Jobs, limit: object) -> None:
    with pytest.raises((InvalidOption, TypeError), match="limit"):
        await jobs.find(limit=limit)  # type: ignore[arg-type]


async def test_find_refuses_an_unknown_state_and_names_the_known_ones(jobs: Jobs) -> None:
    with pytest.raises(InvalidOption, match="scheduled, queued, running, succeeded, failed, cancelled"):
        await jobs.find(state="done")


async def test_counts_has_every_state_and_follows_the_records(jobs: Jobs) -> None:
    assert await jobs.counts() == dict.fromkeys(JobState, 0)
    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="q")
    jobs.enqueue(nothing, queue="q")
    jobs.enqueue(nothing, delay=MINUTE)
    await jobs.enqueue(fails).wait()
    counts = await jobs.counts()
    assert (counts["running"], counts["queued"], counts["scheduled"], counts["failed"]) == (1, 1, 1, 1)  # type: ignore[index]
    gate.set()
    await jobs.join()
    assert (await jobs.counts())[JobState.SUCCEEDED] == 2


# retry


async def test_only_a_finished_job_can_be_run_again(jobs: Jobs) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    queued = jobs.enqueue(nothing, queue="q")
    scheduled = jobs.enqueue(nothing, delay=MINUTE)
    await settle()
    for job in (running, queued, scheduled):
        with pytest.raises(InvalidState, match=job.state):
            await jobs.retry(job.id)
    gate.set()


async def test_a_succeeded_job_cannot_be_run_again_for_its_arguments_are_gone(jobs: Jobs) -> None:
    job = await jobs.enqueue(nothing).wait()
    with pytest.raises(ArgumentsGone, match="arguments are not kept"):
        await jobs.retry(job.id)


async def test_a_cancelled_job_can_be_run_again(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing, queue="q", delay=MINUTE)
    await job.cancel()
    again = await (await jobs.retry(job.id)).wait()
    assert (again.state, again.queue, again.source, again.run_at) == ("succeeded", "q", "manual", None)


async def test_of_a_thousand_and_one_failed_jobs_the_oldest_cannot_be_run_again(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("CRITICAL", "asgi_jobs"):
        made = [jobs.enqueue(fails, queue="q") for _ in range(1_001)]
        await jobs.join()
    with pytest.raises(ArgumentsGone):
        await jobs.retry(made[0].id)
    assert (await jobs.retry(made[1].id)).retry_of == made[1].id


async def test_retry_of_an_unknown_job_is_a_clear_error(jobs: Jobs) -> None:
    with pytest.raises(JobNotFound):
        await jobs.retry("unknown")


async def test_retry_respects_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    async with Jobs(authorize="local", max_queued=1) as jobs:
        job = await jobs.enqueue(fails).wait()
        jobs.enqueue(nothing, delay=MINUTE)
        with pytest.raises(QueueFull):
            await jobs.retry(job.id)


# pause and resume


async def test_after_pause_has_returned_no_job_of_the_queue_starts(jobs: Jobs) -> None:
    ran: list[str] = []

    async def work(name: str) -> None:
        ran.append(name)

    await jobs.pause("q")
    jobs.enqueue(work, "q", queue="q")
    jobs.enqueue(work, "other", queue="other")
    await settle()
    assert ran == ["other"]
    await jobs.resume("q")
    await jobs.join()
    assert ran == ["other", "q"]


async def test_a_pause_lets_what_runs_go_on(jobs: Jobs) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    behind = jobs.enqueue(nothing, queue="q")
    await settle()
    await jobs.pause("q")
    gate.set()
    await running.wait()
    await settle()
    assert (running.state, behind.state) == ("succeeded", "queued")
    await jobs.resume("q")
    await behind.wait()


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel_waiting"])
async def test_a_queue_name_that_cannot_be_is_refused(jobs: Jobs, verb: str) -> None:
    for name in ("", "x" * 201, "a\0b", "\ud800"):
        with pytest.raises(InvalidOption, match="queue"):
            await getattr(jobs, verb)(name)


async def test_a_pause_outlives_a_stop_and_a_start() -> None:
    jobs = Jobs(authorize="local")
    async with jobs:
        await jobs.pause("q")
    async with jobs:
        job = jobs.enqueue(nothing, queue="q")
        await settle()
        assert job.state == "queued"
        await jobs.resume("q")
        await job.wait()


async def test_release_is_for_durable_stores(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing)
    with pytest.raises(InvalidState, match="durable"):
        await jobs.release(job.id)
    with pytest.raises(JobNotFound):
        await jobs.release("unknown")


# place


async def test_place_says_which_in_line_and_behind_whom(jobs: Jobs) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    second, third = jobs.enqueue(nothing, queue="q"), jobs.enqueue(nothing, queue="q")
    await settle()
    place = await jobs.place(third.id)
    assert place is not None
    assert place.behind is not None
    assert (place.position, place.behind.id) == (2, second.id)
    place = await jobs.place(second.id)
    assert place is not None
    assert place.behind is not None
    assert (place.position, place.behind.id) == (1, running.id)
    assert await jobs.place(running.id) is None
    gate.set()


# health


async def test_health_is_ok_while_the_engine_runs(jobs: Jobs) -> None:
    health = await jobs.health()
    assert (health.ok, health.reasons) == (True, [])


async def test_health_is_not_ok_before_the_start_and_after_the_stop() -> None:
    jobs = Jobs(authorize="local")
    health = await jobs.health()
    assert not health.ok
    assert "not running (new)" in health.reasons[0]
    async with jobs:
        pass
    assert "not running (stopped)" in (await jobs.health()).reasons[0]


async def test_a_blocked_queue_is_a_reason_that_leaves_health_ok() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        gate = asyncio.Event()
        holder = jobs.enqueue(gate.wait, queue="q")
        jobs.enqueue(nothing, queue="q")
        await clock.advance(timedelta(seconds=61))
        health = await jobs.health()
        assert health.ok
        assert health.reasons == [f"queue 'q' is blocked by job {holder.id}"]
        gate.set()


async def test_a_blocked_loop_is_not_healthy() -> None:
    async with Jobs(authorize="local") as jobs:
        watchdog = jobs._engine.watchdog
        assert watchdog is not None

        async def blocks() -> None:
            time.sleep(1.3)

        await jobs.enqueue(blocks, name="blocking").wait()
        async with asyncio.timeout(5):
            while jobs.loop_blocked is None:  # the watchdog's thread says so a moment later
                await asyncio.sleep(0.01)
        assert jobs.loop_blocked is not None


# Before, between and after


async def test_nothing_can_be_enqueued_before_the_start_or_after_the_stop() -> None:
    jobs = Jobs(authorize="local")
    with pytest.raises(NotRunning, match=r"has not started.*JobsMiddleware"):
        jobs.enqueue(nothing)
    async with jobs:
        await jobs.enqueue(nothing).wait()
    with pytest.raises(NotRunning, match="has stopped"):
        jobs.enqueue(nothing)


async def test_records_outlive_a_stop_and_start_and_can_be_run_again(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(authorize="local")
    async with jobs:
        job = await jobs.enqueue(fails, name="old").wait()
    with pytest.raises(NotRunning):
        await jobs.retry(job.id)
    async with jobs:
        assert (await jobs.get(job.id)).name == "old"
        again = await jobs.retry(job.id)
        await again.wait()
        assert [found.id for found in await jobs.find()] == [again.id, job.id]
        assert [found.id for found in await jobs.find(before=again.id)] == [job.id]


async def test_queued_jobs_still_start_within_a_shutdown_and_jobs_may_enqueue() -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)
        if name == "a":
            jobs.enqueue(work, "child", queue="q")

    async with Jobs(authorize="local") as jobs:
        for name in "abc":
            jobs.enqueue(work, name, queue="q")
    assert done == ["a", "b", "c", "child"]


async def test_nobody_else_may_enqueue_while_it_stops() -> None:
    gate = asyncio.Event()
    refused: list[type[BaseException]] = []

    async def outside() -> None:
        while jobs.status != "stopping":
            await asyncio.sleep(0)
        try:
            jobs.enqueue(nothing)
        except ShuttingDown as error:
            refused.append(type(error))
        gate.set()

    async with Jobs(authorize="local") as jobs:
        jobs.enqueue(gate.wait)
        await settle()
        task = asyncio.create_task(outside())
    await task
    assert refused == [ShuttingDown]


@pytest.mark.parametrize("how", ["cancelled", "paused while held"])
async def test_a_shutdown_does_not_wait_for_what_can_not_start_any_more(how: str) -> None:
    """A stop that waits for a second attempt is over when there will be none."""
    async with asyncio.timeout(8):
        async with Jobs(authorize="local", shutdown_timeout=timedelta(seconds=60)) as jobs:
            job = jobs.enqueue(fails, queue="q", retries=1)
            await settle()
            assert job.state == "scheduled"
            loop = asyncio.get_running_loop()
            verb = job.cancel() if how == "cancelled" else jobs.pause("q")
            acting: list[asyncio.Task[object]] = []
            loop.call_later(0.05, lambda: acting.append(loop.create_task(verb)))
    assert job.state == "cancelled"


async def test_a_shutdown_names_what_is_lost_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=20)) as jobs:
        forever = asyncio.Event()
        jobs.enqueue(forever.wait, queue="q", name="running one")
        for n in range(25):
            jobs.enqueue(nothing, queue="q", name=f"waiting {n}")
        jobs.enqueue(nothing, delay=MINUTE, name="delayed one")
        await settle()
    (lost,) = [record.getMessage() for record in caplog.records if "lost at shutdown" in record.getMessage()]
    assert lost.startswith("27 jobs were lost")
    assert "running one" in lost
    assert "waiting 18" in lost
    assert "and 7 more" in lost


# Memory


async def _batch(jobs: Jobs, count: int, *, many_names: bool) -> None:
    for start in range(0, count, 2_000):
        for n in range(start, min(start + 2_000, count)):
            jobs.enqueue(nothing, queue=f"name {n}" if many_names else "q")
        await jobs.join()


async def test_a_hundred_thousand_names_used_once_leave_nothing_behind() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock, retention=MINUTE, cleanup_interval=MINUTE) as jobs:

        async def objects_after_clean_up() -> int:
            await clock.advance(3 * MINUTE)
            assert sum((await jobs.counts()).values()) == 0
            assert await jobs.queues() == []
            gc.collect()
            return len(gc.get_objects())

        await _batch(jobs, 1_000, many_names=True)
        baseline = await objects_after_clean_up()
        await _batch(jobs, 100_000, many_names=True)
        assert await objects_after_clean_up() - baseline < 200
        tables = [value for value in vars(jobs._store).values() if isinstance(value, dict | list | set | deque)]
        assert sum(map(sys.getsizeof, tables)) < 50_000


@pytest.mark.parametrize("many_names", [False, True])
async def test_memory_is_flat_over_many_jobs(many_names: bool) -> None:
    async with Jobs(authorize="local", max_finished=500) as jobs:
        await _batch(jobs, 2_000, many_names=many_names)
        tracemalloc.start(1)
        try:
            await _batch(jobs, 2_000, many_names=many_names)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await _batch(jobs, 5_000, many_names=many_names)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before < 100_000


async def test_jobs_of_one_engine_are_unknown_to_another(jobs: Jobs) -> None:
    async with Jobs(authorize="local") as others:
        job: Job = jobs.enqueue(nothing)
        with pytest.raises(JobNotFound):
            await others.get(job.id)
        seen: list[str] = []

        async def look() -> None:
            seen.append(current_job().job.id)

        mine = await others.enqueue(look).wait()
        assert seen == [mine.id]
