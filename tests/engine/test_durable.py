"""What an engine does where jobs outlive the process: declared tasks, waiting for what runs elsewhere, being told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from dishka import Provider, Scope

from asgi_jobs import (
    ArgumentsGone,
    DeadlockError,
    InvalidCall,
    InvalidOption,
    InvalidState,
    Job,
    JobNotFound,
    Jobs,
    JobState,
    ResultNotKept,
    StoreAway,
    StoreLocked,
    StoreUnusable,
    current_job,
)
from asgi_jobs.engine import dispatcher, durable
from asgi_jobs.stores.base import Worker
from asgi_jobs.testing import FakeClock, settle
from tests.engine.durable import LaterStore, durable_jobs

SOON = timedelta(seconds=10)
seen: list[Any] = []
gates: dict[str, asyncio.Event] = {}


async def work(word: str = "") -> str:
    seen.append(word)
    return f"did {word}"


async def wait_for(gate: str) -> str:
    """Say when it starts, and how it ends."""
    seen.append(f"{gate} starts")
    try:
        await gates.setdefault(gate, asyncio.Event()).wait()
    except asyncio.CancelledError:
        seen.append(f"{gate} is cancelled")
        raise
    return gate


class Sender:
    async def send(self, to: str) -> str:
        return f"sent to {to}"


class LoudSender(Sender):
    pass


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    gates.clear()
    monkeypatch.setattr(dispatcher, "PAUSE_AFTER_ERROR", 0)
    monkeypatch.setattr(durable, "PAUSE_WHILE_AWAY", 0)


@pytest.fixture
async def rig() -> AsyncIterator[tuple[Jobs, LaterStore]]:
    jobs, store = durable_jobs(shutdown_timeout=timedelta(seconds=1))
    jobs.task(work)
    jobs.task(wait_for)
    async with jobs:
        yield jobs, store


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def started(jobs: Jobs, gate: str, **options: Any) -> Job:
    job = await jobs.enqueue(wait_for, gate, **options)
    await until(lambda: f"{gate} starts" in seen)
    return job


def watched(jobs: Jobs) -> list[str]:
    kinds: list[str] = []
    jobs.subscribe(lambda event: kinds.append(event.kind))
    return kinds


# What can be stored


async def test_a_function_that_is_no_declared_task_is_refused_at_the_call(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig

    async def undeclared() -> None:
        pass

    word = "closure"
    for function in (undeclared, lambda: None, lambda: word, print):
        with pytest.raises(InvalidCall, match=r"@jobs\.task"):
            jobs.enqueue(function)
    with pytest.raises(InvalidCall, match=r"@jobs\.task"):
        jobs.enqueue_with(Sender, lambda sender: sender.send("you"))
    with pytest.raises(InvalidCall, match="called already"):
        jobs.enqueue(work())  # type: ignore[arg-type]


async def test_a_task_can_be_enqueued_by_its_function(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    assert await jobs.enqueue(work, "it").result(SOON) == "did it"


async def test_a_task_of_another_jobs_is_refused(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    task = durable_jobs()[0].task(work)
    with pytest.raises(InvalidCall, match="another Jobs"):
        jobs.enqueue(task)


async def test_a_method_of_a_service_that_was_declared_can_be_enqueued_in_both_ways() -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Sender)
    jobs, _ = durable_jobs(providers=[provider])
    jobs.task(Sender.send)
    async with jobs:
        assert await jobs.enqueue(Sender.send, "you").result(SOON) == "sent to you"
        assert await jobs.enqueue_with(Sender, "send", "me").result(SOON) == "sent to me"
        for service, method in ((Sender, "sends"), (LoudSender, "send")):  # no such method, and of another service
            with pytest.raises(InvalidCall, match=r"@jobs\.task"):
                jobs.enqueue_with(service, method, "me")


async def test_an_argument_that_is_no_json_is_refused_at_the_call_by_its_name(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    with pytest.raises(InvalidCall, match="'word'"):
        jobs.enqueue(work, object())
    assert store.batches == []


async def test_the_record_keeps_the_arguments_as_json_only_and_no_view_of_itself(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    store.hold("exchange")
    record = (await jobs.enqueue(work, "it"))._record
    again = await jobs.get(record.id)

    assert (record.args, record.kwargs, record.view) == ((), None, None)
    assert record.detail().payload == '["it"]'
    assert again._record is record
    assert record.view is None
    store._gates["exchange"].set()


async def test_a_job_is_run_again_with_what_is_stored_of_it(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    first = await jobs.enqueue(work, "it", name="mine", queue="q").wait(SOON)
    second = await jobs.retry(first.id)

    assert await second.result(SOON) == "did it"
    assert (second.name, second.queue, second.source, second.retry_of) == ("mine", "q", "manual", first.id)
    assert first.repeatable


async def test_a_job_of_a_task_that_is_not_declared_here_can_be_run_again_by_those_who_know_it(
    rig: tuple[Jobs, LaterStore],
) -> None:
    jobs, store = rig
    first = await jobs.enqueue(work, "it").wait(SOON)
    store.hold("exchange")
    first._record.func = None  # as the store reads it, then
    second = await jobs.retry(first.id)

    assert first.repeatable
    assert second._record.detail().payload == '["it"]'
    assert second.task == first.task
    store._gates["exchange"].set()


async def test_a_job_whose_arguments_are_gone_cannot_be_run_again(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    job = await jobs.enqueue(work, "it").wait(SOON)
    job._record.detail().payload = None
    with pytest.raises(ArgumentsGone):
        await jobs.retry(job.id)


async def test_a_declared_task_is_run_from_the_page(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig
    job = await jobs.run_task(next(task.task for task in await jobs.tasks() if "work" in task.task))
    assert await job.result(SOON) == "did "


# Waiting


async def test_who_waits_for_a_job_hears_of_its_end_in_another_process() -> None:
    jobs, store = durable_jobs(concurrency=0)
    task = jobs.task(work)
    async with jobs:
        job = await task.enqueue()
        waiting = asyncio.ensure_future(job.wait(SOON))
        await until(lambda: store.watched)
        store.end_elsewhere(job._record)

        assert (await waiting).state is JobState.SUCCEEDED
        with pytest.raises(ResultNotKept):
            await job.result()
        assert "exchange" not in store.calls


async def test_a_job_that_had_ended_elsewhere_is_not_waited_for(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    gate = store.hold("watch")
    store.hold("exchange")
    job = await jobs.enqueue(work)
    waiting = asyncio.ensure_future(job.wait(SOON))
    await until(lambda: store.watched)
    store.end_elsewhere(job._record)  # between the question and its answer
    gate.set()

    assert (await waiting).state is JobState.SUCCEEDED
    store._gates["exchange"].set()


async def test_waiting_goes_on_while_the_database_is_away(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    store.fail("watch", StoreAway("away"), StoreAway("away"))
    waiting = asyncio.ensure_future(job.result(SOON))
    await until(lambda: len(store.watched) == 3)
    gates["it"].set()

    assert await waiting == "it"


async def test_the_time_for_waiting_counts_from_the_call_also_before_the_job_is_stored(
    rig: tuple[Jobs, LaterStore],
) -> None:
    jobs, store = rig
    gate = store.hold("add")
    with pytest.raises(TimeoutError, match="had not ended after 0 seconds"):
        await jobs.enqueue(work).wait(timedelta(0))
    gate.set()


async def test_a_job_whose_record_has_gone_is_not_found(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    waiting = asyncio.ensure_future(job.wait(SOON))
    await until(lambda: store.watched)
    jobs._engine.ended([job.id])  # which the store says, too, where the row is gone
    with pytest.raises(JobNotFound, match="its record is gone"):
        await waiting
    del store._records[job._record.number]
    with pytest.raises(JobNotFound, match="is gone"):
        await job.refresh()
    gates["it"].set()
    store._records[job._record.number] = job._record


async def test_a_job_that_waits_for_another_lends_its_place() -> None:
    jobs, _ = durable_jobs(concurrency=1)
    inner = jobs.task(work)

    async def outer() -> str:
        return str(await (await inner.enqueue("inside")).result())

    async with jobs:
        assert await jobs.task(outer).enqueue().result(SOON) == "did inside"


async def test_a_wait_that_could_never_end_is_refused() -> None:
    jobs, _ = durable_jobs()
    inner = jobs.task(work)

    async def outer() -> str:
        job = await inner.enqueue(queue="q")
        try:
            await job.wait()
        except DeadlockError:
            return "refused"
        return "waited"

    async with jobs:
        assert await jobs.task(queue="q")(outer).enqueue().result(SOON) == "refused"


async def test_join_waits_for_what_is_not_stored_yet_and_for_what_runs_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable, "ASK_AGAIN", 0.01)
    jobs, store = durable_jobs(concurrency=0)
    task = jobs.task(work)
    async with jobs:
        gate = store.hold("add")
        job = task.enqueue()
        joining = asyncio.ensure_future(jobs.join())
        await settle()
        gate.set()
        await job
        await until(lambda: store.calls.count("pending") > 2)
        early = joining.done()
        store.end_elsewhere(job._record)
        await joining

    assert not early


async def test_join_asks_at_once_when_the_last_job_here_has_ended(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    await started(jobs, "it")
    joining = asyncio.ensure_future(jobs.join())
    await until(lambda: store.calls.count("pending") == 1)
    gates["it"].set()
    async with asyncio.timeout(0.5):
        await joining


@pytest.mark.parametrize("how", ["ended", "wake"])
async def test_join_asks_at_once_when_it_is_told_of_something_elsewhere(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(durable, "ASK_AGAIN", 60)
    jobs, store = durable_jobs(concurrency=0)
    task = jobs.task(work)
    async with jobs:
        job = await task.enqueue()
        joining = asyncio.ensure_future(jobs.join())
        await until(lambda: store.calls.count("pending") == 1)
        await settle()  # it has its answer
        if how == "ended":
            store.end_elsewhere(job._record)
        else:
            store.claim_elsewhere(job._record)
            store.end(job._record)
            store.callbacks.wake()
        async with asyncio.timeout(5):
            await joining


async def test_join_inside_a_job_is_refused(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig

    async def joins() -> None:
        await jobs.join()

    job = await jobs.task(joins).enqueue().wait(SOON)
    assert job.error is not None
    assert job.error.type.endswith("DeadlockError")


# Being told


async def test_a_job_that_another_process_asks_to_stop_is_cancelled_once(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    await store.cancel([job.id], "elsewhere")
    for _ in range(2):  # told, and found by looking
        store.callbacks.asked_to_stop(job.id)
    await job.wait(SOON)

    assert (job.state, job.cancel_reason) == (JobState.CANCELLED, "elsewhere")
    assert seen == ["it starts", "it is cancelled"]


@pytest.mark.parametrize("how", ["told", "marked"])
async def test_a_job_that_is_asked_to_stop_while_its_start_is_on_its_way_never_begins(
    rig: tuple[Jobs, LaterStore], how: str
) -> None:
    jobs, store = rig
    await settle()  # the first look finds nothing
    answer = store.hold("answer")
    job = await jobs.enqueue(wait_for, "it")
    await until(lambda: job.state is JobState.RUNNING)  # claimed, and nobody here knows
    if how == "told":
        store.callbacks.asked_to_stop(job.id)
    else:
        await store.cancel([job.id], "")
    answer.set()
    await job.wait(SOON)

    assert job.state is JobState.CANCELLED
    assert seen == []


async def test_a_job_that_may_not_go_on_here_goes_back_to_its_place_and_does_not_count(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    job, other = await started(jobs, "it"), await started(jobs, "other")
    kinds = watched(jobs)
    store.callbacks.lost([job.id])
    await until(lambda: seen.count("it starts") == 2)

    assert (job.attempt, job.attempts, job.state) == (1, [], JobState.RUNNING)
    assert kinds == ["interrupted", "started"]
    assert [record.getMessage() for record in caplog.records if "may not go on" in record.message] != []
    gates["it"].set()
    gates["other"].set()
    await asyncio.gather(job.wait(SOON), other.wait(SOON))
    assert "other is cancelled" not in seen


async def test_a_job_that_went_back_is_told_of_before_it_starts_again_also_after_an_exchange_that_failed(
    rig: tuple[Jobs, LaterStore],
) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    told: list[tuple[str, JobState]] = []
    jobs.subscribe(lambda event: told.append((event.kind, event.job.state)))
    exchange = store.hold("exchange")
    jobs._engine.wake()
    await settle()
    store.callbacks.lost([job.id])
    await settle()
    store.fail("exchange", StoreAway("away"))
    exchange.set()
    await until(lambda: seen.count("it starts") == 2)
    gates["it"].set()

    assert told == [("interrupted", JobState.QUEUED), ("started", JobState.RUNNING)]


async def test_all_that_runs_may_be_lost_at_once(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    both = [await started(jobs, name) for name in ("a", "b")]
    store.callbacks.lost(None)
    await until(lambda: len(seen) == 6)
    for gate in gates.values():
        gate.set()

    assert [await job.result(SOON) for job in both] == ["a", "b"]


async def test_a_body_that_fails_because_it_was_lost_is_no_failure(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig

    async def stubborn() -> str:
        seen.append("begins")
        try:
            if len(seen) == 1:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("interrupted in the middle of a statement") from None
        return "done"

    job = await jobs.task(stubborn).enqueue()
    await until(lambda: seen)
    store.callbacks.lost([job.id])

    assert await job.result(SOON) == "done"
    assert (job.attempt, len(job.attempts)) == (1, 1)


async def test_an_outcome_that_is_refused_is_not_told_as_an_end(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    kinds = watched(jobs)
    waiting = asyncio.ensure_future(job.wait(SOON))
    await until(lambda: store.watched)
    store.taken.add(job.id)
    gates["it"].set()
    await until(lambda: caplog.records)
    early = waiting.done()
    job._record.finished, job._record.state = 1.0, JobState.SUCCEEDED  # as the store reads it, when it has ended there
    store.callbacks.ended([job.id])
    await waiting
    with pytest.raises(ResultNotKept):  # what it gave here does not count
        await job.result()

    assert "outcome of 1 job(s) was refused" in caplog.text
    assert (early, kinds) == (False, [])
    job._record.finished, job._record.state = None, JobState.RUNNING
    store.end(job._record)


@pytest.mark.parametrize("error", [StoreAway, StoreLocked, StoreUnusable])
async def test_while_the_database_does_not_take_them_outcomes_wait_and_nothing_is_logged(
    rig: tuple[Jobs, LaterStore], caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    for verb in ("exchange", "due", "pending", "watch"):
        store.fail(verb, *[error("which the store has logged")] * 20)
    waiting = asyncio.gather(jobs.join(), job.wait(SOON))
    gates["it"].set()
    await waiting

    assert await job.result(SOON) == "it"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# The rest


async def test_with_no_concurrency_nothing_is_claimed_and_no_schedule_proposed() -> None:
    clock = FakeClock()
    jobs, store = durable_jobs(concurrency=0, clock=clock)
    jobs.task(every=timedelta(minutes=1))(work)
    async with jobs:
        await clock.advance(timedelta(minutes=3))
        info = (await jobs.tasks())[0]

    assert "exchange" not in store.calls
    assert store._records == {}
    assert info.next_run is not None  # where schedules are proposed


async def test_a_schedule_counts_from_when_the_store_first_saw_it() -> None:
    clock = FakeClock()
    jobs, store = durable_jobs(clock=clock)
    jobs.task(every=timedelta(hours=1))(work)
    store.since = clock.time() - 3_590
    async with jobs:
        await clock.advance(timedelta(seconds=5))
        early = list(seen)
        await clock.advance(timedelta(seconds=15))

    assert (early, seen) == ([], [""])


async def test_what_is_due_is_looked_for_also_when_others_enqueued_it() -> None:
    clock = FakeClock()
    jobs, store = durable_jobs(clock=clock)
    async with jobs:
        await clock.advance(timedelta(seconds=21))

    assert store.calls.count("due") == 5


async def test_a_job_is_released_only_while_it_runs(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    released = await jobs.release(job.id)
    gates["it"].set()
    await job.wait(SOON)

    assert released == job
    assert store.released == [job.name]
    with pytest.raises(InvalidState, match="does not run"):
        await jobs.release(job.id)
    with pytest.raises(JobNotFound):
        await jobs.release("nobody")


async def test_the_workers_are_shown_with_what_they_run(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    job = await started(jobs, "it")
    running = (job._record,)
    store.people = [
        Worker(
            id=7,
            host="a",
            pid=1,
            started=0.0,
            seen=60.0,
            alive=True,
            standby=False,
            concurrency=3,
            tasks=("x:y",),
            busy=1,
            running=running,
        )
    ]
    worker = (await jobs.workers())[0]
    short = (await jobs.workers(running=False))[0]
    gates["it"].set()

    assert (worker.id, worker.host, worker.pid, worker.concurrency, worker.tasks) == (7, "a", 1, 3, ("x:y",))
    assert worker.alive
    assert worker.seen_at - worker.started_at == timedelta(minutes=1)
    assert (worker.busy, worker.standby, worker.running) == (1, False, [job])
    assert (short.busy, short.running) == (1, [])
    assert await jobs.unknown_tasks() == {"gone:task": 3}


async def test_in_memory_there_are_no_workers(jobs: Jobs) -> None:
    assert (await jobs.workers(), await jobs.unknown_tasks()) == ([], {})


async def test_health_says_when_the_store_does_not_answer(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    fine = await jobs.health()
    store.away = True
    ill = await jobs.health()
    store.away = False

    store.fail("standings", StoreAway("gone this moment"))
    going = await jobs.health()

    assert (fine.ok, fine.reasons) == (True, [])
    assert (going.ok, going.reasons) == (False, ["gone this moment"])
    assert (ill.ok, ill.reasons) == (False, ["the database does not answer"])


async def test_a_claim_is_the_stores_number(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, _ = rig

    async def claims() -> int:
        return current_job().claim

    task = jobs.task(claims)
    first, second = await task.enqueue().result(SOON), await task.enqueue().result(SOON)
    assert (first, second) == (1, 2)


def test_the_concurrency_may_be_set_before_the_start() -> None:
    jobs, store = durable_jobs(concurrency=0)
    jobs.set_concurrency(3)
    assert (jobs.settings.concurrency, store.concurrency) == (3, 3)
    with pytest.raises(InvalidOption, match="concurrency"):
        jobs.set_concurrency(-1)


async def test_the_concurrency_that_was_set_holds_and_stays_after_the_start() -> None:
    jobs, _ = durable_jobs(concurrency=0)
    task = jobs.task(work)
    jobs.set_concurrency(1)
    async with jobs:
        assert await task.enqueue("it").result(SOON) == "did it"
        with pytest.raises(InvalidState, match="has started"):
            jobs.set_concurrency(2)


async def test_verbs_work_on_another_event_loop_too(rig: tuple[Jobs, LaterStore]) -> None:
    jobs, store = rig
    ours = asyncio.get_running_loop()
    loops: list[Any] = []
    later = store.later

    async def noting(verb: str, *args: Any, **rest: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        return await later(verb, *args, **rest)

    store.later = noting  # type: ignore[method-assign]

    async def there() -> str:
        job = jobs.enqueue(work, "there")  # from a thread: stored when this returns
        await job
        await jobs.get(job.id)
        await jobs.find()
        await jobs.counts()
        await jobs.queues()
        await jobs.pause("q")
        await jobs.resume("q")
        await jobs.workers()
        await jobs.health()
        await jobs.tasks()
        await (await jobs.retry((await job.wait(SOON)).id)).wait(SOON)
        return (await job.refresh()).name

    assert (await asyncio.to_thread(asyncio.run, there())).endswith("work")
    assert set(loops) == {ours}


async def test_a_job_that_runs_in_another_process_can_be_waited_for_in_a_job() -> None:
    jobs, store = durable_jobs(queues={"q": 1})
    inner = jobs.task(work)
    held: list[Job] = []

    async def outer() -> str:
        job = await inner.enqueue(queue="q")
        held.append(job)
        await until(lambda: job.state is JobState.RUNNING)  # there
        await job.wait()
        return "waited"

    async with jobs:
        gate = store.hold("add")
        await settle()
        waiting = jobs.task(outer).enqueue()
        store.elsewhere = "work"
        gate.set()
        await until(lambda: held and store.watched == ["work"])
        store.end(held[0]._record)
        store.callbacks.ended([held[0].id])
        assert await waiting.result(SOON) == "waited"


async def test_a_store_that_cannot_be_opened_leaves_an_engine_that_can_be_started_later() -> None:
    jobs, store = durable_jobs()
    task = jobs.task(work)
    opening = store.open

    def failing(_: Any) -> None:
        raise StoreAway("no server")

    store.open = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreAway):
        await jobs.open()
    status = jobs.status
    store.open = opening  # type: ignore[method-assign]
    async with jobs:
        assert await task.enqueue("it").result(SOON) == "did it"

    assert status == "new"
