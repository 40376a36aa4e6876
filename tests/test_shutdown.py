"""The stop: what is waited for, what is cut off, what is lost, and that it always ends in time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dishka import Provider, Scope, provide
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from asgi_jobs import Event, Job, Jobs, JobsMiddleware, JobState, Retry, ShuttingDown, current_job
from asgi_jobs.testing import FakeClock, settle

SHORT = timedelta(milliseconds=250)
LITTLE = 1.0
"""Seconds beyond the shutdown_timeout that a busy machine may take."""
RUNNING, QUEUED, SUCCEEDED = JobState.RUNNING, JobState.QUEUED, JobState.SUCCEEDED
FAILED, CANCELLED = JobState.FAILED, JobState.CANCELLED


async def noop() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until the condition is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


class Stop:
    """A started Jobs and its stop, with what it took and what it said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._task: asyncio.Task[None] | None = None
        self.events: list[Event] = []

    async def start(self, shutdown_timeout: timedelta = SHORT, **options: Any) -> Jobs:
        self.jobs = Jobs(authorize="local", shutdown_timeout=shutdown_timeout, **options)
        self.jobs.subscribe(self.events.append)
        await self.jobs.open()
        await self.jobs.begin()
        return self.jobs

    async def begin(self) -> None:
        """Begin to stop, and go on once it drains."""
        self._caplog.clear()
        self._began = time.monotonic()
        self._task = asyncio.create_task(self.jobs.stop())
        await until(lambda: self.jobs.status == "stopping")
        await settle()

    async def end(self) -> float:
        """Wait for the end; gives the seconds that it took in all."""
        if self._task is None:
            await self.begin()
        assert self._task is not None
        async with asyncio.timeout(15):
            await self._task
        assert self.jobs.status == "stopped"
        return time.monotonic() - self._began

    @property
    def said(self) -> list[str]:
        """Every warning and error since the stop began."""
        return [r.getMessage() for r in self._caplog.records if r.levelno >= logging.WARNING]

    @property
    def warnings(self) -> list[str]:
        """Beyond the line that says what is waited for."""
        return [said for said in self.said if not said.startswith("Stopping: ")]

    def heard(self, job: Job) -> list[str]:
        return [event.kind for event in self.events if event.job.id == job.id]


@pytest.fixture
def stop(caplog: pytest.LogCaptureFixture) -> Stop:
    return Stop(caplog)


@pytest.fixture
async def gate() -> AsyncIterator[asyncio.Event]:
    """What jobs wait for; opened at the end of a test in any case."""
    gate = asyncio.Event()
    yield gate
    gate.set()
    await settle()


# Draining


async def test_an_idle_engine_stops_at_once_and_says_nothing(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=25))
    await jobs.enqueue(noop).wait()

    assert await stop.end() < LITTLE
    assert stop.said == []


