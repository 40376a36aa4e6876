"""From a call of `enqueue` to a record: ids, order, what hangs on a commit, what is kept for another run."""

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from asgi_jobs import (
    ArgumentsGone,
    InvalidOption,
    InvalidState,
    Job,
    JobNotFound,
    Jobs,
    JobState,
    NotStored,
    QueueFull,
    Retry,
    current_job,
)
from asgi_jobs.testing import FakeClock, settle

LONG = timedelta(seconds=8)


async def work(value: Any = None) -> Any:
    return value


async def fail(value: Any = None) -> None:
    raise ValueError(value)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def with_real_begin(engine: Engine) -> None:
    """SQLAlchemy's recipe; without it releasing a savepoint of SQLite commits."""
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    with_real_begin(engine.sync_engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def maker(db: AsyncEngine) -> "async_sessionmaker[AsyncSession]":
    return async_sessionmaker(db)


async def states(jobs: Jobs) -> int:
    return sum((await jobs.counts()).values())


# Ids


async def test_ids_are_unique_over_two_jobs_restarts_and_threads() -> None:
    one, two = Jobs(authorize="local"), Jobs(authorize="local")
    ids: list[str] = []
    for _ in range(3):
        async with one, two:

            def enqueue() -> list[str]:
                return [jobs.enqueue(work).id for jobs in (one, two) for _ in range(50)]

            with ThreadPoolExecutor(4) as pool:
                for future in [pool.submit(enqueue) for _ in range(4)]:
                    several: list[str] = await asyncio.wrap_future(future)
                    ids += several
            ids += enqueue()
            await one.join()
            await two.join()
    assert len(ids) == len(set(ids)) == 3 * 5 * 100


async def test_ids_are_short_text_that_is_safe_in_addresses_and_found_exactly(jobs: Jobs) -> None:
    job = jobs.enqueue(work)
    assert re.fullmatch(r"[0-9a-z]{16,26}", job.id)
    assert await jobs.get(job.id) is job
    for other in (job.id.upper(), f"{job.id} ", f"0{job.id}", job.id[:-1], f"{job.id[:10]}0{job.id[10:]}"):
        if other != job.id:
            with pytest.raises(JobNotFound):
                await jobs.get(other)


async def test_records_of_an_earlier_start_are_still_found() -> None:
    jobs = Jobs(authorize="local")
    async with jobs:
        first = await jobs.enqueue(work, "first").wait(LONG)
    async with jobs:
        second = await jobs.enqueue(work, "second").wait(LONG)
        assert first.id[:10] != second.id[:10]
        assert (await jobs.get(first.id)).id == first.id
        assert [job.id for job in await jobs.find()] == [second.id, first.id]
        assert [job.id for job in await jobs.find(before=second.id)] == [first.id]


# Order


async def test_enqueue_keeps_the_order_of_the_calls(jobs: Jobs) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    for number in range(100):
        jobs.enqueue(note, number, queue="q")
    await jobs.join()
    assert ran == list(range(100))


async def test_from_a_thread_the_job_is_accepted_when_the_call_returns(jobs: Jobs) -> None:
    def call() -> tuple[JobState, bool]:
        job = jobs.enqueue(work, queue="paused")
        return job.state, job.stored

    await jobs.pause("paused")
    assert await asyncio.to_thread(call) == (JobState.QUEUED, True)
    assert (await jobs.counts())[JobState.QUEUED] == 1
    await jobs.resume("paused")
    await jobs.join()


async def test_each_threads_calls_keep_their_order_and_take_their_place_at_the_call(jobs: Jobs) -> None:
    ran: list[tuple[str, int]] = []
    turn = threading.Barrier(3)

    async def note(name: str, number: int) -> None:
        ran.append((name, number))

    def enqueue(name: str) -> None:
        turn.wait(5)
        for number in range(50):
            jobs.enqueue(note, name, number, queue="q")

    await jobs.pause("q")
    await asyncio.gather(*(asyncio.to_thread(enqueue, name) for name in "abc"))
    places = [(await jobs.place(job.id), job) for job in await jobs.find(limit=200)]
    assert sorted(place.position for place, _ in places if place) == list(range(1, 151))
    await jobs.resume("q")
    await jobs.join()
    for name in "abc":
        assert [number for who, number in ran if who == name] == list(range(50))


async def test_a_thread_that_calls_after_another_has_returned_comes_after_it(jobs: Jobs) -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    await jobs.pause("q")
    for number in range(30):
        if number % 2:
            await asyncio.to_thread(jobs.enqueue, note, number, queue="q")
        else:
            jobs.enqueue(note, number, queue="q")
    await jobs.resume("q")
    await jobs.join()
    assert ran == list(range(30))


async def test_errors_of_a_call_in_a_thread_are_raised_there() -> None:
    async with Jobs(authorize="local", max_queued=1) as jobs:
        await jobs.pause("q")
        jobs.enqueue(work, queue="q")
        with pytest.raises(QueueFull):
            await asyncio.to_thread(jobs.enqueue, work, queue="q")
        with pytest.raises(InvalidOption, match="queue"):
            await asyncio.to_thread(jobs.enqueue, work, queue="")


async def test_a_full_queue_refuses_one_and_takes_one_again_when_there_is_room() -> None:
    async with Jobs(authorize="local", max_queued=3) as jobs:
        await jobs.pause("q")
        several = [jobs.enqueue(work, queue="q"), jobs.enqueue(work, delay=timedelta(hours=1))]
        several.append(jobs.enqueue(work, queue="q"))
        with pytest.raises(QueueFull, match="3 jobs wait"):
            jobs.enqueue(work)
        assert await states(jobs) == 3
        await several[1].cancel()
        assert jobs.enqueue(work).stored


# What a job is told


async def test_awaiting_a_job_any_number_of_times_gives_the_job(jobs: Jobs) -> None:
    job = jobs.enqueue(work, 1)
    assert await job is job
    assert await job is job
    assert await asyncio.gather(*(_await(job) for _ in range(3))) == [job] * 3


async def _await(job: Job) -> Job:
    return await job


async def test_unique_gives_the_unfinished_job_of_the_key(jobs: Jobs) -> None:
    await jobs.pause("q")
    first = jobs.enqueue(work, 1, queue="q", unique="key")
    assert jobs.enqueue(work, 2, queue="other", unique="key") is first
    assert jobs.enqueue(work, 3, unique="another") is not first
    assert await states(jobs) == 2
    await jobs.resume("q")
    await first.wait(LONG)
    assert jobs.enqueue(work, 4, unique="key").id != first.id
    await jobs.join()


async def test_a_delay_and_a_date_are_kept() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        now = jobs.now()
        delayed = jobs.enqueue(work, delay=timedelta(minutes=5))
        at = now + timedelta(minutes=10)
        dated = jobs.enqueue(work, run_at=at)
        past = jobs.enqueue(work, run_at=now - timedelta(days=1))
        at_once = jobs.enqueue(work, delay=timedelta(0))
        assert (delayed.state, delayed.run_at) == (JobState.SCHEDULED, now + timedelta(minutes=5))
        assert (dated.state, dated.run_at) == (JobState.SCHEDULED, at)
        assert {past.state, at_once.state} == {JobState.QUEUED}
        await clock.advance(timedelta(minutes=5))
        assert (delayed.state, dated.state) == (JobState.SUCCEEDED, JobState.SCHEDULED)
        await clock.advance(timedelta(minutes=5))
        assert dated.state is JobState.SUCCEEDED


async def test_an_options_none_beats_the_tasks_policy(jobs: Jobs) -> None:
    task = jobs.task(queue="q", retries=3, timeout=timedelta(minutes=1))(work)
    as_declared = task.enqueue()
    assert (as_declared.queue, as_declared.retries, as_declared.timeout) == ("q", 3, timedelta(minutes=1))
    without = task.enqueue(queue=None, retries=0, timeout=None)
    assert (without.queue, without.retries, without.timeout) == (None, 0, None)
    other = jobs.enqueue(task, queue="other", retries=Retry(5), timeout=timedelta(minutes=2))
    assert (other.queue, other.retries, other.timeout) == ("other", 5, timedelta(minutes=2))
    assert jobs.enqueue(task).queue == "q"
    await jobs.join()


# Once more


async def test_a_succeeded_job_lets_go_of_its_arguments(jobs: Jobs) -> None:
    job = await jobs.enqueue(work, 1).wait(LONG)
    with pytest.raises(ArgumentsGone, match=r"succeeded.*cannot be run again"):
        await jobs.retry(job.id)


async def test_a_failed_and_a_cancelled_job_can_be_run_again_as_they_were(jobs: Jobs) -> None:
    failed = await jobs.enqueue(
        fail, "why", queue="q", name="for people", timeout=timedelta(minutes=1), retries=Retry(1, base=timedelta(0))
    ).wait(LONG)
    again = await jobs.retry(failed.id)
    assert (again.queue, again.name, again.timeout, again.retries) == ("q", "for people", timedelta(minutes=1), 1)
    assert (again.source, again.retry_of, failed.source, failed.retry_of) == ("manual", failed.id, "code", None)
    await again.wait(LONG)
    assert again.error is not None
    assert (again.error.message, again.attempt) == ("why", 2)

    cancelled = await jobs.enqueue(work, 7, delay=timedelta(hours=1), unique="key").cancel()
    assert await (await jobs.retry(cancelled.id)).result(LONG) == 7


async def test_only_a_finished_job_can_be_run_again(jobs: Jobs) -> None:
    job = jobs.enqueue(work, delay=timedelta(hours=1))
    with pytest.raises(InvalidState, match="scheduled"):
        await jobs.retry(job.id)
    with pytest.raises(JobNotFound):
        await jobs.retry("nonsense")


async def test_the_arguments_of_the_last_thousand_failed_jobs_are_kept(jobs: Jobs) -> None:
    logging.getLogger("asgi_jobs").disabled = True
    try:
        several = [jobs.enqueue(fail, number, queue=str(number % 50)) for number in range(1_002)]
        await jobs.join()
    finally:
        logging.getLogger("asgi_jobs").disabled = False
    gone = 0
    for job in several:
        try:
            await jobs.retry(job.id)
        except ArgumentsGone:
            gone += 1
    assert gone == 2
    for job in await jobs.find(state="queued", limit=2_000):
        await job.cancel()
    await jobs.join()


# With a commit


async def test_a_job_on_a_commit_exists_from_the_commit_on(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    seen: list[int] = []

    async def count_notes() -> None:
        async with maker() as session:
            seen.append(len((await session.execute(select(Note))).all()))

    async with maker() as session:
        session.add(Note(text="one"))
        job = jobs.enqueue(count_notes, on_commit=session)
        assert await job is job  # never waits for the commit
        assert job.stored is False
        assert "not stored yet" in repr(job)
        with pytest.raises(JobNotFound):
            await jobs.get(job.id)
        assert await jobs.find() == []
        assert await states(jobs) == 0
        await settle()
        assert seen == []
        await session.commit()
    await job.wait(LONG)
    assert seen == [1]
    assert job.stored is True
    assert (await jobs.get(job.id)).id == job.id


async def test_a_job_on_a_rolled_back_transaction_never_is(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        job = jobs.enqueue(work, on_commit=session)
        waiting = asyncio.create_task(job.wait())
        await settle()
        await session.rollback()
        with pytest.raises(NotStored, match="rolled back"):
            await asyncio.wait_for(waiting, 5)
    for verb in (job.wait, job.result, job.refresh):
        with pytest.raises(NotStored):
            await verb()
    with pytest.raises(JobNotFound):
        await jobs.get(job.id)
    assert await states(jobs) == 0


async def test_a_session_closed_without_a_commit_is_a_roll_back(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        session.add(Note(text="lost"))
        await session.flush()
        job = jobs.enqueue(work, on_commit=session)
    with pytest.raises(NotStored):
        await job.wait(LONG)


async def test_a_wait_before_the_commit_ends_with_the_job(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        job = jobs.enqueue(work, 7, on_commit=session)
        waiting = asyncio.create_task(job.result(LONG))
        await settle()
        assert not waiting.done()
        await session.commit()
        assert await waiting == 7


async def test_a_wait_for_a_time_before_the_commit_times_out(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        job = jobs.enqueue(work, 7, on_commit=session)
        with pytest.raises(TimeoutError):
            await job.wait(timedelta(milliseconds=1))
        await session.commit()
    assert await job.result(LONG) == 7


async def test_jobs_on_one_commit_keep_the_order_of_the_calls_and_commits_their_own(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    ran: list[str] = []

    async def note(text: str) -> None:
        ran.append(text)

    async with maker() as first, maker() as second:
        jobs.enqueue(note, "first 1", queue="q", on_commit=first)
        jobs.enqueue(note, "second 1", queue="q", on_commit=second)
        jobs.enqueue(note, "first 2", queue="q", on_commit=first)
        jobs.enqueue(note, "at once", queue="q")
        await jobs.pause("q")
        await second.commit()
        await first.commit()
        await jobs.resume("q")
    await jobs.join()
    assert ran == ["at once", "second 1", "first 1", "first 2"]


async def test_savepoints_decide_over_their_own(jobs: Jobs, maker: "async_sessionmaker[AsyncSession]") -> None:
    async with maker() as session:
        session.add(Note(text="outer"))
        outer = jobs.enqueue(work, "outer", on_commit=session)
        async with session.begin_nested():
            session.add(Note(text="released"))
            released = jobs.enqueue(work, "released", on_commit=session)
        savepoint = await session.begin_nested()
        session.add(Note(text="dropped"))
        dropped = jobs.enqueue(work, "dropped", on_commit=session)
        await savepoint.rollback()
        with pytest.raises(NotStored):
            await dropped.wait(LONG)
        assert (outer.stored, released.stored) == (False, False)
        await session.commit()
    assert await outer.result(LONG) == "outer"
    assert await released.result(LONG) == "released"
    assert await states(jobs) == 2


async def test_a_begin_block_commits_at_its_end(jobs: Jobs, maker: "async_sessionmaker[AsyncSession]") -> None:
    async with maker.begin() as session:
        job = jobs.enqueue(work, 7, on_commit=session)
        assert job.stored is False
    assert await job.result(LONG) == 7


async def test_a_sync_session_in_a_thread(jobs: Jobs, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/sync.db")

    def handle() -> tuple[Job, Job]:
        with Session(engine) as session:
            kept = jobs.enqueue(work, "kept", on_commit=session)
            session.commit()
            lost = jobs.enqueue(work, "lost", on_commit=session)
            session.rollback()
            return kept, lost

    kept, lost = await asyncio.to_thread(handle)
    assert await kept.result(LONG) == "kept"
    with pytest.raises(NotStored):
        await lost.wait(LONG)
    engine.dispose()


async def test_a_job_enqueues_on_the_commit_of_its_own_session(maker: "async_sessionmaker[AsyncSession]") -> None:
    followers: list[Job] = []

    async def parent(session: AsyncSession, ok: bool) -> None:
        followers.append(current_jobs[0].enqueue(work, "follower", on_commit=session))
        if not ok:
            raise ValueError("no")

    async with Jobs(session_factory=maker.begin, authorize="local") as jobs:
        current_jobs = [jobs]
        await jobs.enqueue(parent, True).wait(LONG)
        await jobs.enqueue(parent, False).wait(LONG)
        assert await followers[0].result(LONG) == "follower"
        with pytest.raises(NotStored):
            await followers[1].wait(LONG)


async def test_options_go_with_a_commit_but_unique_does_not(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        with pytest.raises(ValueError, match=r"unique.*on_commit"):
            jobs.enqueue(work, unique="key", on_commit=session)
        job = jobs.enqueue(
            work, 7, queue="q", name="for people", delay=timedelta(milliseconds=1), retries=2, on_commit=session
        )
        task = jobs.task(queue="tasks")(work).enqueue(8, on_commit=session)
        await session.commit()
    assert (job.queue, job.name, job.retries, task.queue) == ("q", "for people", 2, "tasks")
    assert await job.result(LONG) == 7
    assert await task.result(LONG) == 8


async def test_a_full_queue_is_said_at_the_call_and_a_commit_never_raises(
    maker: "async_sessionmaker[AsyncSession]",
) -> None:
    async with Jobs(authorize="local", max_queued=2) as jobs, maker() as session:
        await jobs.pause("q")
        in_time = jobs.enqueue(work, 1, queue="q", on_commit=session)
        jobs.enqueue(work, queue="q")
        jobs.enqueue(work, queue="q")
        with pytest.raises(QueueFull):
            jobs.enqueue(work, queue="q", on_commit=session)
        await session.commit()
        assert in_time.stored is True
        assert (await jobs.counts())[JobState.QUEUED] == 3
        await jobs.resume("q")
        await jobs.join()


async def test_a_wrong_call_is_said_at_the_call_and_hangs_nothing_on_the_session(
    jobs: Jobs, maker: "async_sessionmaker[AsyncSession]"
) -> None:
    async with maker() as session:
        with pytest.raises(TypeError):
            jobs.enqueue(work, 1, 2, on_commit=session)
        with pytest.raises(InvalidOption):
            jobs.enqueue(work, delay=timedelta(seconds=-1), on_commit=session)
        await session.commit()
    assert await states(jobs) == 0


async def test_a_commit_after_the_stop_loses_the_job_says_so_and_does_not_raise(
    maker: "async_sessionmaker[AsyncSession]", caplog: pytest.LogCaptureFixture
) -> None:
    async with maker() as session:
        session.add(Note(text="kept"))
        async with Jobs(authorize="local") as jobs:
            job = jobs.enqueue(work, name="the lost one", on_commit=session)
        await session.commit()
        with pytest.raises(NotStored):
            await job.wait(LONG)
    assert [record.levelname for record in caplog.records if "the lost one" in record.message] == ["ERROR"]
    async with maker() as session:
        assert (await session.execute(select(Note.text))).scalars().all() == ["kept"]


async def test_a_commit_during_the_shutdown_by_a_job_that_still_runs_is_in_time(
    maker: "async_sessionmaker[AsyncSession]",
) -> None:
    started, go = asyncio.Event(), asyncio.Event()
    followers: list[Job] = []

    async def parent(session: AsyncSession) -> None:
        started.set()
        await go.wait()
        followers.append(current[0].enqueue(work, 7, on_commit=session))
        await session.commit()

    async with Jobs(session_factory=maker, authorize="local", shutdown_timeout=timedelta(seconds=5)) as jobs:
        current = [jobs]
        jobs.enqueue(parent)
        await started.wait()
        asyncio.get_running_loop().call_later(0.01, go.set)
    assert await followers[0].result() == 7


async def test_one_session_serves_two_jobs(maker: "async_sessionmaker[AsyncSession]") -> None:
    async with Jobs(authorize="local") as one, Jobs(authorize="local") as two, maker() as session:
        first = one.enqueue(work, 1, on_commit=session)
        second = two.enqueue(work, 2, on_commit=session)
        await session.commit()
        assert (await first.result(LONG), await second.result(LONG)) == (1, 2)
        assert (await states(one), await states(two)) == (1, 1)


async def test_dates_of_jobs_are_aware_and_in_order(jobs: Jobs) -> None:
    before = datetime.now(UTC)
    job = await jobs.enqueue(work).wait(LONG)
    assert job.started_at is not None
    assert job.finished_at is not None
    tolerance = timedelta(seconds=1)
    assert before - tolerance <= job.enqueued_at <= job.started_at <= job.finished_at <= datetime.now(UTC) + tolerance
    assert job.enqueued_at.tzinfo is UTC


async def test_a_job_can_enqueue_a_job_of_its_own_queue(jobs: Jobs) -> None:
    order: list[str] = []

    async def first() -> None:
        jobs_[0].enqueue(second, queue=current_job().job.queue)
        order.append("first")

    async def second() -> None:
        order.append("second")

    jobs_ = [jobs]
    jobs.enqueue(first, queue="q")
    await jobs.join()
    assert order == ["first", "second"]


def test_the_sync_sessionmaker_is_no_session(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    jobs = Jobs(authorize="local")

    async def run() -> None:
        async with jobs:
            with pytest.raises(TypeError, match=r"on_commit.*sessionmaker"):
                jobs.enqueue(work, on_commit=sessionmaker(engine))

    asyncio.run(run())
    engine.dispose()
