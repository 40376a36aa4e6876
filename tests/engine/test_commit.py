from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    object_session,
    scoped_session,
    sessionmaker,
)

from asgi_jobs.engine.commit import hang
from asgi_jobs.errors import InvalidOption, InvalidOptionType


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class Jobs:
    """What was delivered and dropped; each list is one call."""

    def __init__(self) -> None:
        self.delivered: list[list[str]] = []
        self.dropped: list[list[str]] = []

    def deliver(self, pending: list[str]) -> None:
        self.delivered.append(pending)

    def drop(self, pending: list[str]) -> None:
        self.dropped.append(pending)

    def enqueue(self, name: str, on_commit: object) -> None:
        hang(on_commit, name, deliver=self.deliver, drop=self.drop)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
async def async_engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


def users(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(User)) or 0


# Commit and rollback


def test_a_commit_delivers_in_the_order_of_the_calls(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("first", session)
    session.add(User(id=1, email="a"))
    session.flush()
    jobs.enqueue("second", session)
    assert jobs.delivered == []
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([["first", "second"]], [])


def test_what_is_delivered_is_committed_before(jobs: Jobs, session: Session, engine: Engine) -> None:
    seen = []
    session.add(User(id=1, email="a"))
    hang(session, "job", deliver=lambda _: seen.append(users(engine)), drop=jobs.drop)
    session.commit()
    assert seen == [1]


def test_a_rollback_drops(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("job", session)
    session.rollback()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])
    session.commit()
    assert jobs.delivered == []