async def test_one_line_says_what_is_waited_for(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    jobs.enqueue(gate.wait, name="import", queue="q")
    jobs.enqueue(noop, name="after it", queue="q")
    await settle()

    await stop.begin()
    (line,) = stop.said
    gate.set()
    await stop.end()

    assert line.startswith("Stopping: waiting up to 8 s for 2 job(s) ('import' (")
    assert stop.warnings == []


async def test_queued_jobs_still_start_within_the_time(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    first = jobs.enqueue(gate.wait, queue="q")
    others = [jobs.enqueue(noop, queue="q") for _ in range(50)]
    await settle()
    await stop.begin()

    gate.set()
    took = await stop.end()

    assert {job.state for job in [first, *others]} == {SUCCEEDED}
    assert took < LITTLE
    assert stop.warnings == []


async def test_jobs_may_enqueue_while_it_drains_and_others_may_not(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    children: list[Job] = []

    async def parent() -> None:
        await gate.wait()
        children.append(jobs.enqueue(noop, name="from the job"))
        children.append(jobs.using(name="by using").enqueue(noop))
        await asyncio.create_task(helper())
        await asyncio.to_thread(lambda: children.append(jobs.enqueue(noop, name="from its thread")))

    async def helper() -> None:
        children.append(jobs.enqueue(noop, name="from its task"))

    job = jobs.enqueue(parent)
    await settle()
    await stop.begin()
    with pytest.raises(ShuttingDown, match="takes no more jobs"):
        jobs.enqueue(noop)
    with pytest.raises(ShuttingDown):
        jobs.using(queue="q").enqueue(noop)
    with pytest.raises(ShuttingDown):
        await asyncio.to_thread(jobs.enqueue, noop)
    gate.set()
    await stop.end()

    assert job.state is SUCCEEDED
    assert [child.state for child in children] == [SUCCEEDED] * 4


async def test_a_job_of_another_jobs_is_an_outsider_to_this_one(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    jobs.enqueue(gate.wait)

    async def outsider() -> None:
        jobs.enqueue(noop)

    async with Jobs(authorize="local") as other:
        await settle()
        await stop.begin()
        job = await other.enqueue(outsider).wait()
        gate.set()
        await stop.end()

    assert job.error is not None
    assert job.error.type == "asgi_jobs.errors.ShuttingDown"


async def test_a_job_that_enqueues_for_ever_does_not_keep_the_stop_from_ending(stop: Stop) -> None:
    jobs = await stop.start()

    async def again() -> None:
        await asyncio.sleep(0)
        jobs.enqueue(again, queue="endless")

    jobs.enqueue(again, queue="endless")
    await settle()

    assert await stop.end() < SHORT.total_seconds() + LITTLE


async def test_a_job_in_its_clean_up_can_enqueue_no_more(stop: Stop) -> None:
    jobs, caught = await stop.start(), []

    async def work() -> None:
        try:
            await forever()
        finally:
            try:
                jobs.enqueue(noop)
            except ShuttingDown as error:
                caught.append(error)

    jobs.enqueue(work)
    await settle()
    await stop.end()

    assert len(caught) == 1


async def test_a_retry_that_is_due_in_time_still_runs(stop: Stop) -> None:
    jobs, tries = await stop.start(timedelta(seconds=10)), []

    async def flaky() -> None:
        tries.append(True)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    soon = Retry(3, base=timedelta(milliseconds=30), factor=1, jitter=0)
    job = jobs.enqueue(flaky, retries=soon, queue="q")
    behind = jobs.enqueue(noop, queue="q")
    await until(lambda: tries)

    await stop.end()

    assert (job.state, behind.state) == (SUCCEEDED, SUCCEEDED)
    assert job.attempt == 3


async def test_a_retry_that_is_due_too_late_is_not_waited_for_and_is_named_lost(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=10))

    async def bad() -> None:
        raise RuntimeError

    job = jobs.enqueue(bad, retries=Retry(3, base=timedelta(hours=1)), queue="q", name="in back-off")
    behind = jobs.enqueue(noop, queue="q", name="behind it")
    await until(lambda: job.held)

    assert await stop.end() < LITTLE
    assert (job.state, behind.state) == (CANCELLED, CANCELLED)
    assert "2 jobs were lost" in stop.warnings[-1]
    assert "'in back-off'" in stop.warnings[-1]
    assert "'behind it'" in stop.warnings[-1]


async def test_a_delayed_job_is_not_waited_for_and_is_named_lost(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    job = jobs.enqueue(noop, delay=timedelta(milliseconds=500), name="later")

    assert await stop.end() < 0.4
    assert job.state is CANCELLED
    assert job.cancel_reason == "lost when the application stopped"
    assert "1 job was lost at shutdown: 'later'" in stop.warnings[0]


async def test_a_delayed_job_that_comes_due_while_others_drain_runs(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    jobs.enqueue(gate.wait)
    later = jobs.enqueue(noop, delay=timedelta(milliseconds=30))
    await stop.begin()

    async with asyncio.timeout(5):
        await later.wait()
    gate.set()
    await stop.end()

    assert later.state is SUCCEEDED


async def test_a_paused_queue_is_not_waited_for(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    await jobs.pause("q")
    job = jobs.enqueue(noop, queue="q", name="paused")

    assert await stop.end() < LITTLE
    assert job.state is CANCELLED
    assert "'paused'" in stop.warnings[0]


async def test_a_queue_paused_right_after_the_call_is_not_waited_for(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=10))
    job = jobs.enqueue(noop, queue="q")
    await jobs.pause("q")  # before the dispatcher has had a turn

    assert await stop.end() < LITTLE
    assert job.state is CANCELLED


async def test_a_queue_paused_while_it_drains_is_waited_for_no_longer(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start(timedelta(seconds=10), concurrency=1)
    jobs.enqueue(gate.wait)
    job = jobs.enqueue(noop, queue="q")
    await settle()
    await stop.begin()
    await jobs.pause("q")
    gate.set()

    assert await stop.end() < LITTLE
    assert job.state is CANCELLED


async def test_the_last_waiting_job_cancelled_by_hand_ends_the_wait(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=10))

    async def bad() -> None:
        raise RuntimeError

    job = jobs.enqueue(bad, retries=Retry(3, base=timedelta(seconds=5), jitter=0))
    await until(lambda: job.held)
    await stop.begin()  # waits for the next attempt
    await job.cancel("never mind")

    assert await stop.end() < LITTLE
    assert job.cancel_reason == "never mind"


async def test_schedules_propose_nothing_while_it_drains(stop: Stop, gate: asyncio.Event) -> None:
    clock, ticks = FakeClock(), []
    jobs = await stop.start(timedelta(hours=1), clock=clock)

    @jobs.task(every=timedelta(minutes=1))
    async def tick() -> None:
        ticks.append(jobs.now())

    jobs.enqueue(gate.wait)
    await settle()
    await clock.advance(timedelta(minutes=2))
    await stop.begin()
    before = len(ticks)
    await clock.advance(timedelta(minutes=5))
    gate.set()
    await stop.end()

    assert (before, len(ticks)) == (2, 2)


# The time is over


async def test_a_running_job_is_cancelled_and_named(stop: Stop) -> None:
    jobs, cleaned = await stop.start(), []

    async def long() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    job = jobs.enqueue(long, name="a long import")
    await settle()
    took = await stop.end()

    assert SHORT.total_seconds() * 0.7 < took < SHORT.total_seconds() + LITTLE
    assert cleaned == [True]
    assert job.state is CANCELLED
    assert job.cancel_reason == "interrupted when the application stopped"
    assert stop.warnings == [f"1 job was lost at shutdown: 'a long import' ({job.id}) running"]


async def test_there_is_one_timeout_in_all(stop: Stop) -> None:
    jobs = await stop.start(concurrency=2)
    work = [jobs.enqueue(forever, queue=queue) for queue in ("a", "b", "c", None) for _ in range(3)]
    await settle()

    assert await stop.end() < SHORT.total_seconds() + LITTLE
    assert {job.state for job in work} == {CANCELLED}


async def test_the_first_twenty_lost_jobs_are_named_and_the_others_counted(stop: Stop) -> None:
    jobs = await stop.start()
    for number in range(30):
        jobs.enqueue(forever, queue="q", name=f"job {number}")
    await settle()
    await stop.end()

    (warning,) = stop.warnings
    assert warning.startswith("30 jobs were lost at shutdown: 'job 0' (")
    assert [number for number in range(30) if f"'job {number}'" in warning] == list(range(20))
    assert warning.endswith("and 10 more")


async def test_queued_jobs_are_lost_with_their_queue_and_waiters_hear_of_it(stop: Stop) -> None:
    jobs = await stop.start()
    running = jobs.enqueue(forever, queue="q")
    queued = jobs.enqueue(noop, queue="q")
    waits = asyncio.gather(running.wait(), queued.wait())
    await settle()
    await stop.end()

    async with asyncio.timeout(1):
        await waits
    assert [job.state for job in (running, queued)] == [CANCELLED, CANCELLED]


async def test_a_cancel_by_hand_and_one_by_the_shutdown_are_told_apart(stop: Stop) -> None:
    jobs = await stop.start()
    by_hand, by_shutdown, waiting = (jobs.enqueue(forever, queue=name) for name in ("a", "b", "b"))
    await settle()
    await by_hand.cancel("wrong file")
    await by_hand.wait()
    await stop.end()

    assert [job.state for job in (by_hand, by_shutdown, waiting)] == [CANCELLED] * 3
    assert by_hand.cancel_reason == "wrong file"
    assert by_shutdown.cancel_reason == "interrupted when the application stopped"
    assert waiting.cancel_reason == "lost when the application stopped"
    assert stop.heard(by_hand)[-1] == "cancelled"
    assert stop.heard(by_shutdown)[-1] == "interrupted"
    assert by_hand.id not in stop.warnings[-1]
    assert by_shutdown.id in stop.warnings[-1]


async def test_a_job_still_in_its_clean_up_after_a_cancel_by_hand_is_not_cancelled_again(
    stop: Stop, gate: asyncio.Event
) -> None:
    jobs = await stop.start(timedelta(seconds=10))

    async def work() -> None:
        try:
            await forever()
        finally:
            await gate.wait()

    job = jobs.enqueue(work)
    await settle()
    await job.cancel("by hand")
    await stop.begin()
    gate.set()
    await stop.end()

    assert job.state is CANCELLED
    assert job.cancel_reason == "by hand"
    assert stop.warnings == []


async def test_a_job_that_finishes_all_the_same_has_succeeded(stop: Stop) -> None:
    jobs = await stop.start()

    async def work() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "saved in time"
        return ""

    job = jobs.enqueue(work)
    await settle()
    await stop.end()

    assert job.state is SUCCEEDED
    assert await job.result() == "saved in time"
    assert stop.warnings == []


async def test_a_job_that_fails_in_its_clean_up_is_failed_and_not_retried(stop: Stop) -> None:
    jobs = await stop.start()

    async def work() -> None:
        try:
            await forever()
        finally:
            raise RuntimeError("while cleaning up")

    job = jobs.enqueue(work, retries=5)
    await settle()
    await stop.end()

    assert job.state is FAILED
    assert job.error is not None
    assert job.error.message == "while cleaning up"


# What does not end


async def test_a_job_that_swallows_its_cancellation_is_named_and_the_stop_ends(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start()

    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    job = jobs.enqueue(stubborn, name="stubborn")
    await settle()
    took = await stop.end()

    assert took < SHORT.total_seconds() + LITTLE
    assert stop.warnings == [
        f"1 job was lost at shutdown: 'stubborn' ({job.id}) still running: it does not stop",
    ]
    gate.set()
    await until(lambda: job.state is not RUNNING)


async def test_a_thread_job_that_does_not_end_is_named_and_the_stop_ends(stop: Stop) -> None:
    jobs, open_gate = await stop.start(), threading.Event()

    def stubborn() -> None:
        open_gate.wait(10)

    job = jobs.enqueue(stubborn, name="in a thread")
    await until(lambda: job.state is RUNNING)
    took = await stop.end()

    assert took < SHORT.total_seconds() + LITTLE
    assert "'in a thread'" in stop.warnings[-1]
    assert "still running: it does not stop" in stop.warnings[-1]
    open_gate.set()
    await until(lambda: job.state is not RUNNING)


async def test_a_thread_job_that_asks_whether_to_stop_ends_cancelled(stop: Stop) -> None:
    jobs = await stop.start(timedelta(seconds=2))

    def polite() -> None:
        while not current_job().cancelled:
            time.sleep(0.001)

    job = jobs.enqueue(polite, name="polite")
    await until(lambda: job.state is RUNNING)
    took = await stop.end()

    assert took < 2
    assert job.state is CANCELLED
    assert "'polite'" in stop.warnings[-1]
    assert stop.warnings[-1].endswith("running")


async def test_a_scope_that_hangs_in_closing_is_given_up(stop: Stop) -> None:
    @asynccontextmanager
    async def factory() -> AsyncIterator[AsyncSession]:
        async with AsyncSession() as session:
            try:
                yield session
            finally:
                await forever()

    jobs = await stop.start(session_factory=factory)

    async def work(session: AsyncSession) -> None:
        pass

    job = jobs.enqueue(work, name="hangs in closing", queue="q")
    behind = jobs.enqueue(noop, queue="q", name="behind it")
    await settle()
    took = await stop.end()

    assert took < SHORT.total_seconds() + LITTLE
    assert job.state in (CANCELLED, FAILED)
    assert "'hangs in closing'" in "".join(stop.warnings)
    assert behind.state is CANCELLED


async def test_a_scope_that_hangs_in_opening_is_cancelled(stop: Stop) -> None:
    @asynccontextmanager
    async def factory() -> AsyncIterator[AsyncSession]:
        await forever()
        yield AsyncSession()

    jobs = await stop.start(session_factory=factory)

    async def work(session: AsyncSession) -> None:
        pass

    job = jobs.enqueue(work, name="hangs in opening")
    await settle()
    took = await stop.end()

    assert took < SHORT.total_seconds() + LITTLE
    assert job.state is CANCELLED


class Pool:
    pass


class Pools(Provider):
    """Provides a pool whose closing hangs, or fails."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error

    @provide(scope=Scope.APP)
    async def pool(self) -> AsyncIterator[Pool]:
        yield Pool()
        if self._error:
            raise self._error
        await forever()


async def use(pool: Pool) -> None:
    pass


@pytest.mark.parametrize("error", [None, RuntimeError("cannot close")], ids=["hangs", "fails"])
async def test_a_container_that_does_not_close_well_is_reported_and_the_stop_ends(
    stop: Stop, error: Exception | None
) -> None:
    jobs = await stop.start(providers=[Pools(error)])
    await jobs.enqueue(use).wait()
    took = await stop.end()

    assert took < SHORT.total_seconds() + LITTLE
    assert len(stop.warnings) == 1
    assert "container" in stop.warnings[0]


async def test_a_restart_after_a_job_that_does_not_stop_keeps_its_queue_closed(stop: Stop, gate: asyncio.Event) -> None:
    jobs = await stop.start()

    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    old = jobs.enqueue(stubborn, queue="q")
    await settle()
    await stop.end()
    async with jobs:
        other = jobs.enqueue(noop)
        behind = jobs.enqueue(noop, queue="q")
        await other.wait()
        while_it_runs = (old.state, behind.state)
        gate.set()
        await behind.wait()

    assert while_it_runs == (RUNNING, QUEUED)
    assert behind.state is SUCCEEDED


async def test_the_clean_up_has_its_share_of_the_time(stop: Stop) -> None:
    jobs, cleaned = await stop.start(timedelta(seconds=1)), []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.1)  # within the last fifth of the time
            cleaned.append(True)

    work_job = jobs.enqueue(work)
    await settle()

    assert await stop.end() < 1 + LITTLE
    assert cleaned == [True]
    assert work_job.state is CANCELLED


async def test_a_shutdown_timeout_of_nothing_is_a_stop_at_once(stop: Stop) -> None:
    jobs = await stop.start(timedelta(0))
    job = jobs.enqueue(forever)
    await settle()

    assert await stop.end() < LITTLE
    assert job.id in stop.warnings[0]


# With an application around it


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'application.db'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (text)"))
    yield engine
    await engine.dispose()


async def test_the_applications_database_still_works_while_jobs_drain(
    database: AsyncEngine, gate: asyncio.Event
) -> None:
    events: list[str] = []
    sessions = async_sessionmaker(database)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    jobs = Jobs(authorize="local", session_factory=get_session)

    async def work(session: AsyncSession) -> None:
        await gate.wait()
        await session.execute(text("INSERT INTO notes VALUES ('while draining')"))
        await session.commit()
        events.append("job committed")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append("application starts")
        yield
        async with database.connect() as connection:
            found = (await connection.execute(text("SELECT text FROM notes"))).scalars().all()
        await database.dispose()
        events.append(f"application stops, finds {found}")

    app = FastAPI(lifespan=lifespan)

    @app.post("/")
    async def enqueue(session: AsyncSession = Depends(get_session)) -> str:
        return jobs.enqueue(work).id

    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "state": {}}
    serving = asyncio.create_task(JobsMiddleware(app, jobs=jobs)(scope, inbox.get, outbox.put))
    async with asyncio.timeout(10):
        await inbox.put({"type": "lifespan.startup"})
        await outbox.get()
        import httpx

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post("/")).status_code == 200
        await inbox.put({"type": "lifespan.shutdown"})
        await until(lambda: jobs.status == "stopping")
        gate.set()
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await serving

    assert events == ["application starts", "job committed", "application stops, finds ['while draining']"]


async def test_an_interrupted_job_has_its_session_rolled_back_and_its_connection_given_back(
    stop: Stop, database: AsyncEngine
) -> None:
    jobs = await stop.start(session_factory=async_sessionmaker(database))
    inserted = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO notes VALUES ('half done')"))
        inserted.set()
        await forever()

    job = jobs.enqueue(work)
    await inserted.wait()
    await stop.end()

    assert job.state is CANCELLED
    assert database.pool.checkedout() == 0  # type: ignore[attr-defined]
    async with database.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM notes"))).scalar() == 0
