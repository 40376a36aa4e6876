"""Starting, stopping and starting again: by `async with`, from many tasks, threads and loops."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from dishka import Provider, Scope, provide
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_jobs import Job, Jobs, JobsMiddleware, JobState, NotRunning, ShuttingDown
from asgi_jobs.clock import Clock
from asgi_jobs.testing import settle
from tests.servers.testclient import TestClient

T = TypeVar("T")
SOON = timedelta(seconds=5)
SHORT = timedelta(seconds=1)


async def noop() -> None:
    pass


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until the condition is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@contextmanager
def elsewhere() -> Iterator[Callable[[Coroutine[Any, Any, T]], Future[T]]]:
    """An event loop in another thread; gives what runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def in_thread(function: Callable[[], T]) -> T:
    async with asyncio.timeout(10):
        return await asyncio.to_thread(function)


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    # Parallel test processes look like server processes with one parent.
    return [r.getMessage() for r in caplog.records if r.levelno >= level and "server processes" not in r.message]


# Start, stop, start again


async def test_the_status_follows_the_life() -> None:
    jobs = Jobs(authorize="local")
    seen = [jobs.status]

    await jobs.open()
    seen.append(jobs.status)
    await jobs.begin()
    seen.append(jobs.status)
    job = jobs.enqueue(asyncio.sleep, 0)
    stopping = asyncio.create_task(jobs.stop())
    await until(lambda: jobs.status != "running")
    seen.append(jobs.status)
    await stopping
    seen.append(jobs.status)

    assert seen == ["new", "starting", "running", "stopping", "stopped"]
    assert job.state is JobState.SUCCEEDED


async def test_a_stop_without_a_start_does_nothing() -> None:
    jobs = Jobs(authorize="local")

    await jobs.stop()

    assert jobs.status == "new"


async def test_before_the_start_and_after_the_stop_nothing_can_be_enqueued() -> None:
    jobs = Jobs(authorize="local")

    with pytest.raises(NotRunning, match="has not started"):
        jobs.enqueue(noop)
    async with jobs:
        pass
    with pytest.raises(NotRunning, match="has stopped"):
        jobs.enqueue(noop)


async def test_what_is_enqueued_during_the_start_up_starts_when_it_has_completed() -> None:
    jobs = Jobs(authorize="local")
    await jobs.open()
    job = jobs.enqueue(noop)

    await settle()
    early = job.state
    await jobs.begin()
    await job.wait(SOON)
    await jobs.stop()

    assert early is JobState.QUEUED
    assert job.state is JobState.SUCCEEDED


async def test_after_a_restart_the_records_are_there_ids_are_unique_and_new_jobs_run() -> None:
    jobs = Jobs(authorize="local")
    ids = []
    for _ in range(3):
        async with jobs:
            ids += [(await jobs.enqueue(noop, queue=queue).wait(SOON)).id for queue in (None, "mail")]

    assert len(set(ids)) == 6
    assert [(await jobs.get(id)).state for id in ids] == [JobState.SUCCEEDED] * 6
    assert [job.id for job in await jobs.find()] == ids[::-1]


async def test_a_restart_keeps_what_a_failed_job_needs_to_run_again() -> None:
    jobs = Jobs(authorize="local")
    works: list[bool] = []

    async def work() -> None:
        if not works:
            raise RuntimeError("not yet")

    async with jobs:
        failed = await jobs.enqueue(work).wait(SOON)
    works.append(True)
    async with jobs:
        again = await jobs.retry(failed.id)
        await again.wait(SOON)

    assert failed.state is JobState.FAILED
    assert again.state is JobState.SUCCEEDED
    assert again.retry_of == failed.id


class Pool:
    pass


