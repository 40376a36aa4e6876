"""Cancelling, time limits, and what happens when both come at an awkward moment."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest

from asgi_jobs import Event, Job, JobCancelled, JobFailed, JobNotFound, Jobs, JobState, current_job
from asgi_jobs.testing import FakeClock, settle

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None:
    pass


# Waiting jobs


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(jobs: Jobs) -> None:
    ran = []

    async def work() -> None:
        ran.append(1)

    job = jobs.enqueue(work, queue="q")
    assert await job.cancel("not needed") is job
    assert (job.state, job.cancel_reason) == ("cancelled", "not needed")
    assert job.cancel_requested_at is not None
    assert job.finished_at is not None
    assert job.started_at is None
    await jobs.join()
    assert ran == []


async def test_many_are_cancelled_together_and_what_has_ended_or_is_unknown_is_skipped(jobs: Jobs) -> None:
    ended = jobs.enqueue(nothing)
    await ended.wait()
    running, queued, other = (jobs.enqueue(forever, queue="q") for _ in range(3))
    await settle()
    ids = [ended.id, running.id, queued.id, queued.id, "unknown"]
    assert await jobs.cancel_many(ids, "a sale has ended") == (2, 2)
    await running.wait()
    assert (ended.state, running.state, queued.state) == ("succeeded", "cancelled", "cancelled")
    assert {running.cancel_reason, queued.cancel_reason} == {"a sale has ended"}
    await settle()
    assert other.state == "running"
    await jobs.cancel(other.id)


async def test_a_delayed_job_is_cancelled_at_once(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing, delay=timedelta(hours=1))
    await job.cancel()
    assert job.state == "cancelled"
    assert job.cancel_reason is None


async def test_result_of_a_cancelled_job_says_so(jobs: Jobs) -> None:
    job = jobs.enqueue(forever, queue="q")
    await settle()
    await job.cancel("enough of it")
    with pytest.raises(JobCancelled, match="enough of it") as caught:
        await job.result()
    assert caught.value.job is job


# Running jobs


async def test_cancel_returns_once_the_stop_is_asked_for_and_wait_waits_for_the_end(jobs: Jobs) -> None:
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await forever()
        finally:
            await may_end.wait()

    job = jobs.enqueue(slow_to_stop)
    await settle()
    await jobs.cancel(job.id)
    await settle()
    assert (job.state, job.cancelling, job.finished_at) == ("running", True, None)
    may_end.set()
    await job.wait()
    assert (job.state, job.cancelling) == ("cancelled", False)
    assert job.error is None


async def test_the_next_job_starts_only_after_the_cancelled_ones_clean_up(jobs: Jobs) -> None:
    order: list[str] = []

    async def first() -> None:
        try:
            await forever()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("cleaned up")

    async def second() -> None:
        order.append("second")

    one = jobs.enqueue(first, queue="q")
    jobs.enqueue(second, queue="q")
    await settle()
    await one.cancel()
    await jobs.join()
    assert order == ["cleaned up", "second"]


async def test_a_cancel_is_delivered_once_so_clean_up_is_not_interrupted(jobs: Jobs) -> None:
    delivered = 0
    cleaned = False

    async def work() -> None:
        nonlocal delivered, cleaned
        try:
            await forever()
        except asyncio.CancelledError:
            delivered += 1
            try:
                await settle(10)
            except asyncio.CancelledError:
                delivered += 1
            cleaned = True
            raise

    job = jobs.enqueue(work, queue="q")
    await settle()
    for _ in range(5):
        await job.cancel()
        await asyncio.sleep(0)
    await job.wait()
    assert (delivered, cleaned, job.state) == (1, True, "cancelled")


async def test_a_job_that_finishes_in_spite_of_the_cancel_has_succeeded(jobs: Jobs) -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await forever()
        return "done"

    job = jobs.enqueue(stubborn)
    await settle()
    await job.cancel()
    assert await job.result() == "done"
    assert job.state == "succeeded"


async def test_a_body_that_raises_something_else_while_being_cancelled_has_failed_and_is_not_retried(
    jobs: Jobs,
) -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            raise ValueError("in the clean-up")

    job = jobs.enqueue(work, retries=5)
    await settle()
    await job.cancel()
    with pytest.raises(JobFailed, match="ValueError: in the clean-up"):
        await job.result()
    assert (job.attempt, job.state) == (1, "failed")


async def test_a_jobs_own_cancelled_error_is_a_failure(jobs: Jobs) -> None:
    async def work() -> None:
        raise asyncio.CancelledError("mine")

    job = jobs.enqueue(work, queue="q")
    after = jobs.enqueue(nothing, queue="q")
    with pytest.raises(JobFailed):
        await job.result()
    assert job.error is not None
    assert job.error.type.endswith("CancelledError")
    await after.wait()


async def test_a_cancelled_error_out_of_a_child_task_is_a_failure(jobs: Jobs) -> None:
    async def work() -> None:
        child = asyncio.create_task(forever())
        await asyncio.sleep(0)
        child.cancel()
        await child

    job = await jobs.enqueue(work).wait()
    assert job.state == "failed"


async def test_a_job_that_swallows_cancellation_is_flagged_and_goes_on(jobs: Jobs) -> None:
    gate = asyncio.Event()

    async def swallows() -> None:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    job = jobs.enqueue(swallows, queue="q")
    behind = jobs.enqueue(nothing, queue="q")
    await settle()
    await job.cancel()
    await settle()
    assert (job.state, job.cancelling) == ("running", True)
    assert behind.state == "queued"
    gate.set()
    await behind.wait()
    assert job.state == "succeeded"


async def test_a_shutdown_ends_though_a_job_swallows_cancellation() -> None:
    gate = asyncio.Event()

    async def swallows() -> None:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    async with Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=100)) as jobs:
        job = jobs.enqueue(swallows)
        await settle()
    assert job.state == "running"
    gate.set()
    await settle()


# Cancelling twice, too late, nothing


async def test_cancelling_twice_is_as_cancelling_once(jobs: Jobs) -> None:
    job = jobs.enqueue(forever)
    await settle()
    await job.cancel("first")
    await job.cancel("second")
    await job.wait()
    assert (job.state, job.cancel_reason) == ("cancelled", "first")
    await job.cancel("third")
    assert (job.state, job.cancel_reason) == ("cancelled", "first")


async def test_cancelling_an_unknown_job_is_a_clear_error(jobs: Jobs) -> None:
    for id in ("", "unknown", "0123456789000001", "\0", "é"):
        with pytest.raises(JobNotFound):
            await jobs.cancel(id)


async def test_cancelling_a_finished_job_returns_it_unchanged(jobs: Jobs) -> None:
    job = await jobs.enqueue(nothing).wait()
    assert await jobs.cancel(job.id, "late") == job
    assert (job.state, job.cancel_reason, job.cancel_requested_at) == ("succeeded", None, None)


async def test_cancelling_from_another_thread_and_another_loop(jobs: Jobs) -> None:
    async def cancel_and_wait() -> str:
        await job.cancel("from afar")
        await job.wait()
        return job.state

    job = jobs.enqueue(forever, queue="q")
    behind = jobs.enqueue(nothing, queue="q")
    await settle()
    assert await asyncio.to_thread(lambda: asyncio.run(cancel_and_wait())) == "cancelled"
    await behind.wait()
    assert behind.state == "succeeded"


async def test_a_job_may_cancel_itself(jobs: Jobs) -> None:
    async def work() -> None:
        await current_job().job.cancel("done for")
        await forever()

    job = await jobs.enqueue(work).wait()
    assert (job.state, job.cancel_reason) == ("cancelled", "done for")


async def test_a_job_may_cancel_another_job(jobs: Jobs) -> None:
    victim = jobs.enqueue(forever)
    await jobs.enqueue(victim.cancel).wait()
    await victim.wait()
    assert victim.state == "cancelled"


async def test_what_waits_in_a_queue_can_be_cancelled_at_once_and_what_runs_goes_on(jobs: Jobs) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    await settle()
    waiting = [jobs.enqueue(nothing, queue="q") for _ in range(3)]
    delayed = jobs.enqueue(nothing, queue="q", delay=timedelta(hours=1))
    other = jobs.enqueue(nothing, queue="other")
    assert await jobs.cancel_waiting("q") == (4, 0)
    assert {job.state for job in [*waiting, delayed]} == {JobState.CANCELLED}
    gate.set()
    await jobs.join()
    assert (running.state, other.state) == ("succeeded", "succeeded")


# In threads


async def test_a_thread_job_is_asked_to_stop_and_is_cancelled_when_it_has_heard(jobs: Jobs) -> None:
    started, look = threading.Event(), threading.Event()

    def work() -> bool:
        started.set()
        assert look.wait(10)
        return current_job().cancelled

    job = jobs.enqueue(work, queue="q")
    assert await asyncio.to_thread(started.wait, 10)
    await job.cancel()
    await settle()
    assert (job.state, job.cancelling) == ("running", True)
    look.set()
    await job.wait()
    assert job.state == "cancelled"


async def test_a_thread_job_that_does_not_ask_whether_to_stop_has_succeeded(jobs: Jobs) -> None:
    started, go = threading.Event(), threading.Event()

    def work() -> int:
        started.set()
        assert go.wait(10)
        return 5

    job = jobs.enqueue(work)
    assert await asyncio.to_thread(started.wait, 10)
    await job.cancel()
    go.set()
    assert await job.result() == 5


async def test_a_thread_job_that_heard_false_before_the_cancel_has_succeeded(jobs: Jobs) -> None:
    started, go = threading.Event(), threading.Event()

    def work() -> bool:
        heard = current_job().cancelled
        started.set()
        assert go.wait(10)
        return heard

    job = jobs.enqueue(work)
    assert await asyncio.to_thread(started.wait, 10)
    await job.cancel()
    go.set()
    assert await job.result() is False


# Before the first step


@pytest.mark.parametrize("queue", ["q", None])
async def test_a_task_that_somebody_cancels_before_its_first_step_does_not_stop_its_queue(
    jobs: Jobs, queue: str | None
) -> None:
    """Somebody who finds it through asyncio.all_tasks(), say, as servers do when they shut down."""
    before = asyncio.all_tasks()
    job = jobs.enqueue(nothing, queue=queue)
    behind = jobs.enqueue(nothing, queue=queue)
    while not (found := asyncio.all_tasks() - before):
        await asyncio.sleep(0)
    for task in found:
        task.cancel()
    await asyncio.wait_for(jobs.join(), 10)
    assert job.state == "failed"
    assert behind.state in (JobState.SUCCEEDED, JobState.FAILED)
    assert (await jobs.queues()) == []


async def test_a_cancel_that_comes_before_the_first_step_is_honest(jobs: Jobs) -> None:
    ran = False

    async def work() -> None:
        nonlocal ran
        ran = True

    job = jobs.enqueue(work, queue="q")
    while job.state == "queued":
        await asyncio.sleep(0)
    await job.cancel()
    await job.wait()
    assert (job.state, ran) in ((JobState.CANCELLED, False), (JobState.SUCCEEDED, True))


async def test_a_running_jobs_task_that_somebody_else_cancels_has_failed_and_the_queue_goes_on(jobs: Jobs) -> None:
    before = asyncio.all_tasks()
    job = jobs.enqueue(forever, queue="q")
    behind = jobs.enqueue(nothing, queue="q")
    await settle()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await jobs.join()
    assert (job.state, behind.state) == ("failed", "succeeded")


# Time limits


async def test_a_job_over_its_time_has_failed_with_timeout_error(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(forever, timeout=5 * SECOND, queue="q")
        behind = jobs.enqueue(nothing, queue="q")
        await clock.advance(4.9 * SECOND)
        assert job.state == "running"
        await clock.advance(0.2 * SECOND)
        await behind.wait()
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.type == "TimeoutError"
    assert job.error.message == "timed out after 5 seconds"
    assert "forever" in job.error.traceback


async def test_a_job_over_its_time_has_failed_whatever_it_then_returns(clock: FakeClock) -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await forever()
        return "done"

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(stubborn, timeout=SECOND)
        await clock.advance(2 * SECOND)
        with pytest.raises(JobFailed, match="TimeoutError"):
            await job.result()


async def test_a_time_limit_counts_as_a_failure_for_retries(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(forever, timeout=SECOND, retries=1)
        await clock.advance(1.1 * SECOND)
        assert (job.state, job.held, job.attempt) == ("scheduled", True, 1)
        await clock.advance(1.2 * SECOND)
        assert (job.state, job.attempt) == ("running", 2)
        await clock.advance(1.2 * SECOND)
        assert job.state == "failed"
        assert [attempt.error.type for attempt in job.attempts if attempt.error] == ["TimeoutError"] * 2


async def test_a_time_limit_counts_from_the_first_line_and_not_from_enqueue(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock) as jobs:
        gate = asyncio.Event()
        jobs.enqueue(gate.wait, queue="q")
        job = jobs.enqueue(forever, timeout=5 * SECOND, queue="q")
        await clock.advance(60 * SECOND)
        gate.set()
        await clock.advance(4 * SECOND)
        assert job.state == "running"
        await clock.advance(2 * SECOND)
        assert job.state == "failed"


async def test_there_is_no_time_limit_unless_asked_for(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock, cleanup_interval=timedelta(days=1)) as jobs:
        gate = asyncio.Event()
        job = jobs.enqueue(gate.wait)
        await clock.advance(timedelta(minutes=20))
        assert job.state == "running"
        gate.set()
        await job.wait()
    assert job.state == "succeeded"


async def test_a_thread_job_over_its_time_has_failed_when_it_returns(clock: FakeClock) -> None:
    started, go = threading.Event(), threading.Event()

    def work() -> bool:
        started.set()
        assert go.wait(10)
        return True

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(work, timeout=SECOND)
        assert await asyncio.to_thread(started.wait, 10)
        await clock.advance(2 * SECOND)
        assert job.state == "running"
        go.set()
        await job.wait()
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.type == "TimeoutError"


async def test_a_job_that_ends_in_time_leaves_no_timer_behind(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock) as jobs:
        job = await jobs.enqueue(nothing, timeout=SECOND).wait()
        await clock.advance(5 * SECOND)
        assert job.state == "succeeded"


async def test_cancel_after_a_time_limit_prevents_a_further_attempt_and_a_time_limit_after_a_cancel_changes_nothing(
    clock: FakeClock,
) -> None:
    gate = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await forever()
        finally:
            await gate.wait()

    async with Jobs(authorize="local", clock=clock) as jobs:
        late_cancel = jobs.enqueue(slow_to_stop, timeout=SECOND, retries=3)
        early_cancel = jobs.enqueue(slow_to_stop, timeout=5 * SECOND, retries=3)
        await clock.advance(2 * SECOND)
        await late_cancel.cancel()
        await early_cancel.cancel()
        await clock.advance(10 * SECOND)
        gate.set()
        await jobs.join()
        assert (late_cancel.state, late_cancel.attempt) == ("failed", 1)
        assert early_cancel.state == "cancelled"


# Cancel and shutdown


async def test_a_users_cancel_and_a_shutdown_are_told_apart() -> None:
    events: list[tuple[str, str]] = []
    short = timedelta(milliseconds=50)
    async with Jobs(authorize="local", shutdown_timeout=short) as jobs:
        jobs.subscribe(lambda event: events.append((event.kind, event.job.name)))
        users = jobs.enqueue(forever, name="user's")
        cut = jobs.enqueue(forever, name="cut off")
        await settle()
        await users.cancel("by hand")
        await users.wait()
    ends = [event for event in events if event[0] not in ("enqueued", "started")]
    assert ends == [("cancelled", "user's"), ("interrupted", "cut off")]
    assert users.cancel_reason == "by hand"
    assert cut.cancel_reason is not None
    assert "stopped" in cut.cancel_reason
    assert cut.state == "cancelled"
    assert cut.error is None


async def test_an_interrupted_attempt_is_not_counted_as_a_failure() -> None:
    async with Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=50)) as jobs:
        jobs.enqueue(forever, retries=3)
        await settle()
    assert (await jobs.counts())[JobState.FAILED] == 0
    assert (await jobs.counts())[JobState.CANCELLED] == 1


# Races


@pytest.mark.parametrize("seed", range(4))  # ten thousand races in all
async def test_races_of_cancel_with_start_and_finish_have_one_consistent_end(jobs: Jobs, seed: int) -> None:
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    ran: Counter[str] = Counter()

    def listen(event: Event) -> None:
        if event.kind == "started":
            starts[event.job.id] += 1
        elif event.kind != "enqueued":
            ends[event.job.id] += 1

    jobs.subscribe(listen)

    async def work(turns: int) -> None:
        ran[current_job().job.id] += 1
        for _ in range(turns):
            await asyncio.sleep(0)

    async def race(job: Job, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(rng.choice([1, 1, 2])):
            await job.cancel()

    made: list[Job] = []
    for _ in range(25):
        batch = [jobs.enqueue(work, rng.randrange(3), queue=rng.choice(["a", "b", None, None])) for _ in range(100)]
        made += batch
        await asyncio.gather(*(race(job, rng.randrange(8)) for job in batch), jobs.join())
    assert len(made) == 2_500
    assert {job.state for job in made} == {JobState.SUCCEEDED, JobState.CANCELLED}
    assert set(ends.values()) == {1}
    assert len(ends) == 2_500
    assert set(starts.values()) == {1}
    assert set(ran.values()) == {1}
    assert all(ran[job.id] <= starts[job.id] for job in made)
    assert all(job.state == "cancelled" or ran[job.id] == 1 for job in made)
    assert not any(job.cancelling or job.finished_at is None for job in made)
    counts = await jobs.counts()
    assert counts[JobState.SUCCEEDED] + counts[JobState.CANCELLED] == 2_500
    assert 100 < counts[JobState.CANCELLED] < 2_400
    assert await jobs.queues() == []
