"""`on_commit` on durable stores: a row of the same transaction where that can be, else stored after the commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from asgi_jobs import InvalidCall, InvalidOption, JobNotFound, Jobs, JobState, NotStored, QueueFull
from asgi_jobs.testing import settle
from tests.engine.durable import LaterStore, durable_jobs

SOON = timedelta(seconds=10)
seen: list[str] = []


async def work(word: str = "") -> str:
    seen.append(word)
    return f"did {word}"


@pytest.fixture(autouse=True)
def clean() -> None:
    seen.clear()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    yield made
    await made.dispose()


@pytest.fixture
def sync_engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/sync.db")
    yield made
    made.dispose()


@pytest.fixture
async def rig(engine: AsyncEngine) -> AsyncIterator[tuple[Jobs, LaterStore]]:
    """Jobs whose store is in the engine's database."""
    jobs, store = durable_jobs()
    jobs.task(work)
    store.own_binds.append(engine.sync_engine)
    async with jobs:
        yield jobs, store


async def test_on_its_own_database_a_job_is_a_row_of_the_sessions_transaction(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine
) -> None:
    jobs, store = rig
    kinds: list[str] = []
    jobs.subscribe(lambda event: kinds.append(event.kind))
    async with AsyncSession(engine) as session:
        await session.execute(text("CREATE TABLE things (id INTEGER)"))
        made = [jobs.enqueue(work, word, name=word, queue="q", on_commit=session) for word in ("a", "b")]
        before = list(store.rows), [job.stored for job in made], list(kinds)
        await session.commit()
    results = [await job.result(SOON) for job in made]

    assert before == ([], [False, False], [])
    assert results == ["did a", "did b"]
    assert seen == ["a", "b"]
    assert store.batches == []  # never through the writer
    assert kinds[:2] == ["enqueued", "enqueued"]


async def test_awaiting_never_waits_for_the_commit_and_warns_of_nothing(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine
) -> None:
    jobs, _ = rig
    async with AsyncSession(engine) as session:
        jobs.enqueue(work, "unheld", on_commit=session)
        job = await jobs.enqueue(work, "a", on_commit=session)
        assert not job.stored
        assert repr(job).endswith("not stored yet>")
        await job.refresh()
        with pytest.raises(JobNotFound):
            await jobs.get(job.id)
        await session.commit()
    await job.wait(SOON)
    await jobs.join()
    assert sorted(seen) == ["a", "unheld"]


async def test_who_waits_before_the_commit_hears_of_the_end(rig: tuple[Jobs, LaterStore], engine: AsyncEngine) -> None:
    jobs, _ = rig
    async with AsyncSession(engine) as session:
        job = jobs.enqueue(work, "a", on_commit=session)
        waiting = asyncio.ensure_future(job.result(SOON))
        await settle()
        early = waiting.done()
        await session.commit()
        result = await waiting

    assert (early, result) == (False, "did a")


async def test_a_rolled_back_job_does_not_exist(rig: tuple[Jobs, LaterStore], engine: AsyncEngine) -> None:
    jobs, store = rig
    async with AsyncSession(engine) as session:
        job = jobs.enqueue(work, on_commit=session)
        waiting = asyncio.ensure_future(job.wait(SOON))
        await settle()
        await session.rollback()

    with pytest.raises(NotStored, match="rolled back"):
        await waiting
    for verb in (job.wait, job.result, job.refresh):
        with pytest.raises(NotStored, match="rolled back"):
            await verb()
    assert (store.rows, store._records) == ([], {})


async def test_a_row_that_cannot_be_written_fails_the_commit(rig: tuple[Jobs, LaterStore], engine: AsyncEngine) -> None:
    jobs, store = rig
    store.fail("write", ValueError("no such table"))
    async with AsyncSession(engine) as session:
        job = jobs.enqueue(work, on_commit=session)
        with pytest.raises(ValueError, match="no such table"):
            await session.commit()
        await session.rollback()

    with pytest.raises(NotStored):
        await job.wait()


async def test_a_commit_that_fails_after_the_row_was_written_leaves_nothing_behind(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine
) -> None:
    jobs, store = rig
    async with AsyncSession(engine) as session:
        job = jobs.enqueue(work, on_commit=session)
        event.listen(session.sync_session, "before_commit", fail)  # after ours
        with pytest.raises(ConnectionError):
            await session.commit()
        await session.rollback()

    with pytest.raises(NotStored, match="rolled back"):
        await job.wait()
    assert store.rows == [job._record]  # which the database has rolled back
    assert jobs._engine.durable is not None
    assert jobs._engine.durable.entrance._written == set()