class Pools(Provider):
    """Provides a pool for the life of the container, and remembers the ones it made and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Pool] = []
        self.closed: list[Pool] = []

    @provide(scope=Scope.APP)
    async def pool(self) -> AsyncIterator[Pool]:
        pool = Pool()
        self.made.append(pool)
        yield pool
        self.closed.append(pool)


async def test_each_start_has_a_container_of_its_own_closed_at_its_stop() -> None:
    pools = Pools()
    jobs = Jobs(authorize="local", providers=[pools])

    async def use(pool: Pool) -> int:
        return pools.made.index(pool)

    used = []
    for _ in range(2):
        async with jobs:
            used.append(await jobs.enqueue(use).result(SOON))
            assert len(pools.closed) == len(used) - 1

    assert used == [0, 1]
    assert pools.closed == pools.made


def test_the_same_jobs_can_be_started_in_one_loop_after_another() -> None:
    jobs = Jobs(authorize="local")

    async def life() -> Job:
        async with jobs:
            job = jobs.enqueue(drained)  # is waited for by the stop, in each loop
            await until(lambda: job.state is JobState.RUNNING)
        return job

    async def drained() -> None:
        await until(lambda: jobs.status == "stopping")
        await settle()

    lives = [asyncio.run(life()) for _ in range(3)]

    assert [job.state for job in lives] == [JobState.SUCCEEDED] * 3


def test_the_same_application_can_be_tested_by_one_client_after_another() -> None:
    jobs = Jobs(authorize="local")

    async def enqueue(request: Request) -> Response:
        job = await request.state.jobs.enqueue(noop).wait(SOON)
        return JSONResponse(job.state)

    app = JobsMiddleware(Starlette(routes=[Route("/", enqueue)]), jobs=jobs)

    for _ in range(3):
        with TestClient(app) as client:
            assert client.get("/").json() == "succeeded"


def test_a_loop_that_ended_without_a_stop_does_not_keep_the_next_start_from_working() -> None:
    jobs = Jobs(authorize="local")

    async def forget() -> None:
        await jobs.open()
        await jobs.begin()
        await jobs.enqueue(noop).wait(SOON)
        jobs.enqueue(noop, queue="mail")

    async def live() -> JobState:
        async with jobs:
            return (await jobs.enqueue(noop, queue="mail").wait(SOON)).state

    asyncio.run(forget())

    assert asyncio.run(live()) is JobState.SUCCEEDED
    assert jobs.status == "stopped"


def test_a_turn_that_was_planned_on_a_loop_now_closed_is_not_waited_for() -> None:
    jobs = Jobs(authorize="local")

    async def forget() -> None:
        await jobs.open()
        await jobs.begin()

    async def end_tasks() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def live() -> JobState:
        async with jobs:
            return (await jobs.enqueue(noop).wait(SOON)).state

    loop = asyncio.new_event_loop()
    loop.run_until_complete(forget())
    loop.run_until_complete(end_tasks())
    jobs.enqueue(noop)  # plans a turn that never comes
    loop.close()

    assert asyncio.run(live()) is JobState.SUCCEEDED


# Started by many


async def test_a_nested_start_is_one_start_and_the_last_stop_stops(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(authorize="local")

    async with jobs:
        async with jobs:
            pass
        assert jobs.status == "running"
        await jobs.enqueue(noop).wait(SOON)

    assert jobs.status == "stopped"
    assert len([message for message in messages(caplog) if "started already" in message]) == 1


async def test_fifty_starts_and_stops_from_ten_tasks() -> None:
    jobs = Jobs(authorize="local")
    before, done = asyncio.all_tasks(), []

    async def come_and_go() -> None:
        for _ in range(5):
            async with asyncio.timeout(5), jobs:
                done.append(await jobs.enqueue(noop, queue="mail").wait(SOON))

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(come_and_go())

    assert len(done) == 50
    assert {job.state for job in done} == {JobState.SUCCEEDED}
    assert jobs.status == "stopped"
    assert asyncio.all_tasks() == before


async def test_a_start_during_a_stop_waits_for_its_end() -> None:
    jobs, gate = Jobs(authorize="local"), asyncio.Event()
    await jobs.open()
    await jobs.begin()
    slow = jobs.enqueue(gate.wait)
    stopping = asyncio.create_task(jobs.stop())
    await until(lambda: jobs.status == "stopping")

    async def live() -> Job:
        async with jobs:
            assert stopping.done()
            return await jobs.enqueue(noop).wait(SOON)

    living = asyncio.create_task(live())
    await settle()
    gate.set()

    assert (await living).state is JobState.SUCCEEDED
    assert slow.state is JobState.SUCCEEDED
    assert jobs.status == "stopped"


async def test_a_start_that_was_waiting_can_be_given_up() -> None:
    jobs, gate = Jobs(authorize="local"), asyncio.Event()
    await jobs.open()
    await jobs.begin()
    jobs.enqueue(gate.wait)
    stopping = asyncio.create_task(jobs.stop())
    await until(lambda: jobs.status == "stopping")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(jobs.open(), 0.01)
    gate.set()
    await stopping

    assert jobs.status == "stopped"
    async with jobs:
        assert jobs.status == "running"


async def test_two_jobs_in_one_process_never_meet() -> None:
    one, two = Jobs(authorize="local"), Jobs(authorize="local")

    async with one:
        job = await one.enqueue(noop, queue="mail").wait(SOON)
        async with two:
            assert await two.find() == []
            await two.pause("mail")
            assert (await one.enqueue(noop, queue="mail").wait(SOON)).state is JobState.SUCCEEDED
        assert one.status == "running"

    assert two.status == "stopped"
    assert job.id not in [other.id for other in await two.find()]


# Leaving early


async def test_an_error_inside_async_with_comes_out_and_the_engine_has_stopped() -> None:
    jobs = Jobs(authorize="local")

    enqueued = []

    async def block() -> None:
        async with jobs:
            enqueued.append(jobs.enqueue(noop))
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await block()
    assert jobs.status == "stopped"
    assert enqueued[0].state is JobState.SUCCEEDED


async def test_a_stop_that_is_cancelled_stops_at_once_and_cleans_up() -> None:
    jobs, cleaned = Jobs(authorize="local"), []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    await jobs.open()
    await jobs.begin()
    job = jobs.enqueue(long)
    await until(lambda: job.state is JobState.RUNNING)
    stopping = asyncio.create_task(jobs.stop())
    await until(lambda: jobs.status == "stopping")
    await settle()
    stopping.cancel()

    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await stopping
    assert jobs.status == "stopped"
    assert cleaned == [True]
    assert job.state is JobState.CANCELLED


async def test_a_block_that_is_cancelled_still_drains() -> None:
    jobs, gate = Jobs(authorize="local"), asyncio.Event()

    async def block() -> None:
        async with jobs:
            await jobs.enqueue(gate.wait, name="slow").wait()

    running = asyncio.create_task(block())
    await until(lambda: jobs.status == "running")
    await settle()
    running.cancel()
    await until(lambda: jobs.status == "stopping")
    gate.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert jobs.status == "stopped"
    assert [job.state for job in await jobs.find()] == [JobState.SUCCEEDED]


async def test_a_start_that_fails_can_be_tried_again() -> None:
    jobs = Jobs(authorize="local")
    engine = jobs._engine
    sound, engine.scopes.start = engine.scopes.start, None  # type: ignore[method-assign, assignment]

    with pytest.raises(TypeError):
        await jobs.open()
    engine.scopes.start = sound  # type: ignore[method-assign]

    async with jobs:
        assert (await jobs.enqueue(noop).wait(SOON)).state is JobState.SUCCEEDED


# Other threads and loops


async def test_a_job_is_awaited_and_cancelled_from_another_threads_loop() -> None:
    async with Jobs(authorize="local") as jobs:
        gate = asyncio.Event()
        good, bad = jobs.enqueue(gate.wait), jobs.enqueue(asyncio.Event().wait)
        await until(lambda: bad.state is JobState.RUNNING)

        with elsewhere() as there:
            waits = [there(good.wait()), there(bad.wait()), there(good.result())]
            cancelled = await asyncio.wrap_future(there(jobs.cancel(bad.id, "from elsewhere")))
            gate.set()
            async with asyncio.timeout(5):
                ended = [await asyncio.wrap_future(wait) for wait in waits]
            joined = there(jobs.join())
            await asyncio.wrap_future(joined)

        assert cancelled.id == bad.id
        assert ended == [good, bad, True]
        assert (good.state, bad.state) == (JobState.SUCCEEDED, JobState.CANCELLED)
        assert bad.cancel_reason == "from elsewhere"


async def test_a_wait_from_another_loop_keeps_its_time_limit() -> None:
    async with Jobs(authorize="local") as jobs:
        job = jobs.enqueue(asyncio.Event().wait)
        with elsewhere() as there, pytest.raises(TimeoutError, match="had not ended"):
            await asyncio.wrap_future(there(job.wait(timedelta(milliseconds=20))))
        assert job.state is JobState.RUNNING
        await job.cancel()


async def test_a_wait_from_another_loop_hears_of_the_shutdown() -> None:
    jobs = Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=50))
    with elsewhere() as there:
        async with jobs:
            job = jobs.enqueue(asyncio.Event().wait)
            waiting = jobs.enqueue(noop, delay=timedelta(hours=1))
            waits = [there(job.wait()), there(waiting.wait())]
            await until(lambda: job.state is JobState.RUNNING)
        async with asyncio.timeout(5):
            for wait in waits:
                await asyncio.wrap_future(wait)

    assert (job.state, waiting.state) == (JobState.CANCELLED, JobState.CANCELLED)


async def test_the_last_stop_may_come_from_another_loop_and_stops_where_the_engine_runs() -> None:
    jobs, gate = Jobs(authorize="local"), asyncio.Event()

    async def live(started: threading.Event, leave: threading.Event) -> None:
        async with jobs:
            started.set()
            await asyncio.to_thread(leave.wait, 10)

    started, leave = threading.Event(), threading.Event()
    with elsewhere() as there:
        async with jobs:
            job = jobs.enqueue(gate.wait)
            living = there(live(started, leave))
            await in_thread(lambda: started.wait(5))
        assert jobs.status == "running"
        leave.set()
        await until(lambda: jobs.status == "stopping")
        gate.set()
        async with asyncio.timeout(5):
            await asyncio.wrap_future(living)

    assert jobs.status == "stopped"
    assert job.state is JobState.SUCCEEDED


def test_a_verb_after_its_loop_has_gone_says_so() -> None:
    jobs = Jobs(authorize="local")
    kept: list[Job] = []

    async def live() -> None:
        async with jobs:
            kept.append(await jobs.enqueue(noop).wait(SOON))

    async def look() -> None:
        assert (await jobs.get(kept[0].id)).state is JobState.SUCCEEDED
        await kept[0].wait()
        with pytest.raises(NotRunning, match="loop is closed"):
            await jobs.cancel(kept[0].id)

    asyncio.run(live())
    asyncio.run(look())


async def test_jobs_enqueued_from_threads_during_the_start_all_run_in_order_per_thread() -> None:
    jobs, ran = Jobs(authorize="local"), []

    async def note(thread: int, number: int) -> None:
        ran.append((thread, number))

    def produce(thread: int) -> None:
        for number in range(200):
            jobs.enqueue(note, thread, number, queue=f"thread {thread}")

    await jobs.open()
    producers = [asyncio.create_task(asyncio.to_thread(produce, thread)) for thread in range(5)]
    await jobs.begin()
    async with asyncio.timeout(10):
        await asyncio.gather(*producers)
        await jobs.join()
    await jobs.stop()

    assert len(ran) == 1_000
    for thread in range(5):
        assert [number for one, number in ran if one == thread] == list(range(200))


async def test_every_job_that_a_thread_has_enqueued_before_the_refusal_has_an_end() -> None:
    jobs = Jobs(authorize="local")
    accepted: list[Job] = []
    refused: list[Exception] = []
    going = threading.Barrier(5)

    def produce() -> None:
        going.wait(5)
        while not refused:
            try:
                accepted.append(jobs.enqueue(noop))
            except (ShuttingDown, NotRunning) as error:
                refused.append(error)

    async with jobs:
        producers = [asyncio.create_task(asyncio.to_thread(produce)) for _ in range(4)]
        await in_thread(lambda: going.wait(5))
        await until(lambda: len(accepted) > 100)
    await asyncio.gather(*producers)

    assert {job.state for job in accepted} <= {JobState.SUCCEEDED, JobState.CANCELLED}
    assert refused


class Hesitant(Clock):
    """A clock that makes one thread wait when it asks for the time, which is in the middle of `enqueue`."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()
        self.slow: threading.Thread | None = None
        self.monotonic = self._monotonic

    def _monotonic(self) -> float:
        if threading.current_thread() is self.slow:
            self.asked.set()
            assert self.answer.wait(10)
        return Clock.monotonic()


