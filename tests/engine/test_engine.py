"""The engine: its start and stop seen from inside, its pulse, and what it tells of itself."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from asgi_jobs import Job, Jobs, JobState, NotStored, Retry
from asgi_jobs.testing import START, FakeClock, settle

SOON = timedelta(seconds=10)
HOUR = timedelta(hours=1)


async def noop() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until the condition is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


# Start


async def test_the_first_job_starts_in_a_turn_of_its_own_never_in_the_callers(jobs: Jobs) -> None:
    ran = []

    async def work() -> None:
        ran.append(asyncio.current_task())

    job = jobs.enqueue(work)
    at_the_call = list(ran)
    await job.wait(SOON)

    assert at_the_call == []
    assert ran[0] is not asyncio.current_task()


async def test_a_restart_in_the_same_loop_starts_what_is_enqueued_at_once() -> None:
    jobs = Jobs(authorize="local")
    for _ in range(3):
        await jobs.open()
        early = [jobs.enqueue(noop, queue=queue) for queue in (None, "q", "q")]
        await jobs.begin()
        async with asyncio.timeout(5):
            for job in early:
                await job.wait()
        await jobs.stop()


def test_a_job_that_its_loop_took_along_is_interrupted_and_its_queue_goes_on_with_the_next_start() -> None:
    jobs = Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=50))
    gate, lives = threading.Event(), []

    async def first() -> None:
        async with jobs:
            lives.append(jobs.enqueue(gate.wait, queue="q"))
            await until(lambda: lives[0].state is JobState.RUNNING)

    async def second() -> JobState:
        async with jobs:
            return (await jobs.enqueue(noop, queue="q").wait(SOON)).state

    asyncio.run(first())
    try:
        assert asyncio.run(second()) is JobState.SUCCEEDED
        assert lives[0].state.finished
    finally:
        gate.set()


# Stop


async def test_join_ends_when_the_stop_has_cancelled_what_it_waited_for() -> None:
    jobs = Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=50))
    async with jobs:
        jobs.enqueue(forever, queue="q")
        jobs.enqueue(noop, queue="q")
        joining = asyncio.create_task(jobs.join())
        await settle()
    async with asyncio.timeout(5):
        await joining


async def test_tens_of_thousands_of_waiting_jobs_do_not_hold_up_the_stop() -> None:
    jobs = Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=100))
    async with jobs:
        running = jobs.enqueue(forever, queue="q")
        for _ in range(30_000):
            jobs.enqueue(noop, queue="q")
        await settle()
        began = time.monotonic()
    took = time.monotonic() - began

    assert running.state is JobState.CANCELLED
    assert (await jobs.counts())[JobState.QUEUED] == 0
    assert took < 5


async def test_every_chore_and_thread_of_the_engine_has_ended_after_the_stop() -> None:
    before = asyncio.all_tasks(), {thread.name for thread in threading.enumerate()}
    jobs = Jobs(authorize="local", threads=3)

    @jobs.task(every=HOUR)
    async def scheduled() -> None:
        pass

    async with jobs:
        await asyncio.gather(*(jobs.enqueue(time.sleep, 0.001).wait(SOON) for _ in range(9)))
        during = {thread.name for thread in threading.enumerate()} - before[1]

    assert "asgi_jobs watchdog" in during
    assert {name for name in during if name.startswith("asgi_jobs-")}
    assert asyncio.all_tasks() == before[0]
    assert not [t for t in threading.enumerate() if t.name.startswith("asgi_jobs")]


async def test_a_stop_wakes_a_job_that_waits_for_a_session_place() -> None:
    class Session(AsyncSession):
        pass

    jobs = Jobs(
        authorize="local",
        session_factory=async_sessionmaker(class_=Session),
        max_sessions=1,
        shutdown_timeout=timedelta(milliseconds=100),
    )

    async with jobs:
        first, second = jobs.enqueue(hold), jobs.enqueue(hold)
        await until(lambda: second.state is JobState.RUNNING)

    assert [first.state, second.state] == [JobState.CANCELLED] * 2


async def hold(session: AsyncSession) -> None:
    await asyncio.Event().wait()


# on_commit around the stop


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'application.db'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (text)"))
    yield engine
    await engine.dispose()


async def test_a_commit_after_the_stop_loses_its_job_aloud(
    database: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(authorize="local")
    async with AsyncSession(database) as session:
        async with jobs:
            await session.execute(text("INSERT INTO notes VALUES ('a')"))
            job = jobs.enqueue(noop, on_commit=session, name="too late")
        await session.commit()

    await settle()
    with pytest.raises(NotStored):
        await job.wait(SOON)
    assert "jobs of a committed transaction are lost: 'too late'" in caplog.text
    assert await jobs.find() == []


async def test_a_job_may_commit_further_jobs_while_the_engine_drains(database: AsyncEngine) -> None:
    jobs, gate = Jobs(authorize="local"), asyncio.Event()
    children: list[Job] = []

    async def parent() -> None:
        await gate.wait()
        async with AsyncSession(database) as session:
            await session.execute(text("INSERT INTO notes VALUES ('a')"))
            children.append(jobs.enqueue(noop, on_commit=session))
            await session.commit()

    async with jobs:
        jobs.enqueue(parent)
        await settle()
        stopping = asyncio.create_task(jobs.stop())
        await until(lambda: jobs.status == "stopping")
        gate.set()
        await stopping

    assert children[0].state is JobState.SUCCEEDED


# What it tells of itself


async def test_health_names_a_blocked_queue_and_stays_well() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock, shutdown_timeout=timedelta(0)) as jobs:
        head = jobs.enqueue(forever, queue="mail")
        jobs.enqueue(noop, queue="mail")
        await settle()
        fresh = await jobs.health()
        await clock.advance(timedelta(seconds=61))
        later = await jobs.health()

    assert (fresh.ok, fresh.reasons) == (True, [])
    assert (later.ok, later.reasons) == (True, [f"queue 'mail' is blocked by job {head.id}"])


async def test_health_seen_from_another_loop_says_which_job_blocks_the_loop(jobs: Jobs) -> None:
    seen: list[tuple[bool, list[str]]] = []
    over = threading.Event()

    def probe() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not seen:
            health = asyncio.run(jobs.health())
            if not health.ok:
                seen.append((health.ok, health.reasons))
        over.set()

    async def block() -> None:
        over.wait(10)  # the loop stands still until the probe has seen it

    prober = threading.Thread(target=probe)
    prober.start()
    await jobs.enqueue(block, name="the blocker").wait()
    await asyncio.to_thread(prober.join, 10)

    assert seen[0][0] is False
    assert "the event loop is blocked at" in seen[0][1][0]
    assert "the blocker" in seen[0][1][0]
    assert "test_engine.py" in seen[0][1][0]


class Crowd:
    """Other server processes, as many as a test says."""

    def __init__(self) -> None:
        self.size = 1
        self.joined = 0

    def join(self) -> None:
        self.joined += 1

    def leave(self) -> None:
        self.joined -= 1

    def count(self) -> int:
        return self.size


async def test_more_server_processes_are_counted_and_warned_of_when_they_come(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    clock, crowd = FakeClock(), Crowd()
    jobs = Jobs(authorize="local", clock=clock)
    jobs._engine.neighbours = crowd  # type: ignore[assignment]
    counts = []

    async with jobs:
        joined = crowd.joined
        for size in (1, 2, 2, 4, 1):
            crowd.size = size
            await clock.advance(timedelta(seconds=5))
            counts.append(jobs.processes)

    told = [r.getMessage() for r in caplog.records if "server processes" in r.getMessage()]
    assert counts == [1, 2, 2, 4, 1]
    assert [line.split()[0] for line in told] == ["2", "4"]
    assert (joined, crowd.joined) == (1, 0)


async def test_parallel_tests_are_no_server_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    crowd = Crowd()
    jobs = Jobs(authorize="local")
    jobs._engine.neighbours = crowd  # type: ignore[assignment]

    async with jobs:
        assert crowd.joined == 0


async def test_a_wall_clock_that_is_set_moves_a_job_with_a_date_and_not_one_with_a_delay() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        dated = jobs.enqueue(noop, run_at=START + 10 * HOUR)
        delayed = jobs.enqueue(noop, delay=10 * HOUR)
        await settle()
        clock.set_wall(START + 10 * HOUR)
        await clock.advance(timedelta(seconds=6))

        assert (dated.state, delayed.state) == (JobState.SUCCEEDED, JobState.SCHEDULED)


async def test_now_is_the_clocks_time_aware_in_utc() -> None:
    jobs = Jobs(authorize="local", clock=FakeClock())

    assert jobs.now() == START
    assert jobs.now().tzinfo is UTC
    assert isinstance(jobs.now(), datetime)


# Who may close what


async def test_a_held_job_of_a_paused_queue_is_not_waited_for_by_the_stop() -> None:
    async def bad() -> None:
        raise RuntimeError

    jobs = Jobs(authorize="local")
    async with jobs:
        job = jobs.enqueue(bad, retries=Retry(1, base=timedelta(milliseconds=200), jitter=0), queue="q")
        await until(lambda: job.held)
        await jobs.pause("q")
        began = time.monotonic()

    assert time.monotonic() - began < 5
    assert job.state is JobState.CANCELLED


@pytest.mark.parametrize("way", ["async with", "lifespan"])
async def test_the_key_is_announced_where_there_is_a_page(
    way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_JOBS_KEY", "of a test")
    caplog.set_level(logging.INFO)
    jobs = Jobs()

    async with jobs if way == "async with" else jobs.lifespan():
        pass

    assert ("?key=" in caplog.text) is (way == "lifespan")
