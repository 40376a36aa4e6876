"""The scope of one attempt: sessions in every form of factory, services, what is closed when and with which error."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dishka import Provider, Scope
from sqlalchemy import Engine, StaticPool, create_engine, event, insert, select, text, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from asgi_jobs import InvalidCall, InvalidOptionType, Jobs, JobState, Retry, current_job
from asgi_jobs.engine.sessions import Limiter, SessionFactory
from asgi_jobs.testing import FakeClock, settle

LONG = timedelta(seconds=8)
AT_ONCE = Retry(1, base=timedelta(0))


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclass
class Database:
    """A SQLite file, with an engine of each kind."""

    asynchronous: AsyncEngine
    sync: Engine

    @property
    def maker(self) -> "async_sessionmaker[AsyncSession]":
        return async_sessionmaker(self.asynchronous, expire_on_commit=False)

    @property
    def sync_maker(self) -> "sessionmaker[Session]":
        return sessionmaker(self.sync, expire_on_commit=False)

    async def texts(self) -> list[str]:
        async with self.asynchronous.connect() as connection:
            return list((await connection.execute(select(Note.text).order_by(Note.id))).scalars())

    @property
    def checked_out(self) -> int:
        counts = [engine.pool.checkedout() for engine in (self.asynchronous, self.sync)]  # type: ignore[attr-defined]
        return sum(counts)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"{tmp_path}/app.db"
    database = Database(create_async_engine(f"sqlite+aiosqlite:///{url}"), create_engine(f"sqlite:///{url}"))
    for engine in (
        database.asynchronous.sync_engine,
        database.sync,
    ):  # else releasing a savepoint commits: SQLAlchemy's
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    Base.metadata.create_all(database.sync)
    yield database
    left = database.checked_out
    await database.asynchronous.dispose()
    database.sync.dispose()
    assert left == 0, "connections are still checked out"


# Every form of factory. `commits`: on success, by itself.


def form_maker(db: Database) -> Any:
    return db.maker


def form_begin(db: Database) -> Any:
    return db.maker.begin


def form_manager(db: Database) -> Any:
    @asynccontextmanager
    async def open_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session

    return open_session


def form_manager_that_commits(db: Database) -> Any:
    @asynccontextmanager
    async def open_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
            await session.commit()

    return open_session


def form_get_session(db: Database) -> Any:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session

    return get_session


def form_get_session_that_commits(db: Database) -> Any:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
            await session.commit()

    return get_session


def form_get_session_that_handles(db: Database) -> Any:
    async def get_session():  # type: ignore[no-untyped-def]
        session = db.maker()
        try:
            yield session
            await session.commit()
        except BaseException:
            await session.rollback()
            raise
        finally:
            await session.close()

    return get_session


def form_callable(db: Database) -> Any:
    return lambda: db.maker()  # noqa: PLW0108 - a plain function


def form_sync_maker(db: Database) -> Any:
    return db.sync_maker


def form_sync_begin(db: Database) -> Any:
    return db.sync_maker.begin


def form_sync_generator(db: Database) -> Any:
    def get_session() -> Iterator[Session]:
        with db.sync_maker() as session:
            yield session

    return get_session


def form_sync_generator_that_commits(db: Database) -> Any:
    def get_session() -> Iterator[Session]:
        with db.sync_maker() as session:
            yield session
            session.commit()

    return get_session


def form_sync_manager(db: Database) -> Any:
    @contextmanager
    def open_session() -> Iterator[Session]:
        with db.sync_maker() as session:
            yield session

    return open_session


def form_sync_callable(db: Database) -> Any:
    def make() -> Session:
        return db.sync_maker()

    return make


Form = Callable[[Database], Any]
ASYNC_FORMS = [
    (form_maker, False),
    (form_begin, True),
    (form_manager, False),
    (form_manager_that_commits, True),
    (form_get_session, False),
    (form_get_session_that_commits, True),
    (form_get_session_that_handles, True),
    (form_callable, False),
]
SYNC_FORMS = [
    (form_sync_maker, False),
    (form_sync_begin, True),
    (form_sync_generator, False),
    (form_sync_generator_that_commits, True),
    (form_sync_manager, False),
    (form_sync_callable, False),
]


def name_of(value: Any) -> str | None:
    return value.__name__.removeprefix("form_") if callable(value) else None


every_async_form = pytest.mark.parametrize(("form", "commits"), ASYNC_FORMS, ids=name_of)
every_sync_form = pytest.mark.parametrize(("form", "commits"), SYNC_FORMS, ids=name_of)


def jobs_of(factory: Any, **options: Any) -> Jobs:
    return Jobs(session_factory=factory, authorize="local", **options)


@every_async_form
async def test_success(db: Database, form: Form, commits: bool) -> None:
    async def work(session: AsyncSession, text: str) -> None:
        session.add(Note(text=text))
        if not commits:
            await session.commit()

    async with jobs_of(form(db)) as jobs:
        job = await jobs.enqueue(work, "kept").wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert job.uncommitted is False
    assert await db.texts() == ["kept"]


@every_async_form
async def test_an_error_never_commits(db: Database, form: Form, commits: bool) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        await session.flush()
        raise ValueError("no")

    async with jobs_of(form(db)) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "ValueError"
    assert job.uncommitted is False
    assert await db.texts() == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, StopIteration])
@every_async_form
async def test_no_kind_of_error_commits(db: Database, form: Form, commits: bool, error: type[BaseException]) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        await session.flush()
        raise error

    async with jobs_of(form(db)) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.FAILED
    assert await db.texts() == []


@every_async_form
async def test_a_cancel_never_commits(db: Database, form: Form, commits: bool) -> None:
    flushed = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        await session.flush()
        flushed.set()
        await asyncio.Event().wait()

    async with jobs_of(form(db)) as jobs:
        job = jobs.enqueue(work)
        await flushed.wait()
        await (await job.cancel()).wait(LONG)
    assert job.state is JobState.CANCELLED
    assert await db.texts() == []


@every_async_form
async def test_a_timeout_never_commits(db: Database, form: Form, commits: bool) -> None:
    flushed = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        await session.flush()
        flushed.set()
        await asyncio.Event().wait()

    clock = FakeClock()
    async with jobs_of(form(db), clock=clock) as jobs:
        job = jobs.enqueue(work, timeout=timedelta(minutes=1))
        await flushed.wait()
        await clock.advance(timedelta(minutes=1))
        await job.wait(LONG)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "TimeoutError"
    assert await db.texts() == []


@pytest.mark.parametrize(
    ("form", "commits"),
    [(form_begin, True), (form_get_session_that_handles, True), (form_callable, False)],
    ids=name_of,
)
async def test_a_shutdown_never_commits(db: Database, form: Form, commits: bool) -> None:
    flushed = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        await session.flush()
        flushed.set()
        await asyncio.Event().wait()

    async with jobs_of(form(db), shutdown_timeout=timedelta(seconds=3)) as jobs:
        job = jobs.enqueue(work)
        await flushed.wait()
    assert job.state is JobState.CANCELLED
    assert db.checked_out == 0
    assert await db.texts() == []


@every_async_form
async def test_each_job_and_each_attempt_has_a_fresh_session(db: Database, form: Form, commits: bool) -> None:
    sessions: list[list[AsyncSession]] = [[]]  # deeper than the guard looks

    async def work(session: AsyncSession) -> None:
        sessions[0].append(session)
        session.add(Note(text=f"attempt {current_job().job.attempt}"))
        await session.flush()
        if current_job().job.attempt == 1:
            raise ValueError("once")
        if not commits:
            await session.commit()

    async with jobs_of(form(db)) as jobs:
        first = await jobs.enqueue(work, retries=AT_ONCE).wait(LONG)
        second = await jobs.enqueue(work, retries=AT_ONCE).wait(LONG)
    assert first.state is second.state is JobState.SUCCEEDED
    assert len({id(session) for session in sessions[0]}) == 4
    assert await db.texts() == ["attempt 2", "attempt 2"]


@every_async_form
async def test_two_parameters_and_the_services_share_one_session(db: Database, form: Form, commits: bool) -> None:
    class Repository:
        def __init__(self, session: AsyncSession) -> None:
            self.session = session

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Repository)

    async def work(repository: Repository, session: AsyncSession, same: AsyncSession) -> bool:
        return repository.session is session is same

    async def only_service(repository: Repository) -> None:
        repository.session.add(Note(text="through the service"))
        if not commits:
            await repository.session.commit()

    async with jobs_of(form(db), providers=[provider]) as jobs:
        assert await jobs.enqueue(work).result(LONG) is True
        await jobs.enqueue(only_service).result(LONG)
    assert await db.texts() == ["through the service"]


@every_async_form
async def test_a_failed_job_of_a_service_never_commits(db: Database, form: Form, commits: bool) -> None:
    class Repository:
        def __init__(self, session: AsyncSession) -> None:
            self.session = session

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Repository)

    async def work(repository: Repository) -> None:
        repository.session.add(Note(text="lost"))
        await repository.session.flush()
        raise ValueError("no")

    async with jobs_of(form(db), providers=[provider]) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.FAILED
    assert await db.texts() == []


# Sync sessions in threads


@every_sync_form
async def test_a_thread_job_opens_works_and_closes_in_one_thread(db: Database, form: Form, commits: bool) -> None:
    threads: list[str] = []
    inner = SessionFactory.of(form(db)).open

    @contextmanager
    def factory() -> Iterator[Session]:
        threads.append(threading.current_thread().name)
        with inner() as session:
            yield session
        threads.append(threading.current_thread().name)

    def work(session: Session, text: str) -> str:
        threads.append(threading.current_thread().name)
        session.add(Note(text=text))
        if not commits:
            session.commit()
        return type(session).__name__

    async with jobs_of(factory) as jobs:
        assert await jobs.enqueue(work, "kept").result(LONG) == "Session"
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0].startswith("asgi_jobs")
    assert await db.texts() == ["kept"]


@every_sync_form
async def test_sync_success_and_error(db: Database, form: Form, commits: bool) -> None:
    def work(session: Session, text: str, fail: bool) -> None:
        session.add(Note(text=text))
        session.flush()
        if fail:
            raise ValueError("no")
        if not commits:
            session.commit()

    async with jobs_of(form(db)) as jobs:
        kept = await jobs.enqueue(work, "kept", False).wait(LONG)
        lost = await jobs.enqueue(work, "lost", True).wait(LONG)
    assert (kept.state, lost.state) == (JobState.SUCCEEDED, JobState.FAILED)
    assert kept.uncommitted is False
    assert await db.texts() == ["kept"]


@every_sync_form
async def test_a_thread_job_that_heeds_a_cancel_or_a_timeout_never_commits(
    db: Database, form: Form, commits: bool
) -> None:
    flushed, stop = threading.Event(), threading.Event()

    def work(session: Session) -> None:
        session.add(Note(text="lost"))
        session.flush()
        flushed.set()
        assert stop.wait(5)
        if current_job().cancelled:
            raise RuntimeError("stopped")

    clock = FakeClock()
    async with jobs_of(form(db), clock=clock) as jobs:
        for end in ("cancel", "timeout"):
            flushed.clear()
            stop.clear()
            job = jobs.enqueue(work, timeout=timedelta(minutes=1))
            await asyncio.to_thread(flushed.wait, 5)
            if end == "cancel":
                await job.cancel()
            else:
                await clock.advance(timedelta(minutes=1))
            stop.set()
            await job.wait(LONG)
            assert job.state is JobState.FAILED
    assert await db.texts() == []


@every_sync_form
async def test_each_attempt_of_a_thread_job_has_a_fresh_session(db: Database, form: Form, commits: bool) -> None:
    sessions: list[list[Session]] = [[]]  # deeper than the guard looks

    def work(session: Session) -> None:
        sessions[0].append(session)
        session.add(Note(text=f"attempt {current_job().job.attempt}"))
        session.flush()
        if current_job().job.attempt == 1:
            raise ValueError("once")
        if not commits:
            session.commit()

    async with jobs_of(form(db)) as jobs:
        job = await jobs.enqueue(work, retries=AT_ONCE).wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert len({id(session) for session in sessions[0]}) == 2
    assert await db.texts() == ["attempt 2"]


async def test_an_async_function_may_use_a_sync_session(db: Database) -> None:
    async def work(session: Session) -> None:
        session.add(Note(text="kept"))

    async with jobs_of(db.sync_maker.begin) as jobs:
        await jobs.enqueue(work).result(LONG)
    assert await db.texts() == ["kept"]


async def test_the_wrong_kind_of_session_is_refused_and_the_right_one_named(db: Database) -> None:
    async def work(session: Session) -> None: ...

    def in_thread(session: Session) -> None: ...

    async def asynchronous(session: AsyncSession) -> None: ...

    async with jobs_of(db.maker) as jobs:
        for function in (work, in_thread):
            with pytest.raises(InvalidCall, match="AsyncSession, not Session"):
                jobs.enqueue(function)
    async with jobs_of(db.sync_maker) as jobs:
        with pytest.raises(InvalidCall, match="Session, not AsyncSession"):
            jobs.enqueue(asynchronous)


@pytest.mark.parametrize("form", [form_begin, form_get_session_that_commits, form_manager_that_commits])
async def test_a_body_that_swallows_its_timeout_has_failed_and_commits_nothing(db: Database, form: Form) -> None:
    flushed = asyncio.Event()

    async def work(session: AsyncSession) -> str:
        session.add(Note(text="lost"))
        await session.flush()
        flushed.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "as if nothing had been"

    clock = FakeClock()
    async with jobs_of(form(db), clock=clock) as jobs:
        job = jobs.enqueue(work, timeout=timedelta(minutes=1))
        await flushed.wait()
        await clock.advance(timedelta(minutes=1))
        await job.wait(LONG)
    assert job.state is JobState.FAILED
    assert await db.texts() == []


async def test_a_body_that_swallows_its_cancel_has_succeeded_and_commits(db: Database) -> None:
    flushed = asyncio.Event()

    async def work(session: AsyncSession) -> str:
        session.add(Note(text="kept"))
        await session.flush()
        flushed.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "finished anyway"

    async with jobs_of(db.maker.begin) as jobs:
        job = jobs.enqueue(work)
        await flushed.wait()
        await (await job.cancel()).wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert await db.texts() == ["kept"]


@pytest.mark.parametrize("end", ["cancel", "timeout", "shutdown"])
@pytest.mark.parametrize("form", [form_sync_begin, form_sync_generator_that_commits])
async def test_a_thread_job_that_heeds_its_end_and_returns_commits_nothing(db: Database, form: Form, end: str) -> None:
    flushed, stop = threading.Event(), threading.Event()

    def work(session: Session) -> None:
        session.add(Note(text="lost"))
        session.flush()
        flushed.set()
        assert stop.wait(5)
        while not current_job().cancelled:
            pass

    clock = FakeClock() if end == "timeout" else None
    async with jobs_of(form(db), clock=clock, shutdown_timeout=timedelta(seconds=0.5)) as jobs:
        job = jobs.enqueue(work, timeout=timedelta(minutes=1))
        assert await asyncio.to_thread(flushed.wait, 5)
        if end == "cancel":
            await job.cancel()
        elif clock is not None:
            await clock.advance(timedelta(minutes=1))
        stop.set()
        if end != "shutdown":
            await job.wait(LONG)
    assert job.state is (JobState.FAILED if end == "timeout" else JobState.CANCELLED)
    assert job.uncommitted is False
    assert await db.texts() == []


# Still other factories


async def test_factories_of_other_shapes(db: Database) -> None:
    class Holder:
        async def get_session(self) -> AsyncIterator[AsyncSession]:
            async with db.maker() as session:
                yield session

        def __call__(self) -> AsyncSession:
            return db.maker()

    async def get_session(maker: Any) -> AsyncIterator[AsyncSession]:
        async with maker() as session:
            yield session

    class Own(AsyncSession):
        def __init__(self) -> None:
            super().__init__(db.asynchronous)

    async def work(session: AsyncSession) -> str:
        await session.execute(select(Note))
        return type(session).__name__

    factories = [
        (Holder().get_session, "AsyncSession"),
        (Holder(), "AsyncSession"),
        (partial(get_session, db.maker), "AsyncSession"),
        (Own, "Own"),
        (async_scoped_session(db.maker, scopefunc=asyncio.current_task), "AsyncSession"),
    ]
    for factory, expected in factories:
        async with jobs_of(factory) as jobs:
            assert await jobs.enqueue(work).result(LONG) == expected
        assert db.checked_out == 0


async def test_the_class_that_a_factory_says_it_yields_is_provided_too(db: Database) -> None:
    class Own(AsyncSession):
        pass

    async def get_session() -> AsyncIterator[Own]:
        async with Own(db.asynchronous) as session:
            yield session

    async def work(session: Own, same: AsyncSession) -> bool:
        return session is same

    async with jobs_of(get_session) as jobs:
        assert await jobs.enqueue(work).result(LONG) is True


async def test_a_sync_factory_without_an_annotation_is_told_from_its_kind(db: Database) -> None:
    def generator():  # type: ignore[no-untyped-def]
        with db.sync_maker() as session:
            yield session

    class Own(Session):
        def __init__(self) -> None:
            super().__init__(db.sync)

    def work(session: Session) -> str:
        session.execute(select(Note))
        return type(session).__name__

    for factory, expected in ((generator, "Session"), (Own, "Own")):
        async with jobs_of(factory) as jobs:
            assert await jobs.enqueue(work).result(LONG) == expected


# Opening


async def test_a_session_is_opened_only_if_it_is_asked_for(db: Database) -> None:
    opened = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        opened.append(1)
        async with db.maker() as session:
            yield session

    class Service:
        pass

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Service)

    async def plain() -> None: ...

    async def with_service(service: Service) -> None: ...

    def in_thread(service: Service) -> None: ...

    async with jobs_of(get_session, providers=[provider]) as jobs:
        for function in (plain, with_service, in_thread):
            await jobs.enqueue(function).result(LONG)
    assert opened == []


async def test_an_error_in_opening_fails_the_job_and_counts_for_retries(db: Database) -> None:
    opened: list[int] = []
    ran = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        opened.append(1)
        if len(opened) < 3:
            raise ConnectionRefusedError("the database is away")
        async with db.maker() as session:
            yield session

    async def work(session: AsyncSession) -> None:
        ran.append(1)

    async with jobs_of(get_session) as jobs:
        failed = await jobs.enqueue(work, queue="q").wait(LONG)
        assert failed.error is not None
        assert (failed.error.type, failed.error.message) == ("ConnectionRefusedError", "the database is away")
        assert ran == []
        again = await jobs.enqueue(work, queue="q", retries=AT_ONCE).wait(LONG)
        assert (again.state, again.attempt) == (JobState.SUCCEEDED, 2)
    assert ran == [1]


async def test_an_error_of_a_service_in_opening_closes_the_session(db: Database) -> None:
    events: list[str] = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            await session.execute(select(Note))
            try:
                yield session
            except BaseException as error:
                events.append(type(error).__name__)
                raise

    class Service:
        def __init__(self, session: AsyncSession) -> None:
            raise LookupError("no such tenant")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Service)

    async def work(service: Service) -> None: ...

    async with jobs_of(get_session, providers=[provider]) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert job.error.type == "LookupError"
        assert db.checked_out == 0
    assert events == ["LookupError"]


async def test_a_cancel_while_the_scope_opens_ends_the_job_before_its_body(db: Database) -> None:
    opening, ran = asyncio.Event(), []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            await session.execute(select(Note))
            opening.set()
            await asyncio.Event().wait()
            yield session

    async def work(session: AsyncSession) -> None:
        ran.append(1)

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work, retries=3)
        await opening.wait()
        await (await job.cancel("enough")).wait(LONG)
        assert (job.state, job.attempt, job.cancel_reason) == (JobState.CANCELLED, 1, "enough")
        assert db.checked_out == 0
    assert ran == []


async def test_a_cancel_that_the_factory_swallows_while_opening_still_ends_the_job(db: Database) -> None:
    opening, ran, ends = asyncio.Event(), [], []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            opening.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            try:
                yield session
            except BaseException as error:
                ends.append(type(error))
                raise

    async def work(session: AsyncSession) -> None:
        ran.append(1)

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work)
        await opening.wait()
        await (await job.cancel()).wait(LONG)
        assert job.state is JobState.CANCELLED
    assert (ran, ends) == ([], [asyncio.CancelledError])


async def test_a_cancel_while_a_thread_opens_the_session_closes_it_there(db: Database) -> None:
    opening, go = threading.Event(), threading.Event()
    events: list[Any] = []

    class Opening:
        def __enter__(self) -> Session:
            self.session = db.sync_maker()
            self.session.execute(select(Note))
            opening.set()
            assert go.wait(5)
            return self.session

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
            self.session.close()
            events.append((kind, threading.current_thread().name[:9]))

    def get_session() -> Session:
        return Opening()  # type: ignore[return-value]

    def work(session: Session) -> None:
        events.append("ran")

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work)
        assert await asyncio.to_thread(opening.wait, 5)
        await job.cancel()
        await settle()
        assert (job.state, job.cancelling) == (JobState.RUNNING, True)  # honest: its code has not ended
        go.set()
        await job.wait(LONG)
        assert job.state is JobState.CANCELLED
        assert events == [(asyncio.CancelledError, "asgi_jobs")]
        assert db.checked_out == 0


async def test_a_timeout_counts_from_the_first_line_of_the_body(db: Database) -> None:
    opening, open_now, in_body = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            opening.set()
            await open_now.wait()
            yield session

    async def work(session: AsyncSession) -> None:
        in_body.set()
        await asyncio.Event().wait()

    clock = FakeClock()
    async with jobs_of(get_session, clock=clock) as jobs:
        job = jobs.enqueue(work, timeout=timedelta(minutes=1))
        await opening.wait()
        await clock.advance(timedelta(hours=1))
        assert job.state is JobState.RUNNING
        open_now.set()
        await in_body.wait()
        await clock.advance(timedelta(seconds=59))
        assert job.state is JobState.RUNNING
        await clock.advance(timedelta(seconds=1))
        await job.wait(LONG)
        assert job.error is not None
        assert job.error.type == "TimeoutError"


@pytest.mark.parametrize("given", ["a text", 5, object(), [], int])
def test_what_is_no_factory_is_refused(given: Any) -> None:
    with pytest.raises(InvalidOptionType, match="session_factory"):
        jobs_of(given)


def test_a_factory_that_says_it_yields_something_else_is_refused() -> None:
    async def get_numbers() -> AsyncIterator[int]:
        yield 1

    async def coroutine() -> AsyncSession:
        raise NotImplementedError

    with pytest.raises(InvalidOptionType, match=r"session_factory yields int.*AsyncSession"):
        jobs_of(get_numbers)
    with pytest.raises(InvalidOptionType, match="coroutine function"):
        jobs_of(coroutine)


async def test_a_factory_that_yields_something_else_fails_the_job_and_is_closed() -> None:
    closed = []

    async def get_numbers():  # type: ignore[no-untyped-def]
        try:
            yield 1
        finally:
            closed.append(1)

    async def work(session: AsyncSession) -> None: ...

    async with jobs_of(get_numbers) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert "session_factory yielded 1" in job.error.message
    assert closed == [1]


async def test_a_factory_that_gives_no_context_manager_fails_the_job() -> None:
    async def work(session: AsyncSession) -> None: ...

    async with jobs_of(lambda: 5) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert "session_factory gave 5" in job.error.message
        again = await jobs.enqueue(work).wait(LONG)
        assert again.state is JobState.FAILED


# Closing


async def test_an_error_in_closing_after_success_fails_the_job_and_counts_for_retries(db: Database) -> None:
    closings: list[int] = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
        closings.append(1)
        if len(closings) < 3:
            raise ConnectionResetError("while closing")

    async def work(session: AsyncSession) -> int:
        return 1

    async with jobs_of(get_session) as jobs:
        failed = await jobs.enqueue(work, queue="q").wait(LONG)
        assert failed.error is not None
        assert (failed.state, failed.error.type) == (JobState.FAILED, "ConnectionResetError")
        again = await jobs.enqueue(work, queue="q", retries=AT_ONCE).wait(LONG)
        assert (again.state, again.attempt) == (JobState.SUCCEEDED, 2)


async def test_a_commit_that_fails_in_closing_fails_the_job(db: Database) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(Note(id=1, text="second"))

    async with db.maker.begin() as session:
        session.add(Note(id=1, text="first"))
    async with jobs_of(db.maker.begin) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert job.error.type == "sqlalchemy.exc.IntegrityError"
    assert await db.texts() == ["first"]


async def test_an_error_in_closing_after_a_failure_leaves_the_bodys_error(db: Database) -> None:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            try:
                yield session
            finally:
                raise ConnectionResetError("while closing")

    async def work(session: AsyncSession) -> None:
        raise ValueError("the body's")

    async with jobs_of(get_session) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert (job.error.type, job.error.message) == ("ValueError", "the body's")


async def test_an_error_in_closing_after_a_cancel_leaves_it_cancelled(db: Database) -> None:
    started = asyncio.Event()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            try:
                yield session
            finally:
                raise ConnectionResetError("while closing")

    async def work(session: AsyncSession) -> None:
        started.set()
        await asyncio.Event().wait()

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work)
        await started.wait()
        await (await job.cancel()).wait(LONG)
        assert job.state is JobState.CANCELLED


async def test_a_factory_that_swallows_the_error_does_not_make_the_job_succeed(db: Database) -> None:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            with suppress(ValueError):
                yield session

    async def work(session: AsyncSession) -> None:
        raise ValueError("no")

    async with jobs_of(get_session) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.state is JobState.FAILED


async def test_a_cancel_while_the_scope_closes_changes_nothing(db: Database) -> None:
    closing, go = asyncio.Event(), asyncio.Event()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
            closing.set()
            await go.wait()
            await session.commit()

    async def work(session: AsyncSession) -> int:
        session.add(Note(text="kept"))
        return 7

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work)
        await closing.wait()
        await job.cancel()
        await settle()
        go.set()
        assert await job.result(LONG) == 7
    assert job.state is JobState.SUCCEEDED
    assert await db.texts() == ["kept"]


async def test_a_cancel_while_the_scope_of_a_failed_job_closes_leaves_it_failed(db: Database) -> None:
    closing, go = asyncio.Event(), asyncio.Event()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            try:
                yield session
            finally:
                closing.set()
                await go.wait()

    async def work(session: AsyncSession, error: type[BaseException]) -> None:
        raise error("the body's")

    async with jobs_of(get_session) as jobs:
        for error in (ValueError, asyncio.CancelledError):
            closing.clear()
            go.clear()
            job = jobs.enqueue(work, error, retries=AT_ONCE)
            await closing.wait()
            await job.cancel()
            go.set()
            await job.wait(LONG)
            assert (job.state, job.attempt) == (JobState.FAILED, 1)


async def test_no_pending_cancel_reaches_the_closing(db: Database) -> None:
    """Nor code in it that asks whether its task is being cancelled, as TaskGroup and timeout do."""
    started, cancelling = asyncio.Event(), []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            try:
                yield session
            finally:
                task = asyncio.current_task()
                assert task is not None
                cancelling.append(task.cancelling())
                async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(0))
                await session.rollback()

    async def work(session: AsyncSession) -> None:
        started.set()
        await asyncio.Event().wait()

    async with jobs_of(get_session) as jobs:
        job = jobs.enqueue(work)
        await started.wait()
        await (await job.cancel()).wait(LONG)
        assert job.state is JobState.CANCELLED
    assert cancelling == [0]


async def test_a_cancel_while_opening_does_not_reach_the_closing_of_what_is_open(db: Database) -> None:
    opening, cancelling = asyncio.Event(), []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            await session.execute(select(Note))
            try:
                yield session
            finally:
                task = asyncio.current_task()
                assert task is not None
                cancelling.append(task.cancelling())

    class Slow:
        pass

    async def slow(session: AsyncSession) -> Slow:
        opening.set()
        await asyncio.Event().wait()
        return Slow()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(slow, provides=Slow)

    async def work(slow: Slow) -> None: ...

    async with jobs_of(get_session, providers=[provider]) as jobs:
        job = jobs.enqueue(work)
        await opening.wait()
        await (await job.cancel()).wait(LONG)
        assert job.state is JobState.CANCELLED
        assert db.checked_out == 0
    assert cancelling == [0]


async def test_a_scope_that_hangs_in_closing_is_given_up_at_the_shutdown(db: Database) -> None:
    closing = asyncio.Event()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
            closing.set()
            await asyncio.Event().wait()

    async def work(session: AsyncSession) -> None: ...

    async with asyncio.timeout(8), jobs_of(get_session, shutdown_timeout=timedelta(seconds=0.5)) as jobs:
        job = jobs.enqueue(work)
        await closing.wait()
    assert job.state.finished
    assert db.checked_out == 0


async def test_the_next_job_of_a_queue_starts_when_the_scope_of_the_one_before_is_closed(db: Database) -> None:
    order: list[str] = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            order.append("open")
            yield session
            await settle()
            order.append("close")

    async def work(session: AsyncSession) -> None:
        order.append("work")

    async with jobs_of(get_session) as jobs:
        for _ in range(3):
            jobs.enqueue(work, queue="q")
        await jobs.join()
    assert order == ["open", "work", "close"] * 3


async def test_between_two_attempts_no_session_is_open(db: Database) -> None:
    async def work(session: AsyncSession) -> None:
        await session.execute(select(Note))
        raise ValueError("again later")

    clock = FakeClock()
    async with asyncio.timeout(9), jobs_of(db.maker, clock=clock, max_sessions=1) as jobs:
        job = jobs.enqueue(work, retries=Retry(2, base=timedelta(minutes=1), jitter=0))
        for attempt in (1, 2):
            while (job.attempt, job.state) != (attempt, JobState.SCHEDULED):
                await asyncio.sleep(0.001)
            assert db.checked_out == 0
            await clock.advance(timedelta(minutes=attempt))
        await job.wait(LONG)
        assert (job.state, job.attempt) == (JobState.FAILED, 3)


# Services


async def test_a_thread_job_and_its_service_share_the_session_of_its_thread(db: Database) -> None:
    class Repository:
        def __init__(self, session: Session) -> None:
            self.session = session

    threads: list[str] = []

    def get_session() -> Iterator[Session]:
        threads.append(threading.current_thread().name)
        with db.sync_maker.begin() as session:
            yield session

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Repository)

    def work(repository: Repository, session: Session) -> bool:
        threads.append(threading.current_thread().name)
        repository.session.add(Note(text="kept"))
        return repository.session is session

    async with jobs_of(get_session, providers=[provider]) as jobs:
        assert await jobs.enqueue(work).result(LONG) is True
    assert len(set(threads)) == 1
    assert threads[0].startswith("asgi_jobs")
    assert await db.texts() == ["kept"]


async def test_services_are_closed_before_the_session(db: Database) -> None:
    order: list[str] = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with db.maker() as session:
            yield session
        order.append("session")

    class Service:
        pass

    async def service(session: AsyncSession) -> AsyncIterator[Service]:
        yield Service()
        await session.execute(select(Note))  # still open
        order.append("service")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(service)

    async def work(service: Service) -> None:
        order.append("work")

    async with jobs_of(get_session, providers=[provider]) as jobs:
        await jobs.enqueue(work).result(LONG)
    assert order == ["work", "service", "session"]


async def test_an_error_of_a_services_finalizer_comes_unwrapped_and_nothing_is_committed(db: Database) -> None:
    class Service:
        pass

    async def service(session: AsyncSession) -> AsyncIterator[Service]:
        yield Service()
        raise LookupError("in the finalizer")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(service)

    async def work(service: Service, session: AsyncSession, text: str) -> None:
        session.add(Note(text=text))
        await session.flush()

    async with jobs_of(db.maker.begin, providers=[provider]) as jobs:
        job = await jobs.enqueue(work, "lost", retries=AT_ONCE).wait(LONG)
        assert job.error is not None
        assert (job.error.type, job.error.message) == ("LookupError", "in the finalizer")
        assert job.attempt == 2
    assert await db.texts() == []


async def test_a_services_finalizer_is_told_of_the_error_and_cannot_hide_it(db: Database) -> None:
    told: list[Any] = []

    class Service:
        pass

    async def service() -> AsyncIterator[Service]:
        told.append((yield Service()))

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(service)

    async def work(service: Service) -> None:
        raise ValueError("no")

    async with Jobs(providers=[provider], authorize="local") as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.state is JobState.FAILED
    assert [type(error) for error in told] == [ValueError]


async def test_several_errors_in_closing_fail_the_job_with_all_of_them(db: Database) -> None:
    class One:
        pass

    class Two:
        pass

    async def one() -> AsyncIterator[One]:
        yield One()
        raise LookupError("first")

    async def two() -> AsyncIterator[Two]:
        yield Two()
        raise KeyError("second")

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(one)
    provider.provide(two)

    async def work(one: One, two: Two) -> None: ...

    async with Jobs(providers=[provider], authorize="local") as jobs:
        job = await jobs.enqueue(work).wait(LONG)
        assert job.error is not None
        assert "LookupError: first" in job.error.traceback
        assert "KeyError: 'second'" in job.error.traceback


async def test_the_providers_container_is_made_at_each_start_and_closed_at_each_stop() -> None:
    events: list[str] = []

    class Client:
        pass

    async def client() -> AsyncIterator[Client]:
        events.append("open")
        yield Client()
        events.append("close")

    provider = Provider(scope=Scope.APP)
    provider.provide(client)

    async def work(client: Client) -> None: ...

    jobs = Jobs(providers=[provider], authorize="local")
    for _ in range(3):
        async with jobs:
            await jobs.enqueue(work).result(LONG)
            await jobs.enqueue(work).result(LONG)
            assert events[-1] == "open"
    assert events == ["open", "close"] * 3


# Uncommitted work


async def leave_pending(session: AsyncSession) -> None:
    session.add(Note(text="left"))


async def leave_flushed(session: AsyncSession) -> None:
    session.add(Note(text="left"))
    await session.flush()


async def leave_dirty(session: AsyncSession) -> None:
    note = (await session.execute(select(Note))).scalar_one()
    note.text = "changed"


async def leave_deleted(session: AsyncSession) -> None:
    await session.delete((await session.execute(select(Note))).scalar_one())


async def leave_core_insert(session: AsyncSession) -> None:
    await session.execute(insert(Note.__table__).values(text="left"))  # type: ignore[arg-type]


async def leave_orm_update(session: AsyncSession) -> None:
    await session.execute(update(Note).values(text="changed"))


async def leave_text_insert(session: AsyncSession) -> None:
    await session.execute(text("  insert into notes (text) values ('left')"))


async def leave_released_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        session.add(Note(text="left"))


async def leave_open_savepoint(session: AsyncSession) -> None:
    await session.begin_nested()
    session.add(Note(text="left"))
    await session.flush()


async def leave_before_a_rolled_back_savepoint(session: AsyncSession) -> None:
    session.add(Note(text="left"))
    await session.flush()
    savepoint = await session.begin_nested()
    session.add(Note(text="gone"))
    await session.flush()
    await savepoint.rollback()


async def leave_after_a_commit(session: AsyncSession) -> None:
    session.add(Note(text="kept"))
    await session.commit()
    session.add(Note(text="left"))


async def leave_after_a_rollback(session: AsyncSession) -> None:
    session.add(Note(text="gone"))
    await session.flush()
    await session.rollback()
    session.add(Note(text="left"))


LEAVES = [value for name, value in list(globals().items()) if name.startswith("leave_")]


async def clean_nothing(session: AsyncSession) -> None:
    pass


async def clean_reads(session: AsyncSession) -> None:
    (await session.execute(select(Note))).scalar_one()
    await session.execute(text("select * from notes"))


async def clean_committed(session: AsyncSession) -> None:
    session.add(Note(text="kept"))
    await session.commit()
    await session.execute(select(Note))


async def clean_rolled_back(session: AsyncSession) -> None:
    session.add(Note(text="gone"))
    await session.flush()
    await session.rollback()


async def clean_rolled_back_core(session: AsyncSession) -> None:
    await session.execute(insert(Note).values(text="gone"))
    await session.rollback()


async def clean_begin_block(session: AsyncSession) -> None:
    async with session.begin():
        session.add(Note(text="kept"))


async def clean_rolled_back_savepoint(session: AsyncSession) -> None:
    savepoint = await session.begin_nested()
    session.add(Note(text="gone"))
    await session.flush()
    await savepoint.rollback()


async def clean_set_to_the_same(session: AsyncSession) -> None:
    note = (await session.execute(select(Note))).scalar_one()
    note.text = "there"


async def clean_expunged(session: AsyncSession) -> None:
    note = Note(text="gone")
    session.add(note)
    session.expunge(note)


CLEAN = [value for name, value in list(globals().items()) if name.startswith("clean_")]


@pytest.fixture
async def one_note(db: Database) -> None:
    async with db.maker.begin() as session:
        session.add(Note(text="there"))


@pytest.mark.usefixtures("one_note")
@pytest.mark.parametrize("work", LEAVES)
async def test_uncommitted_work_is_flagged_logged_and_rolled_back(
    db: Database, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with jobs_of(db.maker) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert job.uncommitted is True
    assert [record.levelname for record in caplog.records if "nobody committed" in record.message] == ["WARNING"]
    assert set(await db.texts()) <= {"there", "kept"}


@pytest.mark.usefixtures("one_note")
@pytest.mark.parametrize("work", CLEAN)
async def test_what_leaves_nothing_is_not_flagged(db: Database, work: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with jobs_of(db.maker) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert job.uncommitted is False
    assert "nobody committed" not in caplog.text


@pytest.mark.usefixtures("one_note")
@pytest.mark.parametrize(
    "work", [leave_pending, leave_flushed, leave_dirty, leave_core_insert, leave_released_savepoint]
)
@pytest.mark.parametrize("form", [form_begin, form_get_session_that_commits])
async def test_what_the_factory_commits_is_not_flagged(db: Database, work: Any, form: Form) -> None:
    before = await db.texts()
    async with jobs_of(form(db)) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.SUCCEEDED
    assert job.uncommitted is False
    assert await db.texts() != before


async def test_a_failed_job_is_not_flagged(db: Database) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(Note(text="lost"))
        raise ValueError("no")

    async with jobs_of(db.maker) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert (job.state, job.uncommitted) == (JobState.FAILED, False)


async def test_only_the_last_attempts_uncommitted_work_counts(db: Database) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(Note(text="left"))
        if current_job().job.attempt == 1:
            raise ValueError("once")
        await session.commit()

    async with jobs_of(db.maker) as jobs:
        job = await jobs.enqueue(work, retries=AT_ONCE).wait(LONG)
    assert (job.state, job.uncommitted) == (JobState.SUCCEEDED, False)


async def test_uncommitted_work_of_a_thread_job_is_flagged(db: Database) -> None:
    def work(session: Session) -> None:
        session.add(Note(text="left"))

    async with jobs_of(db.sync_maker) as jobs:
        job = await jobs.enqueue(work).wait(LONG)
    assert (job.state, job.uncommitted) == (JobState.SUCCEEDED, True)
    assert await db.texts() == []


async def test_uncommitted_work_of_a_service_is_flagged(db: Database) -> None:
    class Repository:
        def __init__(self, session: AsyncSession) -> None:
            self.session = session

        async def add(self, text: str) -> None:
            self.session.add(Note(text=text))

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Repository)
    async with jobs_of(db.maker, providers=[provider]) as jobs:
        job = await jobs.enqueue(Repository.add, "left").wait(LONG)
    assert job.uncommitted is True


# At most so many sessions


async def test_only_so_many_sessions_are_open_at_once_and_the_rest_wait_in_order(db: Database) -> None:
    started: list[int] = []
    go = [asyncio.Event() for _ in range(6)]

    async def work(session: AsyncSession, number: int) -> None:
        started.append(number)
        await go[number].wait()

    async with jobs_of(db.maker, max_sessions=2) as jobs:
        all_of_them = [jobs.enqueue(work, number) for number in range(6)]
        await settle()
        assert started == [0, 1]
        assert [job.state for job in all_of_them] == [JobState.RUNNING] * 6
        assert [job.waiting_for_session for job in all_of_them] == [False] * 2 + [True] * 4
        for number in range(6):
            go[number].set()
            await all_of_them[number].wait(LONG)
            await settle()
            assert started == list(range(min(number + 3, 6)))
            assert not any(job.waiting_for_session for job in all_of_them[: number + 3])


async def test_a_job_without_a_session_does_not_wait_for_one(db: Database) -> None:
    go, first = asyncio.Event(), asyncio.Event()

    async def hold(session: AsyncSession) -> None:
        first.set()
        await go.wait()

    async def free() -> int:
        return 1

    async with jobs_of(db.maker, max_sessions=1) as jobs:
        jobs.enqueue(hold)
        waiting = jobs.enqueue(hold)
        await first.wait()
        assert await jobs.enqueue(free).result(LONG) == 1
        assert waiting.state is JobState.RUNNING
        go.set()
        await waiting.wait(LONG)


async def test_the_timeout_of_a_job_that_waits_for_a_session_has_not_begun(db: Database) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def hold(session: AsyncSession) -> None:
        await go.wait()

    async def work(session: AsyncSession) -> None:
        started.set()
        await asyncio.Event().wait()

    clock = FakeClock()
    async with jobs_of(db.maker, max_sessions=1, clock=clock) as jobs:
        jobs.enqueue(hold)
        job = jobs.enqueue(work, timeout=timedelta(minutes=1))
        await clock.advance(timedelta(hours=1))
        assert job.state is JobState.RUNNING
        go.set()
        await started.wait()
        await clock.advance(timedelta(minutes=1))
        await job.wait(LONG)
        assert job.error is not None
        assert job.error.type == "TimeoutError"


async def test_a_cancel_while_it_waits_for_a_session_leaves_the_places_right(db: Database) -> None:
    go, started = asyncio.Event(), []

    async def work(session: AsyncSession, number: int) -> None:
        started.append(number)
        await go.wait()

    async with jobs_of(db.maker, max_sessions=1) as jobs:
        first, second, third = (jobs.enqueue(work, number) for number in range(3))
        await settle()
        await (await second.cancel()).wait(LONG)
        assert (second.state, first.state) == (JobState.CANCELLED, JobState.RUNNING)
        assert started == [0]
        go.set()
        await third.wait(LONG)
        assert started == [0, 2]


async def test_a_job_that_waits_for_another_lends_its_session_place(db: Database) -> None:
    async def inner(session: AsyncSession) -> int:
        return 7

    async def outer(session: AsyncSession) -> int:
        return int(await jobs.enqueue(inner).result(LONG))

    async with jobs_of(db.maker, max_sessions=1, concurrency=1) as jobs:
        assert await jobs.enqueue(outer).result(LONG) == 7
        assert await jobs.enqueue(outer).result(LONG) == 7


async def test_places_are_given_back_when_opening_fails(db: Database) -> None:
    calls = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        calls.append(1)
        if len(calls) < 4:
            raise ConnectionError("away")
        async with db.maker() as session:
            yield session

    async def work(session: AsyncSession) -> None: ...

    async with jobs_of(get_session, max_sessions=1) as jobs:
        for _ in range(3):
            assert (await jobs.enqueue(work).wait(LONG)).state is JobState.FAILED
        assert (await jobs.enqueue(work).wait(LONG)).state is JobState.SUCCEEDED


async def test_many_jobs_leave_no_connection_checked_out(db: Database) -> None:
    async def work(session: AsyncSession, number: int) -> None:
        await session.execute(select(Note))
        if number % 3 == 0:
            raise ValueError("no")
        await asyncio.sleep(0)

    async with jobs_of(db.maker, max_sessions=3) as jobs:
        several = [jobs.enqueue(work, number, name=str(number)) for number in range(60)]
        await settle(5)
        for job in several[::4]:
            await job.cancel()
        await jobs.join()
        assert db.checked_out == 0
        assert all(job.state.finished for job in several)


async def test_a_limiter_serves_in_order_and_survives_cancels_at_every_moment() -> None:
    limiter = Limiter(1)
    await limiter.acquire()
    order: list[int] = []

    async def take(number: int) -> None:
        await limiter.acquire()
        order.append(number)
        limiter.release()

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    await settle()
    tasks[1].cancel()
    limiter.release()
    tasks[0].cancel()  # the place was just given to it
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [2, 3, 4]
    assert limiter.free == 1


async def test_a_lent_place_may_be_taken_back_although_nobody_returned_one() -> None:
    limiter = Limiter(1)
    await limiter.acquire()
    limiter.release()  # lent
    await limiter.acquire()  # by another
    limiter.take_back()
    assert limiter.free == -1
    limiter.release()
    limiter.release()
    await limiter.acquire()
    assert limiter.free == 0


# In-memory SQLite


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
async def test_an_async_session_factory_on_in_memory_sqlite_is_warned_of_at_start(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(url)
    for form in (async_sessionmaker(engine), async_sessionmaker(engine).begin):
        caplog.clear()
        async with jobs_of(form):
            assert "in-memory SQLite" in caplog.text
            assert "roll" in caplog.text
    await engine.dispose()


async def test_a_sync_session_factory_on_in_memory_sqlite_is_warned_of_at_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    async with jobs_of(sessionmaker(engine)):
        assert "in-memory SQLite" in caplog.text
    engine.dispose()


async def test_a_shared_in_memory_sqlite_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    url = "sqlite+aiosqlite:///file:shared?mode=memory&cache=shared&uri=true"
    engine = create_async_engine(url, poolclass=StaticPool)
    async with jobs_of(async_sessionmaker(engine)):
        assert "in-memory SQLite" in caplog.text
    await engine.dispose()


async def test_a_factory_function_on_in_memory_sqlite_is_warned_of_once_with_its_first_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    maker = async_sessionmaker(engine)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with maker() as session:
            yield session

    async def work(session: AsyncSession) -> None: ...

    async with jobs_of(get_session) as jobs:
        for _ in range(3):
            await jobs.enqueue(work).result(LONG)
    assert len([record for record in caplog.records if "in-memory SQLite" in record.message]) == 1
    await engine.dispose()


async def test_a_file_is_not_warned_of(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    async def work(session: AsyncSession) -> None: ...

    for form in (form_maker, form_get_session, form_sync_maker):
        async with jobs_of(form(db)) as jobs:
            if form is not form_sync_maker:
                await jobs.enqueue(work).result(LONG)
    assert "in-memory" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "SQLite" in record.message]


async def test_a_session_bound_to_nothing_is_no_reason_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def work(session: AsyncSession) -> int:
        return 1

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession() as session:
            yield session

    for form in (async_sessionmaker(), get_session):
        async with jobs_of(form) as jobs:
            assert await jobs.enqueue(work).result(LONG) == 1
    assert "in-memory" not in caplog.text
