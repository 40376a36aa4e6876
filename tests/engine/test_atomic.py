"""`atomic=True` and `keep_result=True`: what is stored together with a job's own work, and what then cannot happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from asgi_jobs import InvalidOption, Job, Jobs, JobState, Retry, current_job
from asgi_jobs.job import UNSET, Record
from asgi_jobs.testing import FakeClock, settle
from tests.engine.durable import LaterStore, durable_jobs

SOON = timedelta(seconds=10)
seen: list[str] = []


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    name: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture(autouse=True)
def clean() -> None:
    seen.clear()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with made.begin() as connection:
        await connection.execute(text("CREATE TABLE things (name TEXT)"))
    yield made
    await made.dispose()


@pytest.fixture
def sync_engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/sync.db")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE things (name TEXT)"))
    yield made
    made.dispose()


def jobs_on(engine: AsyncEngine, factory: Any = None, **options: Any) -> tuple[Jobs, LaterStore]:
    jobs, store = durable_jobs(session_factory=factory or async_sessionmaker(engine), **options)
    store.own_binds.append(engine.sync_engine)
    return jobs, store


async def things(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return [row.name for row in await connection.execute(text("SELECT name FROM things ORDER BY name"))]


async def insert(session: AsyncSession, name: str) -> None:
    await session.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})


def outcomes(store: LaterStore) -> list[tuple[str, str, bool, str | None]]:
    """What is handed in from now on."""
    told: list[tuple[str, str, bool, str | None]] = []
    exchange = store.exchange

    def listening(outcomes: Any, n: int, threads: int) -> Any:
        told.extend((one.record.name, one.verdict.name, one.settled, one.result) for one in outcomes)
        return exchange(outcomes, n, threads)

    store.exchange = listening  # type: ignore[method-assign]
    return told


def error_of(job: Job) -> str:
    assert job.error is not None
    return f"{job.error.type}: {job.error.message}"


# atomic


@pytest.mark.parametrize("form", ["maker", "begin", "function", "commits"])
async def test_the_engine_commits_the_work_together_with_the_success(engine: AsyncEngine, form: str) -> None:
    maker = async_sessionmaker(engine)

    @asynccontextmanager
    async def function() -> AsyncIterator[AsyncSession]:
        async with maker() as session:
            yield session

    async def commits() -> AsyncIterator[AsyncSession]:
        async with maker() as session:
            yield session
            await session.commit()

    factory = {"maker": maker, "begin": maker.begin, "function": function, "commits": commits}[form]
    jobs, store = jobs_on(engine, factory)
    told = outcomes(store)

    @jobs.task(atomic=True)
    async def work(session: AsyncSession, name: str) -> str:
        await insert(session, name)
        return name

    async with jobs:
        job = await work.enqueue("a", name="job").wait(SOON)
        result = await job.result()

    assert (job.state, result, job.uncommitted) == (JobState.SUCCEEDED, "a", False)
    assert store.settled == [("job", None)]
    assert told == [("job", "SUCCEEDED", True, None)]
    assert await things(engine) == ["a"]


async def test_a_job_without_any_work_is_settled_too(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine)

    @jobs.task(atomic=True)
    async def idle(session: AsyncSession) -> None:
        pass

    async with jobs:
        await idle.enqueue(name="job").wait(SOON)
    assert store.settled == [("job", None)]


async def test_what_was_only_added_is_flushed_before_the_success_is_stored(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine)
    left: list[int] = []
    settle_row = store.settle

    def settling(session: Session, *rest: Any) -> bool:
        left.append(len(session.new))
        return settle_row(session, *rest)

    store.settle = settling  # type: ignore[method-assign, assignment]

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        session.add(Thing(name="a"))

    async with jobs:
        job = await work.enqueue().wait(SOON)

    assert (job.error, left) == (None, [0])
    assert await things(engine) == ["a"]


async def test_a_failed_body_leaves_nothing_and_is_not_settled(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine)

    @jobs.task(atomic=True)
    async def fails(session: AsyncSession) -> None:
        await insert(session, "a")
        raise ValueError("no")

    async with jobs:
        job = await fails.enqueue().wait(SOON)

    assert (error_of(job), store.settled) == ("ValueError: no", [])
    assert await things(engine) == []


@pytest.mark.parametrize("how", ["commit", "begin"])
async def test_a_job_that_commits_itself_fails_with_a_word_of_atomic_and_leaves_nothing(
    engine: AsyncEngine, how: str
) -> None:
    jobs, store = jobs_on(engine)

    @jobs.task(atomic=True)
    async def commits(session: AsyncSession) -> None:
        if how == "commit":
            await insert(session, "a")
            await session.commit()
        else:
            async with session.begin():
                await insert(session, "a")

    async with jobs:
        job = await commits.enqueue().wait(SOON)

    assert error_of(job).startswith("asgi_jobs.errors.InvalidState: a job of a task with atomic=True may not commit")
    assert store.settled == []
    assert await things(engine) == []


async def test_savepoints_may_be_released_and_rolled_back(engine: AsyncEngine) -> None:
    jobs, _ = jobs_on(engine)

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        async with session.begin_nested():
            await insert(session, "kept")
        savepoint = await session.begin_nested()
        await insert(session, "dropped")
        await savepoint.rollback()

    async with jobs:
        job = await work.enqueue().wait(SOON)

    assert job.error is None
    assert await things(engine) == ["kept"]


async def test_a_job_that_another_process_has_taken_over_leaves_nothing(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = jobs_on(engine, shutdown_timeout=timedelta(0))
    store.settles = False
    told = outcomes(store)

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        store.taken.add(current_job().job.id)
        await insert(session, "a")

    async with jobs:
        job = await work.enqueue(name="job")
        while "refused" not in caplog.text:
            await asyncio.sleep(0)

    assert told == [("job", "HELD", False, None)]
    assert job.state is JobState.RUNNING  # elsewhere
    assert await things(engine) == []


async def test_a_commit_that_fails_fails_the_job_and_counts_for_its_retries(engine: AsyncEngine) -> None:
    jobs, _ = jobs_on(engine)

    @jobs.task(atomic=True, retries=Retry(1, base=timedelta(0)))
    async def work(session: AsyncSession) -> None:
        await insert(session, f"attempt {current_job().job.attempt}")
        if current_job().job.attempt == 1:
            event.listen(session.sync_session, "before_commit", refuse_once, once=True)

    def refuse_once(_: Any) -> None:
        raise ConnectionError("lost at the commit")

    async with jobs:
        job = await work.enqueue().wait(SOON)

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert await things(engine) == ["attempt 2"]


async def test_an_error_in_closing_after_the_success_is_only_logged(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def factory() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session
        raise ConnectionError("in closing")

    jobs, _ = jobs_on(engine, factory)

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        await insert(session, "a")

    async with jobs:
        job = await work.enqueue(name="job").wait(SOON)

    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert "closing its scope failed" in caplog.text
    assert await things(engine) == ["a"]


async def test_a_time_limit_that_passed_is_not_made_good_by_returning(engine: AsyncEngine) -> None:
    clock = FakeClock()
    jobs, store = jobs_on(engine, clock=clock)

    @jobs.task(atomic=True, timeout=timedelta(seconds=5))
    async def stubborn(session: AsyncSession) -> None:
        await insert(session, "a")
        seen.append("waits")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("goes on")

    async with jobs:
        job = await stubborn.enqueue()
        while not seen:
            await asyncio.sleep(0)
        await clock.advance(timedelta(seconds=5))
        await job.wait(SOON)

    assert seen == ["waits", "goes on"]
    assert error_of(job).startswith("TimeoutError")
    assert store.settled == []
    assert await things(engine) == []


async def test_a_cancel_that_comes_while_the_success_is_committed_comes_too_late(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine)
    committing: list[Job] = []

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        await insert(session, "a")
        committing.append(current_job().job)

    settle_row = store.settle

    def settling(*args: Any) -> bool:
        store.callbacks.asked_to_stop(committing[0].id)
        return settle_row(*args)

    store.settle = settling  # type: ignore[method-assign, assignment]
    async with jobs:
        job = await work.enqueue().wait(SOON)

    assert job.state is JobState.SUCCEEDED
    assert await things(engine) == ["a"]


async def test_a_sync_job_in_a_thread_can_be_atomic(sync_engine: Engine) -> None:
    jobs, store = durable_jobs(session_factory=sessionmaker(sync_engine))
    store.own_binds.append(sync_engine)

    @jobs.task(atomic=True)
    def work(session: Session, name: str) -> None:
        session.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})

    @jobs.task(atomic=True)
    def commits(session: Session) -> None:
        session.execute(text("INSERT INTO things VALUES ('never')"))
        session.commit()

    async with jobs:
        job = await work.enqueue("a", name="job").wait(SOON)
        refused = await commits.enqueue().wait(SOON)

    with sync_engine.connect() as connection:
        kept = [row.name for row in connection.execute(text("SELECT name FROM things"))]
    assert (job.state, store.settled, kept) == (JobState.SUCCEEDED, [("job", None)], ["a"])
    assert "may not commit" in error_of(refused)


async def test_what_cannot_be_atomic_is_refused_when_it_is_declared(engine: AsyncEngine) -> None:
    async def nothing() -> None:
        pass

    async def work(session: AsyncSession) -> None:
        pass

    jobs, store = jobs_on(engine)
    with pytest.raises(InvalidOption, match="parameter for the session"):
        jobs.task(atomic=True)(nothing)
    store.own_binds.clear()
    with pytest.raises(InvalidOption, match="same database"):
        jobs.task(atomic=True)(work)
    with pytest.raises(InvalidOption, match="atomic=True needs a durable store"):
        Jobs(session_factory=async_sessionmaker(engine)).task(atomic=True)(work)


async def test_a_session_of_another_database_is_refused_before_the_body_where_it_is_known_only_then(
    engine: AsyncEngine,
) -> None:
    @asynccontextmanager
    async def factory() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session

    jobs, store = jobs_on(engine, factory)
    store.own_binds.clear()

    @jobs.task(atomic=True)
    async def work(session: AsyncSession) -> None:
        seen.append("ran")

    async with jobs:
        job = await work.enqueue().wait(SOON)

    assert "same database" in error_of(job)
    assert seen == []


# keep_result


async def test_a_value_is_kept_as_json_and_given_as_it_was() -> None:
    jobs, store = durable_jobs()
    told = outcomes(store)

    @jobs.task(keep_result=True)
    async def work() -> tuple[int, str]:
        return (1, "a")

    @jobs.task(keep_result=True)
    def in_thread() -> int:
        return 2

    async with jobs:
        values = [await work.enqueue(name="a").result(SOON), await in_thread.enqueue(name="b").result(SOON)]

    assert values == [(1, "a"), 2]
    assert told == [("a", "SUCCEEDED", False, '[1,"a"]'), ("b", "SUCCEEDED", False, "2")]


async def test_a_value_that_is_no_json_fails_the_job_and_takes_its_work_back(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine, async_sessionmaker(engine).begin)
    told = outcomes(store)

    @jobs.task(keep_result=True)
    async def work(session: AsyncSession) -> Any:
        await insert(session, "a")
        return object()

    async with jobs:
        job = await work.enqueue(name="job").wait(SOON)

    assert "keeps its result" in error_of(job)
    assert told == [("job", "FAILED", False, None)]
    assert await things(engine) == []


async def test_a_value_is_not_kept_when_closing_fails_the_job(engine: AsyncEngine) -> None:
    @asynccontextmanager
    async def factory() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session
        raise ConnectionError("in closing")

    jobs, store = jobs_on(engine, factory)
    told = outcomes(store)

    @jobs.task(keep_result=True)
    async def work(session: AsyncSession) -> str:
        return "value"

    async with jobs:
        await work.enqueue(name="job").wait(SOON)
    assert told == [("job", "FAILED", False, None)]


async def test_a_kept_value_is_stored_with_an_atomic_success(engine: AsyncEngine) -> None:
    jobs, store = jobs_on(engine)

    @jobs.task(atomic=True, keep_result=True)
    async def work(session: AsyncSession) -> str:
        return "value"

    async with jobs:
        assert await work.enqueue(name="job").result(SOON) == "value"
    assert store.settled == [("job", '"value"')]


async def test_a_kept_value_is_read_where_a_list_of_jobs_was_read_without_it() -> None:
    jobs, store = durable_jobs()
    reading = store.read

    async def read(record: Record) -> bool:
        record.detail().value = "read"
        return await reading(record)

    store.read = read  # type: ignore[method-assign]

    @jobs.task(keep_result=True)
    async def work() -> str:
        return "value"

    async with jobs:
        job = await work.enqueue().wait(SOON)
        job._record.detail().value = UNSET
        assert await job.result() == "read"


async def test_without_it_the_value_goes_to_the_jobs_that_are_held_only() -> None:
    jobs, store = durable_jobs()
    told = outcomes(store)

    @jobs.task
    async def work() -> str:
        return "value"

    async with jobs:
        job = await work.enqueue(name="job")
        assert await job.result(SOON) == "value"
        await settle()
    assert told == [("job", "SUCCEEDED", False, None)]
