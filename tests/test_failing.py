"""What a job may raise, what is kept of it, and how it is tried again."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from weakref import ref

import pytest

from asgi_jobs import Job, JobFailed, Jobs, JobState, Retry, current_job
from asgi_jobs.testing import FakeClock, settle

SECOND = timedelta(seconds=1)
NO_JITTER = Retry(2, jitter=0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this")

    __repr__ = __str__


class OwnError(BaseException):
    pass


def recurse() -> None:
    recurse()


RAISED: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: Exception("no"),
    "BaseException": lambda: BaseException("no"),
    "a BaseException of its own": lambda: OwnError("no"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(1), KeyError("two")]),
    "an exception whose str() raises": UnspeakableError,
    "a message with a lone surrogate": lambda: ValueError("\ud800"),
    "a message with NUL": lambda: ValueError("a\0b"),
}


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("where", ["on the loop", "in a thread"])
async def test_whatever_a_job_raises_it_has_failed_and_the_queue_goes_on(jobs: Jobs, kind: str, where: str) -> None:
    def in_a_thread() -> None:
        raise RAISED[kind]()

    async def on_the_loop() -> None:
        in_a_thread()

    job = jobs.enqueue(on_the_loop if where == "on the loop" else in_a_thread, queue="q")
    behind = jobs.enqueue(asyncio.sleep, 0, queue="q")
    await asyncio.wait_for(jobs.join(), 10)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.traceback
    assert behind.state == "succeeded"
    assert jobs.running
    with pytest.raises(JobFailed):
        await job.result()


async def test_endless_recursion_fails_the_job(jobs: Jobs) -> None:
    async def work() -> None:
        recurse()

    for function in (work, recurse):
        job = await jobs.enqueue(function).wait()
        assert job.error is not None
        assert job.error.type == "RecursionError"


async def test_a_deep_traceback_and_a_huge_message_are_shortened(jobs: Jobs) -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ValueError("x" * 1_000_000)

    async def work() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)
        try:
            deep(10_000)
        finally:
            sys.setrecursionlimit(limit)

    job = await jobs.enqueue(work).wait()
    assert job.error is not None
    assert len(job.error.message) <= 4_000
    assert len(job.error.traceback) <= 16_000


async def test_an_error_says_type_message_and_where(jobs: Jobs) -> None:
    async def work() -> None:
        raise UnspeakableError

    async def other() -> None:
        raise KeyError("k")

    unspeakable, builtin = await jobs.enqueue(work).wait(), await jobs.enqueue(other).wait()
    assert unspeakable.error is not None
    assert unspeakable.error.type.endswith("test_failing.UnspeakableError")
    assert builtin.error is not None
    assert (builtin.error.type, builtin.error.message) == ("KeyError", "'k'")
    assert "other" in builtin.error.traceback


async def test_a_failed_job_is_not_tried_again_unless_asked(jobs: Jobs) -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    await jobs.enqueue(work).wait()
    assert calls == 1


async def test_result_of_a_failed_job_raises_with_the_error_and_the_job(jobs: Jobs) -> None:
    async def work() -> None:
        raise ValueError("a bad day")

    job = jobs.enqueue(work)
    with pytest.raises(JobFailed, match="ValueError: a bad day") as caught:
        await job.result()
    assert caught.value.job is job


async def test_child_tasks_left_behind_leak_no_job(jobs: Jobs) -> None:
    gate = asyncio.Event()
    children: list[asyncio.Task[Any]] = []

    async def work(_: object) -> None:
        children.append(asyncio.create_task(gate.wait()))

    class Thing:
        pass

    thing = Thing()
    watched = ref(thing)
    await jobs.enqueue(work, thing, queue="q").wait()
    await jobs.enqueue(asyncio.sleep, 0, queue="q").wait()  # the queue does not wait for the child
    del thing
    gate.set()
    await asyncio.gather(*children)
    children.clear()
    gc.collect()
    assert watched() is None


async def test_a_failed_job_keeps_no_frames_alive(jobs: Jobs) -> None:
    class Local:
        pass

    seen: list[Any] = []

    async def work() -> None:
        local = Local()
        seen.append(ref(local))
        raise ValueError

    job = await jobs.enqueue(work).wait()
    gc.collect()
    assert job.state == "failed"
    assert seen[0]() is None


async def test_thousands_of_failing_jobs_leave_memory_flat() -> None:
    async def work() -> None:
        raise ValueError("no")

    async with Jobs(authorize="local", max_finished=100) as jobs:

        async def batch(count: int) -> int:
            for n in range(count):
                jobs.enqueue(work, queue=f"q{n}")
            await jobs.join()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        import logging

        logging.getLogger("asgi_jobs").setLevel(logging.CRITICAL)
        try:
            await batch(500)
            tracemalloc.start()
            before = await batch(500)
            after = [await batch(500) for _ in range(4)][-1]
        finally:
            tracemalloc.stop()
            logging.getLogger("asgi_jobs").setLevel(logging.NOTSET)
    assert after - before < 200_000


# Retries


async def test_a_job_that_is_tried_again_holds_its_slot_and_those_behind_it_wait(clock: FakeClock) -> None:
    order: list[str] = []

    async def flaky() -> None:
        order.append(f"flaky {current_job().job.attempt}")
        if current_job().job.attempt < 3:
            raise ValueError

    async def behind() -> None:
        order.append("behind")

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(flaky, queue="q", retries=NO_JITTER)
        jobs.enqueue(behind, queue="q")
        await settle()
        assert (job.state, job.held, job.attempt) == ("scheduled", True, 1)
        await clock.advance(0.9 * SECOND)
        assert order == ["flaky 1"]
        await clock.advance(0.2 * SECOND)
        assert order == ["flaky 1", "flaky 2"]
        await clock.advance(1.8 * SECOND)
        assert order == ["flaky 1", "flaky 2"]
        await clock.advance(0.2 * SECOND)
        assert order == ["flaky 1", "flaky 2", "flaky 3", "behind"]
    assert (job.state, job.attempt, job.error) == ("succeeded", 3, None)


async def test_attempts_tell_when_each_was_and_why_it_failed(clock: FakeClock) -> None:
    async def flaky() -> None:
        if current_job().job.attempt < 3:
            raise ValueError(str(current_job().job.attempt))

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(flaky, retries=NO_JITTER)
        await clock.advance(10 * SECOND)
    assert [attempt.error and attempt.error.message for attempt in job.attempts] == ["1", "2", None]
    starts = [(attempt.started_at - job.enqueued_at).total_seconds() for attempt in job.attempts]
    assert starts == pytest.approx([0, 1, 3])


async def test_the_last_ten_attempts_are_kept(clock: FakeClock) -> None:
    async def fails() -> None:
        raise ValueError(str(current_job().job.attempt))

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(fails, retries=Retry(14, base=timedelta(0)))
        await settle(200)
    assert job.attempt == 15
    assert [attempt.error and attempt.error.message for attempt in job.attempts] == [str(n) for n in range(6, 16)]


async def test_no_more_attempts_are_made_than_allowed(clock: FakeClock) -> None:
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(fails, retries=3)
        await clock.advance(timedelta(minutes=1))
    assert (calls, job.attempt, job.retries, job.state) == (4, 4, 3, "failed")


async def test_a_job_between_two_attempts_does_not_count_against_concurrency(clock: FakeClock) -> None:
    async def fails() -> None:
        raise ValueError

    async with Jobs(authorize="local", clock=clock, concurrency=1) as jobs:
        jobs.enqueue(fails, retries=NO_JITTER, queue="q")
        other = jobs.enqueue(asyncio.sleep, 0, queue="other")
        await settle()
        assert other.state == "succeeded"
        await clock.advance(timedelta(minutes=1))


async def test_cancelling_a_job_between_two_attempts_frees_its_slot_at_once(clock: FakeClock) -> None:
    async def fails() -> None:
        raise ValueError

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(fails, retries=NO_JITTER, queue="q")
        behind = jobs.enqueue(asyncio.sleep, 0, queue="q")
        await settle()
        await job.cancel("give it up")
        assert job.state == "cancelled"
        await settle()
        assert behind.state == "succeeded"
        await clock.advance(timedelta(minutes=1))
        assert job.attempt == 1


async def test_pausing_a_queue_stops_the_next_attempt(clock: FakeClock) -> None:
    async def fails() -> None:
        raise ValueError

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(fails, retries=NO_JITTER, queue="q")
        await settle()
        await jobs.pause("q")
        await clock.advance(timedelta(minutes=1))
        assert (job.state, job.attempt) == ("queued", 1)
        await jobs.resume("q")
        await settle()
        assert job.attempt == 2
        await clock.advance(timedelta(minutes=1))


async def test_only_the_exceptions_named_by_on_are_tried_again(clock: FakeClock) -> None:
    async def fails(error: type[BaseException]) -> None:
        raise error

    policy = Retry(1, on=(OSError,))
    async with Jobs(authorize="local", clock=clock) as jobs:
        made = {error: jobs.enqueue(fails, error, retries=policy) for error in (ConnectionError, ValueError, OwnError)}
        await clock.advance(timedelta(minutes=1))
    assert {error: job.attempt for error, job in made.items()} == {ConnectionError: 2, ValueError: 1, OwnError: 1}


async def test_a_base_exception_is_tried_again_only_when_on_names_it(clock: FakeClock) -> None:
    async def fails() -> None:
        raise SystemExit

    async with Jobs(authorize="local", clock=clock) as jobs:
        plain = jobs.enqueue(fails, retries=1)
        named = jobs.enqueue(fails, retries=Retry(1, on=(BaseException,)))
        await clock.advance(timedelta(minutes=1))
    assert (plain.attempt, named.attempt) == (1, 2)


async def test_a_thread_job_is_tried_again(clock: FakeClock) -> None:
    def flaky() -> int:
        if current_job().job.attempt == 1:
            raise ValueError
        return 2

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(flaky, retries=Retry(1, base=timedelta(0)))
        assert await job.result() == 2


async def test_join_waits_for_a_job_between_two_attempts(clock: FakeClock) -> None:
    async def flaky() -> None:
        if current_job().job.attempt == 1:
            raise ValueError

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(flaky, retries=NO_JITTER)
        joined = asyncio.create_task(jobs.join())
        await settle()
        assert not joined.done()
        await clock.advance(2 * SECOND)
        await joined
        assert job.state == "succeeded"


async def test_running_again_is_a_new_job_that_begins_at_its_first_attempt(jobs: Jobs) -> None:
    calls: list[tuple[Any, ...]] = []

    async def fails(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise ValueError

    policy = Retry(1, base=timedelta(0))
    old: Job = await jobs.enqueue(fails, 1, key="v", queue="q", name="mine", retries=policy, timeout=SECOND).wait()
    again = await jobs.retry(old.id)
    assert again.id != old.id
    await again.wait()
    assert calls == [((1,), {"key": "v"})] * 4
    assert (again.queue, again.name, again.source, again.retry_of) == ("q", "mine", "manual", old.id)
    assert (again.attempt, again.retries, again.timeout) == (2, 1, SECOND)
    assert old.state is JobState.FAILED
