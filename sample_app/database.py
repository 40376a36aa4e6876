"""The database, a SQLite file or PostgreSQL: the engines, the session factories and the tables."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Engine,
    String,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sample_app.settings import settings

T = TypeVar("T")
URL = make_url(settings.database)
SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
LOCK = 28_298  # any number that nobody else uses


def now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python; in the database without a zone, which SQLite does not know."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: JSON}


class Person(Base):
    __tablename__ = "people"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(80))
    email: Mapped[str] = mapped_column(String(200), unique=True)
    joined_at: Mapped[datetime] = mapped_column(default=now)
    welcome_job: Mapped[str | None]


class Airport(Base):
    __tablename__ = "airports"
    __table_args__ = (UniqueConstraint("tenant", "icao"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    icao: Mapped[str]
    iata: Mapped[str]
    name: Mapped[str]
    city: Mapped[str]
    country: Mapped[str]
    elevation: Mapped[float]
    lat: Mapped[float]
    lon: Mapped[float]


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime] = mapped_column(default=now)
    figures: Mapped[dict[str, Any]]


class Heartbeat(Base):
    __tablename__ = "heartbeats"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    beats: Mapped[int]


def prepare(engine: Engine) -> None:
    """On SQLite: let SQLAlchemy open transactions itself, and let readers and one writer work at the same time."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # else the driver decides when a transaction begins
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


engine = create_async_engine(URL, pool_pre_ping=True)
sessions = async_sessionmaker(engine, expire_on_commit=False)
prepare(engine.sync_engine)

# A job in a thread cannot use an AsyncSession; it opens an ordinary one.
thread_engine = create_engine(URL.set(drivername=SYNC_DRIVERS[URL.get_backend_name()]), pool_pre_ping=True)
thread_sessions = sessionmaker(thread_engine)
prepare(thread_engine)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, also when the job is asked to stop meanwhile.

    For a short transaction: cut off inside a statement, its connection would be given up. With SQLite it has the
    write lock, and everybody else would meet a locked database until the garbage collector has found it.
    """
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise


async def create_tables() -> None:
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # where another process may be about to do the same
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await connection.run_sync(Base.metadata.create_all)


async def close() -> None:
    thread_engine.dispose()
    await engine.dispose()
