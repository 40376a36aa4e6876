"""`on_commit` on the store's own database: the job is a row of the session's transaction, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from asgi_jobs import JobNotFound, Jobs, JobState, NotStored, StoreLocked
from asgi_jobs.stores.sql import sqlite
from tests.durable.fleet import worker
from tests.durable.server import Server
from tests.durable.worker import Stage

pytestmark = pytest.mark.postgresql
Start = Callable[..., Any]
SYNC = {"sqlite+aiosqlite": "sqlite", "postgresql+asyncpg": "postgresql+psycopg"}


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    server: Server = request.getfixturevalue("server")
    return server.url(await server.database())


def _begins(engine: Engine) -> None:
    """SQLAlchemy's recipe for transactions on SQLite that begin when they are said to."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


@pytest.fixture
async def engine(store: str) -> AsyncIterator[AsyncEngine]:
    """The application's, with a table of its own."""
    made = create_async_engine(store)
    _begins(made.sync_engine)
    async with made.begin() as connection:
        await connection.execute(text("CREATE TABLE users (name text)"))
    yield made
    await made.dispose()


@pytest.fixture
def sync_engine(store: str, engine: AsyncEngine) -> Iterator[Engine]:
    driver, _, rest = store.partition("://")
    made = create_engine(f"{SYNC[driver]}://{rest}")
    _begins(made)
    yield made
    made.dispose()


INSERT = text("INSERT INTO users VALUES ('Ada')")


async def users(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM users")) or 0)


async def kept(jobs: Jobs) -> int:
    return sum((await jobs.counts()).values())


async def test_a_job_exists_when_its_session_has_committed(
    store: str, engine: AsyncEngine, start: Start, stage: Stage
) -> None:
    jobs, tasks = await start(store)
    async with AsyncSession(engine) as session:
        await session.execute(INSERT)
        job = jobs.using(on_commit=session).enqueue(tasks["note"], "committed")
        with pytest.raises(JobNotFound):
            await jobs.get(job.id)
        await session.commit()
    await job.wait()
    assert (stage.texts("ran"), await kept(jobs), await users(engine)) == (["committed"], 1, 1)


async def test_a_job_does_not_exist_when_its_session_was_rolled_back(
    store: str, engine: AsyncEngine, start: Start, stage: Stage
) -> None:
    jobs, tasks = await start(store)
    async with AsyncSession(engine) as session:
        await session.execute(INSERT)
        job = jobs.using(on_commit=session).enqueue(tasks["note"], "rolled back")
        await session.rollback()
        with pytest.raises(NotStored):
            await job.wait()
    await jobs.join()
    assert (stage.texts("ran"), await kept(jobs), await users(engine)) == ([], 0, 0)


async def test_a_commit_that_fails_leaves_no_job(store: str, engine: AsyncEngine, start: Start, stage: Stage) -> None:
    jobs, tasks = await start(store)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE UNIQUE INDEX one_of_each ON users (name)"))
        await connection.execute(INSERT)
    async with AsyncSession(engine) as session:
        job = jobs.using(on_commit=session).enqueue(tasks["note"], "of a failed commit")
        event.listen(session.sync_session, "before_commit", lambda one: one.execute(INSERT))
        with pytest.raises(Exception, match=r"(?i)unique"):
            await session.commit()
        await session.rollback()
    with pytest.raises(NotStored):
        await job.wait()
    assert (stage.texts("ran"), await kept(jobs)) == ([], 0)


async def test_a_savepoint_that_is_rolled_back_takes_its_jobs_and_no_others(
    store: str, engine: AsyncEngine, start: Start, stage: Stage
) -> None:
    jobs, tasks = await start(store)
    async with AsyncSession(engine) as session:
        outer = jobs.using(on_commit=session).enqueue(tasks["note"], "outer")
        kept_savepoint = await session.begin_nested()
        inner = jobs.using(on_commit=session).enqueue(tasks["note"], "inner")
        await kept_savepoint.commit()
        dropped_savepoint = await session.begin_nested()
        gone = jobs.using(on_commit=session).enqueue(tasks["note"], "gone")
        await dropped_savepoint.rollback()
        await session.commit()
    for job in (outer, inner):
        await job.wait()
    with pytest.raises(NotStored):
        await gone.wait()
    assert (sorted(stage.texts("ran")), await kept(jobs)) == (["inner", "outer"], 2)


async def test_jobs_of_one_session_keep_the_order_of_the_calls(
    store: str, engine: AsyncEngine, start: Start, stage: Stage
) -> None:
    jobs, tasks = await start(store)
    texts = [f"{number}" for number in range(20)]
    async with AsyncSession(engine) as session, session.begin():
        enqueued = [jobs.using(queue="q", on_commit=session).enqueue(tasks["note"], text) for text in texts]
    for job in enqueued:
        await job.wait()
    assert stage.texts("ran") == texts


@pytest.mark.parametrize("commits", [True, False])
async def test_a_sync_session_in_a_thread_does_the_same(
    commits: bool, store: str, sync_engine: Engine, engine: AsyncEngine, start: Start, stage: Stage
) -> None:
    jobs, tasks = await start(store)

    def request() -> Any:
        with Session(sync_engine) as session:
            session.execute(INSERT)
            job = jobs.using(on_commit=session).enqueue(tasks["note"], "from a thread")
            (session.commit if commits else session.rollback)()
            return job

    job = await asyncio.to_thread(request)
    if commits:
        assert (await job.wait()).state is JobState.SUCCEEDED
    else:
        with pytest.raises(NotStored):
            await job.wait()
    assert (len(stage.texts("ran")), await kept(jobs), await users(engine)) == (commits, commits, commits)


async def test_a_job_of_a_commit_starts_in_another_process_too(store: str, engine: AsyncEngine, start: Start) -> None:
    jobs, tasks = await start(store, concurrency=0)
    async with worker(store) as runner:
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(INSERT)
            job = jobs.using(on_commit=session).enqueue(tasks["note"], "elsewhere")
        async with asyncio.timeout(5):
            await job.wait()
        assert runner.texts("ran") == ["elsewhere"]


async def test_a_plain_await_beside_the_callers_own_lock_raises_and_names_on_commit(
    tmp_path: Path, start: Start, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.3)
    store = f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    engine = create_async_engine(store)
    _begins(engine.sync_engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE users (name text)"))
    jobs, tasks = await start(store)
    async with AsyncSession(engine) as session:
        await session.execute(INSERT)  # as a flush does: this session now holds the only lock
        with pytest.raises(StoreLocked, match="on_commit=session"):
            await jobs.enqueue(tasks["note"], "beside it")
        job = jobs.using(on_commit=session).enqueue(tasks["note"], "as part of it")
        await session.commit()
    await job.wait()
    assert stage.texts("ran") == ["as part of it"]
    await engine.dispose()