def test_a_close_without_commit_drops(jobs: Jobs, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(User(id=1, email="a"))
        jobs.enqueue("job", session)
        session.flush()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_a_reset_drops(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("job", session)
    session.reset()
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_a_begin_block_delivers_at_its_end(jobs: Jobs, engine: Engine) -> None:
    with sessionmaker(engine).begin() as session:
        session.add(User(id=1, email="a"))
        jobs.enqueue("job", session)
    assert jobs.delivered == [["job"]]


def test_an_exception_in_a_begin_block_drops(jobs: Jobs, engine: Engine) -> None:
    with suppress(LookupError), sessionmaker(engine).begin() as session:
        jobs.enqueue("job", session)
        raise LookupError
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_a_commit_that_fails_drops_once_rolled_back(jobs: Jobs, session: Session) -> None:
    session.add(User(id=1, email="a"))
    session.commit()
    session.expunge_all()
    session.add(User(id=2, email="a"))
    jobs.enqueue("job", session)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_a_commit_that_the_database_refuses_delivers_nothing(jobs: Jobs, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", connect_args={"timeout": 0})
    Base.metadata.create_all(engine)
    with engine.connect() as reader, Session(engine) as session:
        reader.exec_driver_sql("BEGIN")
        reader.execute(text("SELECT * FROM users")).all()  # a reader keeps a rollback-journal COMMIT out
        session.add(User(id=1, email="a"))
        jobs.enqueue("job", session)
        with pytest.raises(OperationalError, match="locked"):
            session.commit()
        session.close()
    engine.dispose()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_each_commit_of_a_session_delivers_its_own(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("first", session)
    session.commit()
    jobs.enqueue("second", session)
    session.rollback()
    session.commit()
    jobs.enqueue("third", session)
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([["first"], ["third"]], [["second"]])


def test_two_sessions_do_not_meet(jobs: Jobs, engine: Engine) -> None:
    with Session(engine) as one, Session(engine) as other:
        jobs.enqueue("one", one)
        jobs.enqueue("other", other)
        other.commit()
        assert jobs.delivered == [["other"]]
        one.rollback()
    assert (jobs.delivered, jobs.dropped) == ([["other"]], [["one"]])


def test_two_jobs_on_one_session_get_each_their_own(session: Session) -> None:
    mail, reports = Jobs(), Jobs()
    mail.enqueue("a", session)
    reports.enqueue("b", session)
    mail.enqueue("c", session)
    session.commit()
    assert (mail.delivered, reports.delivered) == ([["a", "c"]], [["b"]])


def test_a_session_joined_to_an_outer_transaction_delivers_at_its_own_commit(jobs: Jobs, engine: Engine) -> None:
    with engine.connect() as connection:  # as in test suites that roll everything back
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            jobs.enqueue("job", session)
            session.commit()
        outer.rollback()
    assert jobs.delivered == [["job"]]


def test_a_two_phase_session_delivers_after_its_commit(jobs: Jobs, session: Session) -> None:
    session.twophase = True
    jobs.enqueue("job", session)
    session.prepare()
    assert jobs.delivered == []
    session.commit()
    assert jobs.delivered == [["job"]]


# Savepoints


def test_a_released_savepoint_hands_to_its_parent(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("before", session)
    with session.begin_nested():
        jobs.enqueue("inside", session)
    assert jobs.delivered == []
    jobs.enqueue("after", session)
    session.commit()
    assert jobs.delivered == [["before", "inside", "after"]]


def test_a_released_savepoint_goes_with_its_parent(jobs: Jobs, session: Session) -> None:
    with session.begin_nested():
        jobs.enqueue("inside", session)
    session.rollback()
    assert (jobs.delivered, jobs.dropped) == ([], [["inside"]])


def test_a_savepoint_that_is_rolled_back_drops_its_own_only(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("before", session)
    with suppress(LookupError), session.begin_nested():
        jobs.enqueue("inside", session)
        raise LookupError
    assert jobs.dropped == [["inside"]]
    jobs.enqueue("after", session)
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([["before", "after"]], [["inside"]])


def test_savepoints_in_savepoints(jobs: Jobs, session: Session) -> None:
    with session.begin_nested():
        jobs.enqueue("one", session)
        with session.begin_nested():
            jobs.enqueue("two", session)
        with suppress(LookupError), session.begin_nested():
            with session.begin_nested():
                jobs.enqueue("three", session)
            raise LookupError
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([["one", "two"]], [["three"]])


def test_a_savepoint_whose_flush_fails_drops_its_own_only(jobs: Jobs, session: Session) -> None:
    session.add(User(id=1, email="a"))
    jobs.enqueue("before", session)
    with suppress(IntegrityError), session.begin_nested():
        jobs.enqueue("inside", session)
        session.add(User(id=2, email="a"))
    session.commit()
    assert (jobs.delivered, jobs.dropped) == ([["before"]], [["inside"]])


def test_a_commit_over_an_open_savepoint_delivers_all(jobs: Jobs, engine: Engine) -> None:
    with sessionmaker(engine).begin() as session:
        jobs.enqueue("before", session)
        session.begin_nested()
        jobs.enqueue("inside", session)
    assert jobs.delivered == [["before", "inside"]]


def test_a_close_with_open_savepoints_drops_all(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("root", session)
    session.begin_nested()
    jobs.enqueue("savepoint", session)
    session.close()
    assert sorted(jobs.dropped) == [["root"], ["savepoint"]]


# What kind of session


def test_a_registry_means_its_current_session(jobs: Jobs, engine: Engine) -> None:
    registry = scoped_session(sessionmaker(engine))
    jobs.enqueue("job", registry)
    registry().commit()
    registry.remove()
    assert jobs.delivered == [["job"]]


async def test_an_async_session(jobs: Jobs, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        session.add(User(id=1, email="a"))
        jobs.enqueue("first", session)
        await session.commit()
        async with session.begin_nested():
            jobs.enqueue("second", session)
            await session.execute(text("SELECT 1"))
        await session.rollback()
    assert (jobs.delivered, jobs.dropped) == ([["first"]], [["second"]])


async def test_an_async_registry_means_its_current_session(jobs: Jobs, async_engine: AsyncEngine) -> None:
    registry = async_scoped_session(async_sessionmaker(async_engine), scopefunc=asyncio.current_task)
    jobs.enqueue("job", registry)
    await registry.commit()
    await registry.remove()
    assert jobs.delivered == [["job"]]


async def test_an_async_begin_factory_delivers_on_the_loop_in_a_task_of_its_own(
    jobs: Jobs, async_engine: AsyncEngine
) -> None:
    where: list[Any] = []

    def deliver(_: list[str]) -> None:
        where.append((asyncio.get_running_loop(), asyncio.current_task(), threading.current_thread()))

    async with async_sessionmaker(async_engine).begin() as session:
        session.add(User(id=1, email="a"))
        hang(session, "job", deliver=deliver, drop=jobs.drop)
    [(loop, task, thread)] = where
    assert (loop, thread) == (asyncio.get_running_loop(), threading.main_thread())
    assert task is not asyncio.current_task()


async def test_an_async_begin_factory_that_fails_drops(jobs: Jobs, async_engine: AsyncEngine) -> None:
    with suppress(LookupError):
        async with async_sessionmaker(async_engine).begin() as session:
            await session.execute(text("SELECT 1"))
            jobs.enqueue("job", session)
            raise LookupError
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


async def test_a_request_that_is_cancelled_before_its_commit_drops(jobs: Jobs, async_engine: AsyncEngine) -> None:
    enqueued = asyncio.Event()

    async def handler() -> None:
        async with async_sessionmaker(async_engine).begin() as session:
            await session.execute(text("SELECT 1"))
            jobs.enqueue("job", session)
            enqueued.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handler())
    async with asyncio.timeout(5):
        await enqueued.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


async def test_a_sync_session_in_a_thread_delivers_in_the_thread(engine: Engine, jobs: Jobs) -> None:
    threads: list[threading.Thread] = []

    def endpoint() -> threading.Thread:
        with Session(engine) as session:
            hang(session, "job", deliver=lambda _: threads.append(threading.current_thread()), drop=jobs.drop)
            session.commit()
        return threading.current_thread()

    thread = await asyncio.to_thread(endpoint)
    assert threads == [thread]
    assert thread is not threading.current_thread()


def test_no_session_is_refused_by_name(jobs: Jobs, engine: Engine) -> None:
    for wrong in (engine, sessionmaker(engine), None, True):
        with pytest.raises(InvalidOptionType, match=rf"on_commit must be the session .* {type(wrong).__name__}"):
            jobs.enqueue("job", wrong)


# When nothing has begun, and when it is too late


def test_a_session_without_a_transaction_begins_one(jobs: Jobs, session: Session) -> None:
    jobs.enqueue("job", session)
    assert session.in_transaction()
    with pytest.raises(InvalidRequestError, match="already begun"):  # as after session.add()
        session.begin()


def test_a_session_without_autobegin_wants_begin(jobs: Jobs, engine: Engine) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(InvalidOption, match=r"call session\.begin\(\) first"):
            jobs.enqueue("job", session)
        with session.begin():
            jobs.enqueue("job", session)
    assert jobs.delivered == [["job"]]


def test_a_session_that_cannot_commit_any_more_is_refused(jobs: Jobs, session: Session) -> None:
    session.add_all([User(id=1, email="a"), User(id=2, email="a")])
    with pytest.raises(IntegrityError):
        session.flush()
    with pytest.raises(InvalidOption, match=r"call session\.rollback\(\) first"):
        jobs.enqueue("job", session)
    session.rollback()
    jobs.enqueue("job", session)
    session.commit()
    assert jobs.delivered == [["job"]]


def test_an_enqueue_from_a_commit_hook_is_refused_not_lost(jobs: Jobs, session: Session) -> None:
    event.listen(session, "after_commit", partial(jobs.enqueue, "late"))
    with pytest.raises(InvalidOption, match="in a commit hook enqueue without on_commit"):
        session.commit()


def test_an_enqueue_from_a_mapper_hook_belongs_to_the_commit(jobs: Jobs, session: Session) -> None:
    def welcome(mapper: Any, connection: Any, user: User) -> None:
        jobs.enqueue(user.email, object_session(user))

    event.listen(User, "after_insert", welcome)
    try:
        session.add(User(id=1, email="a"))
        session.commit()
    finally:
        event.remove(User, "after_insert", welcome)
    assert jobs.delivered == [["a"]]


def test_a_savepoint_in_a_mapper_hook_hands_to_the_root(jobs: Jobs, session: Session) -> None:
    def welcome(mapper: Any, connection: Any, user: User) -> None:
        with session.begin_nested():  # its parent is the transaction of the flush
            jobs.enqueue(user.email, session)

    event.listen(User, "after_insert", welcome)
    try:
        session.add(User(id=1, email="a"))
        session.commit()
    finally:
        event.remove(User, "after_insert", welcome)
    assert (jobs.delivered, jobs.dropped) == ([["a"]], [])


# Faults of the call-backs


def test_a_delivery_that_fails_is_logged_and_never_raised(
    jobs: Jobs, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(pending: list[str]) -> None:
        raise RuntimeError("full")

    hang(session, "one", deliver=fail, drop=jobs.drop)
    jobs.enqueue("other", session)
    with caplog.at_level(logging.ERROR, "asgi_jobs"):
        session.commit()
    assert jobs.delivered == [["other"]]
    assert "on_commit: what was enqueued could not be handed on: ['one']" in caplog.text
    assert "RuntimeError: full" in caplog.text


# Writing in the same transaction


def write(session: Session, pending: list[str]) -> None:
    for email in pending:
        session.execute(text("INSERT INTO users (email) VALUES (:email)"), {"email": email})


def test_before_writes_in_the_transaction_that_commits(jobs: Jobs, session: Session, engine: Engine) -> None:
    seen = []
    hang(session, "first", deliver=lambda _: seen.append(users(engine)), drop=jobs.drop, before=write)
    with session.begin_nested():
        hang(session, "second", deliver=jobs.deliver, drop=jobs.drop, before=write)
        session.execute(text("SELECT 1"))
    assert session.scalar(select(func.count()).select_from(User)) == 0  # not yet: the lock is kept short
    session.commit()
    assert (seen, jobs.delivered) == ([2], [["second"]])


def test_before_is_not_called_for_what_is_rolled_back(jobs: Jobs, session: Session, engine: Engine) -> None:
    hang(session, "root", deliver=jobs.deliver, drop=jobs.drop, before=write)
    with suppress(LookupError), session.begin_nested():
        hang(session, "inside", deliver=jobs.deliver, drop=jobs.drop, before=write)
        raise LookupError
    session.commit()
    assert (users(engine), jobs.delivered) == (1, [["root"]])


def test_before_sees_what_the_flush_enqueues(jobs: Jobs, session: Session, engine: Engine) -> None:
    def welcome(mapper: Any, connection: Any, user: User) -> None:
        hang(object_session(user), "from the flush", deliver=jobs.deliver, drop=jobs.drop, before=write)

    event.listen(User, "after_insert", welcome)
    try:
        session.add(User(id=1, email="a"))
        hang(session, "from the call", deliver=jobs.deliver, drop=jobs.drop, before=write)
        session.commit()
    finally:
        event.remove(User, "after_insert", welcome)
    assert (users(engine), jobs.delivered) == (3, [["from the call", "from the flush"]])


def test_before_fails_the_commit_and_can_be_tried_again(jobs: Jobs, session: Session, engine: Engine) -> None:
    locked = [OperationalError("INSERT", {}, Exception("locked"))]

    def flaky(session: Session, pending: list[str]) -> None:
        if locked:
            raise locked.pop()
        write(session, pending)

    hang(session, "one", deliver=jobs.deliver, drop=jobs.drop, before=write)
    hang(session, "two", deliver=jobs.deliver, drop=jobs.drop, before=flaky)
    with pytest.raises(OperationalError):
        session.commit()
    assert jobs.delivered == []
    session.commit()
    assert (users(engine), jobs.delivered) == (2, [["one", "two"]])


async def test_before_writes_through_an_async_session(jobs: Jobs, async_engine: AsyncEngine) -> None:
    async with async_sessionmaker(async_engine).begin() as session:
        hang(session, "job", deliver=jobs.deliver, drop=jobs.drop, before=write)
    async with AsyncSession(async_engine) as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 1


# Nothing is left behind


def test_a_session_leaves_nothing_behind(jobs: Jobs, engine: Engine) -> None:
    session = Session(engine)
    jobs.enqueue("job", session)
    session.commit()
    alive = ref(session)
    gc.disable()  # without a cycle the session goes with its last name
    try:
        del session
        assert alive() is None
    finally:
        gc.enable()


def test_a_session_that_is_forgotten_drops(jobs: Jobs, engine: Engine) -> None:
    session = Session(engine)
    jobs.enqueue("job", session)
    del session
    gc.collect()
    assert (jobs.delivered, jobs.dropped) == ([], [["job"]])


def test_many_jobs_register_their_listeners_once(jobs: Jobs, session: Session) -> None:
    for number in range(3):
        jobs.enqueue(str(number), session)
        session.commit()
    assert len(list(session.dispatch.after_commit)) == 1


def test_a_copy_of_the_sessions_info_does_not_mix_up_sessions(jobs: Jobs, engine: Engine) -> None:
    with Session(engine) as one:
        jobs.enqueue("one", one)
        with Session(engine, info=one.info) as copy:
            jobs.enqueue("copy", copy)
            copy.commit()
        assert jobs.delivered == [["copy"]]
        one.commit()
    assert jobs.delivered == [["copy"], ["one"]]
