"""What is enqueued on a durable store is stored in the order of the calls; who awaits it hears of that."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from asgi_jobs import Job, Jobs, JobState, NotRunning, NotStored, QueueFull, StoreLocked
from asgi_jobs.engine import writer as module
from asgi_jobs.errors import StoreAway
from asgi_jobs.testing import settle
from tests.engine.durable import LaterStore, durable_jobs

SOON = timedelta(seconds=10)
seen: list[Any] = []


async def work(word: str = "") -> str:
    seen.append(word)
    return f"did {word}"


def in_thread(number: int) -> int:
    return number + 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_WHILE_AWAY", 0)
    seen.clear()


@pytest.fixture
async def rig() -> AsyncIterator[tuple[Jobs, LaterStore]]:
    jobs, store = durable_jobs()
    jobs.task(work)
    jobs.task(in_thread)
    async with jobs:
        yield jobs, store


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_an_awaited_job_is_stored_and_runs_with_its_arguments(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    store.hold("exchange")

    job = await jobs.enqueue(work, "a", name="first")
    accepted = job.stored, job.state
    store._gates["exchange"].set()

    assert accepted == (True, JobState.QUEUED)
    assert await job.result(SOON) == "did a"
    assert (await jobs.get(job.id)).state is JobState.SUCCEEDED


async def test_before_it_is_stored_a_job_says_so(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("add")

    job = jobs.enqueue(work, name="first")
    early = job.stored, repr(job)
    gate.set()
    await job

    assert early == (False, f"<Job 'first' of {job.task}, not stored yet>")
    assert job.stored


async def test_jobs_are_stored_in_the_order_of_the_calls_and_what_waits_goes_in_one_batch(
    rig: tuple[Jobs, LaterStore],
) -> None:
    jobs, store = rig
    gate = store.hold("add")
    first = jobs.enqueue(work, name="1")
    await until(lambda: store.batches)
    rest = [jobs.enqueue(work, name=name) for name in "234"]
    gate.set()
    await asyncio.gather(first, *rest)

    assert store.batches == [["1"], ["2", "3", "4"]]


async def test_a_job_can_be_awaited_any_number_of_times(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("add")
    job = jobs.enqueue(work)
    waiting = [asyncio.ensure_future(awaited(job)) for _ in range(3)]
    await settle()
    gate.set()

    assert [await one for one in waiting] == [job] * 3
    assert await job is job


async def awaited(job: Job) -> Job:
    return await job


async def test_an_awaiter_that_is_cancelled_disturbs_nobody(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("add")
    job = jobs.enqueue(work)
    impatient, patient = (asyncio.ensure_future(awaited(job)) for _ in range(2))
    await settle()
    impatient.cancel()
    await settle()
    gate.set()

    assert (await patient).stored
    assert impatient.cancelled()


async def test_while_the_database_is_away_jobs_wait_in_their_order_and_nobody_hears_an_error(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    store.away = True
    waiting = [jobs.enqueue(work, name=name, queue="q") for name in "123"]
    await until(lambda: len(store.batches) > 2)
    waiting.append(jobs.enqueue(work, name="4", queue="q"))
    await settle()
    store.away = False
    stored = await asyncio.gather(*waiting)

    assert store.batches[-2] + store.batches[-1] == ["1", "2", "3", "4"]
    assert [job.stored for job in stored] == [True] * 4
    assert not caplog.records  # the store logs it, once


async def test_one_that_cannot_be_stored_fails_alone_and_the_others_keep_their_order(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    gate = store.hold("add")
    first = jobs.enqueue(work, name="0")
    await until(lambda: store.batches)
    rest = [jobs.enqueue(work, name=name) for name in "123"]
    broken = ValueError("the row does not fit")
    gate.set()
    await first
    store.fail("add", ConnectionError("of the batch"))
    refuse_second(store, broken)
    answers = await asyncio.gather(*rest, return_exceptions=True)

    assert store.batches[1:] == [["1", "2", "3"], ["1"], ["2"], ["3"]]
    assert [type(answer).__name__ for answer in answers] == ["Enqueued", "NotStored", "Enqueued"]
    assert isinstance(answers[1], NotStored)
    assert answers[1].__cause__ is broken
    assert "'2'" in caplog.text
    for wait in (rest[1].wait, rest[1].result, rest[1].refresh):
        with pytest.raises(NotStored, match="the row does not fit"):
            await wait()


def refuse_second(store: LaterStore, error: Exception) -> None:
    """Let the store refuse the job named 2, when it comes alone."""
    add = store.add

    async def refusing(records: Any, **rest: Any) -> Any:
        if [record.name for record in records] == ["2"]:
            store.fail("add", error)
        return await add(records, **rest)

    store.add = refusing  # type: ignore[method-assign]


async def test_one_by_one_too_a_database_that_goes_away_fails_nothing(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("add")
    store.fail("add", ConnectionError("of the batch"), StoreAway("away"), StoreLocked("for a moment"))
    made = [jobs.enqueue(work, name=name) for name in "12"]
    await until(lambda: store.batches)
    gate.set()
    await until(lambda: all(job.stored for job in made))

    assert store.batches == [["1", "2"], ["1"], ["1", "2"], ["1", "2"]]
    await asyncio.gather(*made)


async def test_to_flush_hears_of_what_threads_have_handed_over(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    made: list[Job] = []
    asyncio.get_running_loop().call_soon(lambda: made.append(jobs.enqueue(work, name="handed over")))
    assert jobs._engine.durable is not None
    await jobs._engine.durable.writer.flush()

    assert store.batches == [["handed over"]]
    await made[0]


async def test_a_failure_is_logged_even_if_nobody_waits(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    store.fail("add", ValueError("no"))
    job = jobs.enqueue(work, name="unheard")
    await until(lambda: caplog.records)

    assert caplog.records[0].levelno == logging.ERROR
    assert "'unheard'" in caplog.text
    with pytest.raises(NotStored):
        await job


async def test_a_locked_database_is_told_to_who_awaits_and_the_others_go_on_waiting(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    store.fail("add", StoreLocked("use on_commit"), StoreLocked("use on_commit"))
    gate = store.hold("add")
    heard, unheard = jobs.enqueue(work, name="heard"), jobs.enqueue(work, name="unheard")
    waiting = asyncio.ensure_future(awaited(heard))
    await settle()
    gate.set()

    with pytest.raises(StoreLocked, match="use on_commit"):
        await waiting
    await until(lambda: unheard.stored)
    with pytest.raises(StoreLocked):
        await heard.wait()
    assert caplog.text.count("is locked") == 1
    await unheard


async def test_a_key_that_is_taken_gives_the_job_that_has_it(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("exchange")
    first = await jobs.enqueue(work, "first", unique="key")
    second = await jobs.enqueue(work, "second", unique="key")
    third = jobs.enqueue(work, "third", unique="key")
    gate.set()

    assert second == first
    assert second.id == first.id
    assert await third.result(SOON) == "did first"
    assert seen == ["first"]


async def test_too_many_jobs_that_wait_to_be_stored_are_refused_at_the_call() -> None:
    jobs, store = durable_jobs(max_queued=2)
    task = jobs.task(work)
    async with jobs:
        gate = store.hold("add")
        waiting = [task.enqueue() for _ in range(2)]
        with pytest.raises(QueueFull, match="wait to be stored"):
            task.enqueue()
        gate.set()
        await asyncio.gather(*waiting)


async def test_the_stores_own_count_is_a_bound_too() -> None:
    jobs, store = durable_jobs(max_queued=2)
    task = jobs.task(work)
    async with jobs:
        store.hold("exchange")
        await asyncio.gather(task.enqueue(), task.enqueue())
        with pytest.raises(QueueFull):
            task.enqueue()
        store._gates["exchange"].set()


async def test_from_a_thread_the_call_returns_when_the_job_is_stored(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("add")
    call = asyncio.create_task(asyncio.to_thread(jobs.enqueue, work, "there"))
    await until(lambda: store.batches)
    early = call.done()
    gate.set()
    job = await call

    assert not early
    assert job.stored
    assert await job.result(SOON) == "did there"


async def test_from_a_thread_the_call_raises_what_the_store_refuses(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    store.fail("add", ValueError("no"))
    with pytest.raises(NotStored, match="ValueError: no"):
        await asyncio.to_thread(jobs.enqueue, work)


async def test_from_a_thread_a_key_that_is_taken_gives_the_job_that_has_it(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("exchange")
    first = await jobs.enqueue(work, "first", unique="key")
    assert await asyncio.to_thread(lambda: jobs.enqueue(work, "second", unique="key")) == first
    gate.set()


async def test_a_thread_that_comes_too_late_is_refused_at_the_door(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    engine, at_the_door = jobs._engine, asyncio.Event()
    ours = asyncio.get_running_loop()
    store.refuse_full = lambda _: ours.call_soon_threadsafe(at_the_door.set)  # type: ignore[method-assign, assignment]
    with engine.door:
        call = asyncio.create_task(asyncio.to_thread(jobs.enqueue, work))
        await at_the_door.wait()
        engine.status, engine.open_to_all = "stopped", False
    with pytest.raises(NotRunning):
        await call
    engine.status, engine.open_to_all = "running", True
    assert store.batches == []


async def test_a_thread_whose_job_comes_after_the_last_was_stored_hears_so(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    assert jobs._engine.durable is not None
    await jobs._engine.durable.writer.close(1)
    async with asyncio.timeout(5):
        with pytest.raises(NotStored, match="stopped before"):
            await asyncio.to_thread(jobs.enqueue, work)


async def test_a_thread_job_may_enqueue(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig

    def outer() -> str:
        return jobs.enqueue(work, "from a thread", name="inner").id

    job = await jobs.task(outer).enqueue()
    inner = await jobs.get(await job.result(SOON))

    await inner.wait(SOON)
    assert seen == ["from a thread"]


def test_a_thread_does_not_wait_for_a_loop_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_jobs.engine.entrance.LOOK_AT_LOOP", 0.01)
    jobs, store = durable_jobs()
    task = jobs.task(work)
    raised: list[Exception] = []

    def enqueue() -> None:
        try:
            task.enqueue()
        except Exception as error:
            raised.append(error)

    async def main() -> threading.Thread:
        await jobs.open()
        store.hold("add")
        thread = threading.Thread(target=enqueue)
        thread.start()
        await until(lambda: store.batches)
        return thread

    asyncio.run(main()).join(5)

    assert [type(error).__name__ for error in raised] == ["NotRunning"]


async def test_a_job_that_is_never_awaited_is_stored_and_warned_of_at_the_line_that_enqueued_it(
    rig: tuple[Jobs, LaterStore],
) -> None:
    jobs, store = rig
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jobs.enqueue(work, name="careless")

    assert [(one.category, one.filename) for one in caught] == [(RuntimeWarning, __file__)]
    assert "'careless'" in str(caught[0].message)
    assert "await" in str(caught[0].message)
    await jobs.join()
    assert store.batches == [["careless"]]


@pytest.mark.parametrize("verb", ["await", "wait", "result", "refresh", "cancel"])
async def test_a_job_that_was_awaited_or_asked_is_not_warned_of(rig: tuple[Jobs, LaterStore], verb: str) -> None:
    jobs, _ = rig
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = jobs.enqueue(work)
        if verb == "await":
            await job
        elif verb == "cancel":
            await job.cancel()
        else:
            await getattr(job, verb)()
        del job
        gc.collect()


async def test_a_job_is_cancelled_after_it_was_stored(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("exchange")
    job = await jobs.enqueue(work, "no").cancel("changed my mind")
    gate.set()

    assert (job.state, job.cancel_reason) == (JobState.CANCELLED, "changed my mind")
    assert seen == []


async def test_listeners_hear_of_a_job_once_it_is_stored(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    kinds: list[tuple[str, bool]] = []
    jobs.subscribe(lambda event: kinds.append((event.kind, event.job.stored)))
    gate = store.hold("add")
    job = jobs.enqueue(work)
    await settle()
    early = list(kinds)
    gate.set()
    await job.wait(SOON)

    assert early == []
    assert kinds == [("enqueued", True), ("started", True), ("succeeded", True)]


# Stopping


async def test_at_the_stop_what_waits_is_still_stored() -> None:
    jobs, store = durable_jobs()
    task = jobs.task(work)
    await jobs.open()
    await jobs.begin()
    store.hold("add")
    job = task.enqueue(name="last")
    stopping = asyncio.create_task(jobs.stop())
    await settle()
    store._gates["add"].set()
    await stopping

    assert (await job).stored
    assert store.batches == [["last"]]


async def test_at_the_stop_what_cannot_be_stored_in_time_is_named(caplog: pytest.LogCaptureFixture) -> None:
    jobs, store = durable_jobs(shutdown_timeout=timedelta(0))
    task = jobs.task(work)
    async with jobs:
        store.away = True
        job = task.enqueue(name="last")
        await settle()

    with pytest.raises(NotStored, match="stopped before the store had taken it"):
        await job
    assert "1 job(s) were not stored" in caplog.text
    assert "'last'" in caplog.text


async def test_after_a_restart_jobs_are_stored_again() -> None:
    jobs, _ = durable_jobs()
    task = jobs.task(work)
    for word in "ab":
        async with jobs:
            await (await task.enqueue(word)).wait(SOON)

    assert seen == ["a", "b"]