async def test_a_thread_that_the_stop_overtakes_in_its_enqueue_is_refused() -> None:
    clock = Hesitant()
    jobs = Jobs(authorize="local", clock=clock)
    outcome: list[object] = []

    def produce() -> None:
        clock.slow = threading.current_thread()
        try:
            outcome.append(jobs.enqueue(noop))
        except (ShuttingDown, NotRunning) as error:
            outcome.append(error)

    thread = threading.Thread(target=produce)
    async with jobs:
        thread.start()
        await in_thread(lambda: clock.asked.wait(5))
    clock.answer.set()
    await in_thread(lambda: thread.join(5))

    assert isinstance(outcome[0], NotRunning)
    assert await jobs.find() == []


async def test_a_job_from_a_thread_starts_without_further_ado() -> None:
    async with Jobs(authorize="local") as jobs:
        job = await in_thread(lambda: jobs.enqueue(noop))
        await job.wait(SOON)

        assert job.state is JobState.SUCCEEDED


# Health


async def test_health_says_what_a_probe_needs() -> None:
    jobs = Jobs(authorize="local")
    before = await jobs.health()
    async with jobs:
        during = await jobs.health()
    after = await jobs.health()

    assert (before.ok, before.reasons) == (False, ["the engine is not running (new)"])
    assert (during.ok, during.reasons) == (True, [])
    assert (after.ok, after.reasons) == (False, ["the engine is not running (stopped)"])


