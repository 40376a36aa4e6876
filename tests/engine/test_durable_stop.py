"""Stopping where jobs are durable: nothing new starts, what is cut off goes back to its place, nothing hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from asgi_jobs import Job, Jobs, JobState, Retry, ShuttingDown
from asgi_jobs.engine import dispatcher
from asgi_jobs.testing import settle
from tests.engine.durable import LaterStore, durable_jobs

SOON = timedelta(seconds=10)
AT_ONCE = timedelta(milliseconds=50)
seen: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    gates.clear()
    monkeypatch.setattr(dispatcher, "PAUSE_AFTER_ERROR", 0.01)


async def wait_for(gate: str) -> str:
    seen.append(gate)
    await gates.setdefault(gate, asyncio.Event()).wait()
    return gate


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def running(timeout: timedelta = SOON, **options: Any) -> tuple[Jobs, LaterStore]:
    jobs, store = durable_jobs(shutdown_timeout=timeout, **options)
    jobs.task(wait_for)
    await jobs.open()
    await jobs.begin()
    return jobs, store


async def started(jobs: Jobs, gate: str, **options: Any) -> Job:
    job = await jobs.enqueue(wait_for, gate, **options)
    await until(lambda: gate in seen)
    return job


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_nothing_new_starts_and_what_runs_may_end() -> None:
    jobs, store = await running()
    job = await started(jobs, "a", queue="q")
    behind = await jobs.enqueue(wait_for, "b", queue="q")
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    gates["a"].set()
    await stopping

    assert (job.state, behind.state) == (JobState.SUCCEEDED, JobState.QUEUED)
    assert seen == ["a"]
    assert store.closed


async def test_a_job_may_enqueue_to_its_end_and_that_is_stored_only() -> None:
    jobs, store = await running()

    async def outer() -> None:
        seen.append("outer")
        await gates.setdefault("outer", asyncio.Event()).wait()
        await jobs.enqueue(wait_for, "inner", name="inner")

    await jobs.task(outer).enqueue()
    await until(lambda: seen)
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    with pytest.raises(ShuttingDown):
        jobs.enqueue(wait_for, "from outside")
    gates["outer"].set()
    await stopping

    assert store.batches[-1] == ["inner"]
    assert seen == ["outer"]


async def test_a_job_that_is_cut_off_may_still_enqueue_while_it_cleans_up() -> None:
    jobs, store = await running(AT_ONCE)

    async def outer() -> None:
        seen.append("outer")
        try:
            await asyncio.Event().wait()
        finally:
            await jobs.enqueue(wait_for, "inner", name="inner")

    await jobs.task(outer).enqueue()
    await until(lambda: seen)
    await jobs.stop()

    assert store.batches[-1] == ["inner"]


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_job_that_is_cut_off_goes_back_to_its_place_and_the_attempt_does_not_count(
    caplog: pytest.LogCaptureFixture, retries: int
) -> None:
    jobs, _ = await running(AT_ONCE)
    job = await started(jobs, "a", queue="q", name="mine", retries=retries)
    kinds: list[str] = []
    jobs.subscribe(lambda event: kinds.append(event.kind))
    await jobs.stop()

    assert (job.state, job.held, job.attempt, job.attempts, job.error) == (JobState.QUEUED, True, 0, [], None)
    assert kinds == ["interrupted"]
    assert any("go back to their place" in line and "'mine'" in line for line in warnings(caplog))
    assert not any("lost" in line for line in warnings(caplog))


async def test_a_job_that_fails_because_it_is_cut_off_goes_back_too() -> None:
    jobs, _ = await running(AT_ONCE)

    async def fails() -> None:
        seen.append("fails")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("in the middle") from None

    job = await jobs.task(fails).enqueue()
    await until(lambda: seen)
    await jobs.stop()

    assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 0, None)


async def test_a_job_whose_scope_still_closes_when_the_time_is_over_goes_back_too(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session
            seen.append("closes")
            await asyncio.Event().wait()  # a commit that waits for a lock, say

    jobs, _ = durable_jobs(shutdown_timeout=AT_ONCE, session_factory=get_session)

    @jobs.task
    async def work(session: AsyncSession) -> None:
        seen.append("ran")

    await jobs.open()
    await jobs.begin()
    job = await jobs.enqueue(work)
    await until(lambda: "closes" in seen)
    await jobs.stop()
    assert (job.state, job.error, job.attempt) == (JobState.QUEUED, None, 0)
    await engine.dispose()


async def test_a_job_that_was_cancelled_before_stays_cancelled_and_one_that_succeeds_all_the_same_succeeds() -> None:
    jobs, _ = await running(AT_ONCE)

    async def ends_well() -> str:
        seen.append("well")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "well"
        return "never"

    async def slow_to_stop() -> None:
        seen.append("slow")
        try:
            await asyncio.Event().wait()
        finally:
            await gates.setdefault("clean up", asyncio.Event()).wait()

    well, slow = await jobs.task(ends_well).enqueue(), await jobs.task(slow_to_stop).enqueue()
    await until(lambda: len(seen) == 2)
    await slow.cancel("enough")
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    gates["clean up"].set()
    await stopping

    assert (await well.result(), slow.state) == ("well", JobState.CANCELLED)


async def test_a_failure_of_its_own_is_tried_again_later_also_while_stopping() -> None:
    jobs, _ = await running()

    async def fails() -> None:
        seen.append("fails")
        await gates.setdefault("fail", asyncio.Event()).wait()
        raise ValueError("own")

    job = await jobs.task(retries=Retry(1))(fails).enqueue()
    await until(lambda: seen)
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    gates["fail"].set()
    await stopping

    assert (job.state, job.attempt, len(job.attempts)) == (JobState.SCHEDULED, 1, 1)


async def test_jobs_that_were_on_their_way_when_the_stop_began_go_back_without_having_begun() -> None:
    jobs, store = await running()
    await settle()
    answer = store.hold("answer")
    job = await jobs.enqueue(wait_for, "a")
    await until(lambda: job.state is JobState.RUNNING)  # claimed, and the answer not here
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    answer.set()
    await stopping

    assert (job.state, job.attempt, seen) == (JobState.QUEUED, 0, [])


async def test_without_draining_too_what_was_on_its_way_goes_back() -> None:
    jobs, store = await running()
    await settle()
    answer = store.hold("answer")
    job = await jobs.enqueue(wait_for, "a")
    await until(lambda: job.state is JobState.RUNNING)
    stopping = asyncio.ensure_future(jobs.stop(drain=False))
    await settle()
    answer.set()
    await stopping

    assert (job.state, job.attempt, seen) == (JobState.QUEUED, 0, [])


async def test_a_stop_while_the_database_is_away_ends_in_time_and_says_what_runs_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, store = await running(AT_ONCE)
    await started(jobs, "a", name="mine")
    store.away = True
    async with asyncio.timeout(5):
        await jobs.stop()

    assert any("they run again" in line and "'mine'" in line for line in warnings(caplog))
    assert not store.closed
    store.away = False


async def test_an_idle_engine_stops_at_once_though_the_database_is_away() -> None:
    jobs, store = await running(SOON)
    await settle()
    store.away = True
    jobs._engine.wake()
    await settle()
    async with asyncio.timeout(2):
        await jobs.stop()
    assert not store.closed


async def test_a_thread_that_does_not_end_keeps_its_row() -> None:
    jobs, store = await running(AT_ONCE)
    gate = threading.Event()

    def endless() -> None:
        seen.append("endless")
        gate.wait()

    job = await jobs.task(endless).enqueue()
    await until(lambda: seen)
    await jobs.stop()
    state = job.state
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as asyncio.run does at its end
        task.cancel()
    await settle()
    gate.set()
    await settle()

    assert (state, job.state) == (JobState.RUNNING, JobState.RUNNING)
    assert (store.closed, store.late) == (True, [])


async def test_a_thread_that_does_not_end_keeps_its_row_also_when_everything_is_cancelled_during_the_stop() -> None:
    jobs, store = await running(AT_ONCE)
    gate = threading.Event()

    def endless() -> None:
        seen.append("endless")
        gate.wait()

    job = await jobs.task(endless).enqueue()
    other = await started(jobs, "other")
    (run,) = [run for run in jobs._engine.executor.running if run.thread is not None]
    exchange = store.hold("exchange")
    stopping = asyncio.ensure_future(jobs.stop())
    await until(lambda: run.given_up)
    assert run.driver is not None
    run.driver.cancel()
    await settle()
    exchange.set()
    await stopping
    gate.set()

    assert (job.state, other.state) == (JobState.RUNNING, JobState.QUEUED)


async def test_a_coroutine_that_swallows_its_cancel_keeps_its_row(caplog: pytest.LogCaptureFixture) -> None:
    jobs, store = await running(AT_ONCE)

    async def swallows() -> None:
        seen.append("swallows")
        while "end" not in seen:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                seen.append("swallowed")

    job = await jobs.task(swallows).enqueue(name="mine")
    await until(lambda: seen)
    await jobs.stop()
    state = job.state
    seen.append("end")
    await until(lambda: not jobs._engine.executor.running)

    assert (state, job.state, store.late) == (JobState.RUNNING, JobState.RUNNING, [])
    assert any("do not stop" in line and "'mine'" in line for line in warnings(caplog))


async def test_with_nothing_left_to_do_a_stop_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    jobs, _ = await running()
    job = await started(jobs, "a")
    gates["a"].set()
    await job.wait(SOON)
    await jobs.stop()

    assert warnings(caplog) == []


async def test_a_stop_says_nothing_of_outcomes_that_are_just_being_stored(caplog: pytest.LogCaptureFixture) -> None:
    jobs, store = await running()
    job = await started(jobs, "a")
    exchange = store.hold("exchange")
    gates["a"].set()
    await settle()
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    exchange.set()
    await stopping

    assert (job.state, warnings(caplog)) == (JobState.SUCCEEDED, [])


async def test_a_store_that_does_not_take_an_outcome_is_waited_for_and_then_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, store = await running(AT_ONCE)
    await started(jobs, "a", name="mine")
    exchange = store.hold("exchange")
    gates["a"].set()
    await settle()
    await jobs.stop()
    exchange.set()

    waited, again = warnings(caplog)
    assert waited == "Stopping: waiting up to 0 s for the store to take what has ended"
    assert "1 job(s) have ended, but the store did not answer: they run again: 'mine'" in again


async def test_a_store_that_hangs_in_closing_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    jobs, store = await running(AT_ONCE)
    store.hold("close")
    async with asyncio.timeout(5):
        await jobs.stop()

    assert warnings(caplog) == ["The store's database did not answer while the application stopped"]


async def test_what_a_stop_gave_back_runs_after_the_next_start() -> None:
    jobs, _ = await running(AT_ONCE)
    job = await started(jobs, "a")
    await jobs.stop()
    gates["a"].set()
    async with jobs:
        assert await job.result(SOON) == "a"


def test_a_loop_that_was_closed_without_a_stop_leaves_nothing_that_the_next_start_waits_for() -> None:
    jobs, store = durable_jobs(shutdown_timeout=AT_ONCE)
    task = jobs.task(wait_for)

    lives: list[Job] = []

    async def first() -> None:
        await jobs.open()
        await jobs.begin()
        lives.append(await started(jobs, "a"))
        store.hold("exchange")
        jobs._engine.wake()
        await settle()

    async def second() -> str:
        store._gates.clear()
        gates.clear()
        gates["b"] = asyncio.Event()
        gates["b"].set()
        async with jobs:
            return str(await task.enqueue("b").result(SOON))

    asyncio.run(first())
    assert asyncio.run(second()) == "b"
    assert lives[0].state is JobState.RUNNING  # until the store sees that nobody runs it


async def test_a_stop_that_is_cancelled_does_the_rest_all_the_same() -> None:
    jobs, store = await running(SOON)
    job = await started(jobs, "a")
    task = jobs.task(key="unheard")(wait_for)
    gate = store.hold("add")
    late = task.enqueue("late")
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    stopping.cancel()  # a second signal: the draining is over
    await settle()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert (await late).stored
    assert store.closed


async def test_a_stop_that_is_cancelled_while_the_database_is_away_ends_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, store = await running(SOON)
    await started(jobs, "a", name="mine")
    store.away = True
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    for _ in range(3):
        stopping.cancel()
        await settle()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert any("they run again" in line and "'mine'" in line for line in warnings(caplog))
    store.away = False


async def test_threads_that_did_not_end_take_no_place_after_the_next_start() -> None:
    jobs, _ = await running(AT_ONCE, threads=1)
    gate = threading.Event()

    def endless() -> None:
        seen.append("endless")
        gate.wait()

    def quick() -> str:
        return "quick"

    await jobs.task(endless).enqueue()
    await until(lambda: seen)
    await jobs.stop()
    gate.set()
    await until(lambda: not jobs._engine.executor.running)
    task = jobs.task(quick)
    async with jobs:
        assert await task.enqueue().result(SOON) == "quick"