def fail(_: Session) -> None:
    raise ConnectionError("at the commit")


async def test_a_job_of_a_savepoint_that_the_root_commits_over_is_stored_after_the_commit(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine
) -> None:
    jobs, store = rig
    async with AsyncSession(engine) as session:
        await session.begin_nested()
        job = jobs.enqueue(work, "a", name="late", on_commit=session)
        await session.get_transaction().commit()  # type: ignore[union-attr]
        assert await job.result(SOON) == "did a"

    assert store.batches == [["late"]]


async def test_on_another_database_a_job_is_stored_after_the_commit_and_that_is_said_once(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = rig
    store.own_binds.clear()
    async with AsyncSession(engine) as session:
        made = [jobs.enqueue(work, name, name=name, on_commit=session) for name in ("a", "b")]
        await settle()
        before = list(store.batches)
        await session.commit()
    for job in made:
        await job.wait(SOON)

    assert (before, store.batches) == ([], [["a", "b"]])
    assert caplog.text.count("on another database than the store") == 1


async def test_a_session_that_chooses_its_database_itself_is_taken_for_another_one(
    rig: tuple[Jobs, LaterStore], engine: AsyncEngine
) -> None:
    jobs, store = rig
    async with AsyncSession() as session:
        await session.connection(bind_arguments={"bind": engine.sync_engine})
        job = jobs.enqueue(work, "a", name="a", on_commit=session)
        await session.commit()
        await job.wait(SOON)

    assert store.batches == [["a"]]


async def test_a_sync_session_may_commit_in_a_thread(rig: tuple[Jobs, LaterStore], sync_engine: Engine) -> None:
    jobs, store = rig
    store.own_binds.append(sync_engine)

    def in_thread() -> str:
        with Session(sync_engine) as session:
            job = jobs.enqueue(work, "a", on_commit=session)
            session.commit()
        return job.id

    id = await asyncio.to_thread(in_thread)
    await (await jobs.get(id)).wait(SOON)
    assert (seen, store.batches) == (["a"], [])


async def test_what_is_committed_after_the_stop_is_stored_where_it_is_a_row(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, store = durable_jobs()
    task = jobs.task(work)
    store.own_binds.append(engine.sync_engine)
    async with AsyncSession(engine) as session:
        async with jobs:
            job = task.enqueue("a", on_commit=session)
        await session.commit()
    async with jobs:
        assert await job.result(SOON) == "did a"
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_what_is_committed_after_the_stop_elsewhere_is_lost_and_said(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, _ = durable_jobs()
    task = jobs.task(work)
    async with AsyncSession(engine) as session:
        async with jobs:
            job = task.enqueue("a", name="late", on_commit=session)
        await session.commit()

    with pytest.raises(NotStored, match="stopped before"):
        await job.wait()
    assert "'late'" in caplog.text


async def test_a_job_may_enqueue_with_its_own_session_while_the_engine_stops(engine: AsyncEngine) -> None:
    jobs, store = durable_jobs(session_factory=lambda: AsyncSession(engine))
    inner = jobs.task(work)
    store.own_binds.append(engine.sync_engine)
    gate = asyncio.Event()

    async def outer(session: AsyncSession) -> None:
        seen.append("outer")
        await gate.wait()
        inner.enqueue("inner", on_commit=session)
        await session.commit()

    await jobs.open()
    await jobs.begin()
    await jobs.task(outer).enqueue()
    while not seen:
        await asyncio.sleep(0)
    stopping = asyncio.ensure_future(jobs.stop())
    await settle()
    gate.set()
    await stopping

    states = [record.state for record in store._records.values()]
    assert states == [JobState.SUCCEEDED, JobState.QUEUED]


async def test_what_is_wrong_is_said_at_the_call(engine: AsyncEngine) -> None:
    jobs, store = durable_jobs(max_queued=1)
    task = jobs.task(work)
    async with jobs:
        store.hold("exchange")
        async with AsyncSession(engine) as session:
            with pytest.raises(InvalidOption, match="unique"):
                task.enqueue(unique="key", on_commit=session)
            with pytest.raises(InvalidCall, match="'word'"):
                task.enqueue(object(), on_commit=session)
            await task.enqueue()
            with pytest.raises(QueueFull):
                task.enqueue(on_commit=session)
        store._gates["exchange"].set()