def test_health_as_an_endpoint_of_the_application() -> None:
    jobs = Jobs(authorize="local")

    async def health(request: Request) -> Response:
        health = await request.state.jobs.health()
        return JSONResponse(health.reasons, 200 if health.ok else 503)

    app = JobsMiddleware(Starlette(routes=[Route("/health", health)]), jobs=jobs)

    assert TestClient(app).get("/health").status_code == 503
    with TestClient(app) as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, [])


async def test_health_during_the_drain_sends_no_more_requests_here() -> None:
    gate = asyncio.Event()
    jobs = Jobs(authorize="local")
    async with jobs:
        jobs.enqueue(gate.wait)
        stopping = asyncio.create_task(jobs.stop())
        await until(lambda: jobs.status == "stopping")
        health = await jobs.health()
        gate.set()
        await stopping

    assert (health.ok, health.reasons) == (False, ["the engine is not running (stopping)"])


# What the lifespan helper is


async def test_lifespan_takes_the_application_and_is_a_start_and_a_stop() -> None:
    jobs = Jobs(authorize="local")
    make: Callable[[Any], Any] = jobs.lifespan

    async with make(Starlette()):
        assert jobs.status == "running"

    assert jobs.status == "stopped"


async def test_lifespans_of_two_jobs_compose() -> None:
    jobs, mail = Jobs(authorize="local"), Jobs(authorize="local")

    @asynccontextmanager
    async def both(app: Starlette) -> AsyncIterator[None]:
        async with jobs.lifespan(app), mail.lifespan(app):
            yield

    async with both(Starlette()):
        await asyncio.gather(jobs.enqueue(noop).wait(SOON), mail.enqueue(noop).wait(SOON))

    assert (jobs.status, mail.status) == ("stopped", "stopped")
