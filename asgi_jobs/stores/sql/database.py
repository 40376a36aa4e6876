"""What the two databases do differently: connections, transactions, and the statements that are each one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from asgi_jobs.errors import StoreAway, StoreError, StoreLocked, StoreUnusable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a process can take now.

    Attributes:
        n: how many jobs.
        tasks: of which tasks.
        hints: queues in which something may have become ready.
        limits: the queues that run more than one job at once.
        cursor: the queue after which the round over all queues goes on.
        depth: how many queues of the round are looked at; 0: the hints only.
        suspects: how many jobs whose process has died twice: they run beside no other such one.
    """

    n: int
    tasks: Sequence[str]
    hints: Sequence[str]
    limits: Mapping[str, int]
    cursor: str
    depth: int
    suspects: int


@dataclass(slots=True)
class Found:
    """What a claim has found.

    Attributes:
        rows: the jobs, now running here.
        cursor: the queue after which the round goes on; empty: it begins at the first.
        ends: how often the round has come to the last queue.
        skipped: jobs that another process was just taking.
    """

    rows: list[Any] = field(default_factory=list)
    cursor: str = ""
    ends: int = 0
    skipped: int = 0


class Told(NamedTuple):
    """An outcome that was taken in, now or before."""

    id: str
    claim: int
    state: int
    watched: bool


class Asked(NamedTuple):
    """An exchange, as the database is asked for it.

    Attributes:
        me: the worker's id.
        time: the database's time, asked for when the transaction has begun: nothing starts before what it waited for.
        outcomes: how attempts ended.
        want: what can be taken; None: nothing.
        known: after an exchange that failed and may have been committed: all that we know to run here.
    """

    me: int
    time: Callable[[], float]
    outcomes: Sequence[dict[str, Any]]
    want: Want | None
    known: set[str] | None


class Exchanged(NamedTuple):
    """What an exchange has brought; `adopted`: jobs that a failed one had claimed for us all the same."""

    now: float
    told: dict[tuple[str, int], Told]  # by id and claim: one process may have two outcomes of a job that was released
    found: Found
    adopted: Sequence[Any]


class ReadRow(SimpleNamespace):
    """A row of jobs that came as JSON."""

    @property
    def _fields(self) -> Collection[str]:
        return self.__dict__.keys()


class Database(Protocol):
    """One of the two databases.

    A transaction is a plain function of a connection; methods that take one are steps of it.
    """

    url: URL

    async def open(self, *, create_tables: bool) -> None:
        """Connect, and see that the tables can be used.

        Raises:
            StoreError: they cannot.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Carry out a transaction."""
        ...

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """The same where each statement may be a transaction of its own, which saves two round trips."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """The same for one that only reads; it never waits for a writer."""
        ...

    def break_off(self, task: asyncio.Task[Any]) -> None:
        """End the connections that a task uses."""
        ...

    async def forget_connections(self) -> None:
        """The database was away: connections that are open may be dead without having been closed."""
        ...

    async def clock(self) -> float | None:
        """The time by the database's clock; None where that is this machine's."""
        ...

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
        """Insert jobs in this order; gives the ids of those that were not there before, by id or unique key."""
        ...

    def insert_in(self, session: Any, rows: Sequence[dict[str, Any]]) -> None:
        """The same in the transaction of a sync Session."""
        ...

    async def exchange(self, asked: Asked) -> Exchanged:
        """Take in outcomes of jobs that are still ours, then hand out jobs; one transaction."""
        ...

    def promote(self, connection: Connection, now: float, limit: int) -> list[str | None]:
        """Give delayed jobs that are due a place at the end; their queues."""
        ...

    def shut_gate(self, connection: Connection) -> None:
        """Wait for claims under way, and let none begin before this transaction has ended."""
        ...

    def next_worker(self, connection: Connection) -> int:
        """An id for a process: new at every start."""
        ...

    def next_claim(self, connection: Connection) -> int:
        """A number that is greater than that of every claim before."""
        ...

    def insert_tick(self, connection: Connection, row: dict[str, Any]) -> None:
        """A row of the schedules, unless it is there."""
        ...

    def seize(self, connection: Connection, worker: int) -> bool:
        """Hold the lock of a process until this transaction ends; False: it lives."""
        ...

    def wake(self, connection: Connection, queues: Sequence[str | None]) -> None:
        """Tell the other processes that jobs of these queues may be ready."""
        ...

    def tell(self, connection: Connection, message: Mapping[str, Any]) -> None:
        """Tell the other processes something, with this transaction's commit."""
        ...


def as_json(rows: Any) -> str:
    """A parameter that carries many rows at once."""
    return json.dumps(rows, separators=(",", ":"))


def place(row: Any) -> int:
    """What jobs that were claimed together start in the order of."""
    return int(row.seq)


# What an error of the driver means

_AWAY_CLASSES = ("08", "57P", "53300")
"""SQLSTATEs of PostgreSQL: connection exceptions, shutdowns and starts, too many connections."""
_BUSY = {5, 6}
"""SQLite's result codes for a database that another holds, and for one that cannot be used: permission, read-only,
I/O error, corrupt, full, cannot be opened, no database."""
_UNUSABLE = {3, 8, 10, 11, 13, 14, 26}


def meaning(error: BaseException, url: URL) -> StoreError | None:
    """What an error means for who uses the store; None: it is none of the database's being away or unusable."""
    where = url.render_as_string(hide_password=True)
    if isinstance(error, StoreError):
        return error
    if isinstance(error, DBAPIError):
        return _meaning_of_driver(error, where)
    if isinstance(error, (OSError, asyncio.TimeoutError, PoolTimeout, EOFError)):
        return StoreAway(f"the store at {where} does not answer: {type(error).__name__}: {error}")
    return None


def _meaning_of_driver(error: DBAPIError, where: str) -> StoreError | None:
    said = str(error.orig).strip().partition("\n")[0]
    state = getattr(error.orig, "sqlstate", None) or ""
    if where.startswith("sqlite"):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            return StoreLocked(
                f"another transaction has held the database at {where} for too long. If it is this request's own "
                f"session, enqueue with on_commit=session: the job is then part of its transaction"
            )
        if code in _UNUSABLE or said.startswith("no such table"):
            return StoreUnusable(f"the store at {where} cannot be used: {said}")
        return None
    if error.connection_invalidated or isinstance(error, InterfaceError) or state.startswith(_AWAY_CLASSES):
        return StoreAway(f"the store at {where} does not answer: {said}")
    if state.startswith(("28", "3D", "42P01", "42501", "53100", "25006")):
        return StoreUnusable(f"the store at {where} cannot be used: {said}")
    return None
