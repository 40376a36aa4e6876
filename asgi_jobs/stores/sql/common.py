"""What every part of the store stands on: the clock, the records, and transactions that end whoever stops waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Connection, select

from asgi_jobs.clock import Clock
from asgi_jobs.errors import InvalidOption, StoreAway, StoreError
from asgi_jobs.job import Record
from asgi_jobs.stores.sql.address import address_of
from asgi_jobs.stores.sql.connections import in_time
from asgi_jobs.stores.sql.database import Database, meaning
from asgi_jobs.stores.sql.hour import Hour
from asgi_jobs.stores.sql.ids import Ids, is_id
from asgi_jobs.stores.sql.outage import Outage
from asgi_jobs.stores.sql.postgresql import Postgresql
from asgi_jobs.stores.sql.rows import Rows
from asgi_jobs.stores.sql.sqlite import Sqlite
from asgi_jobs.stores.sql.tables import jobs

if TYPE_CHECKING:
    from asgi_jobs.stores.base import Callbacks
    from asgi_jobs.stores.sql.leader import Leader
    from asgi_jobs.stores.sql.presence import Presence
    from asgi_jobs.task import Task

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], T]
PATIENCE = 15.0
"""Seconds that a transaction may take on PostgreSQL before its connection counts as dead."""
JUMP = 0.5
"""Seconds by which a clock may differ from what was expected before it counts as set."""


class Common:
    """The base of the store's parts. See `SqlStore` for the arguments."""

    durable = True
    trimmed = False

    def __init__(
        self,
        store: Any,
        *,
        tasks: Callable[[], Mapping[str, Task[Any, Any]]],
        limits: Mapping[str, int],
        max_queued: int,
        max_finished: int,
        concurrency: int,
        direct_url: str | None,
        create_tables: bool,
        clock: Clock,
    ) -> None:
        url, engine = address_of(store)
        sqlite = url.get_backend_name() == "sqlite"
        direct = address_of(direct_url, "direct_url")[0] if direct_url is not None else None
        self._database: Database = Sqlite(url) if sqlite else Postgresql(url, engine, direct)
        self._patience = (
            None if sqlite else PATIENCE
        )  # SQLite waits no longer than its timeout, and must not be cut off
        if sqlite and direct_url is not None:
            raise InvalidOption("direct_url leads past a pooler of PostgreSQL; leave it out with SQLite")
        self._tasks = tasks
        self._limits = limits
        self._max_queued = max_queued
        self._max_finished = max_finished
        self.concurrency = concurrency
        self._create_tables = create_tables
        self._clock = clock
        self._offset = clock.time() - clock.monotonic()
        self._wait_to_prune = (0.0, 0.0)  # until then, by so many seconds longer: the clock was set
        self._rows = Rows(tasks, lambda: self._offset)
        self._ids = Ids(self.time, clock.monotonic)
        self._outage = Outage(clock.monotonic)
        self._hour = Hour()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._callbacks: Callbacks
        self._presence: Presence | Leader
        self._is_open = False
        self.revision = 0
        self._waiting = 0  # jobs that wait in the whole fleet, as of the last count, and what was done here since

    # Time

    def time(self) -> float:
        """See `DurableStore.time`."""
        return self._clock.monotonic() + self._offset

    async def _follow_clock(self) -> None:
        """See what time the database has. Between two looks the monotonic clock goes on from there."""
        before, time = self._clock.monotonic(), None
        if type(self._clock) is Clock:
            async with in_time(self._patience, self._database.break_off):
                time = await self._database.clock()
        after = self._clock.monotonic()
        offset = time - (before + after) / 2 if time is not None else self._clock.time() - self._clock.monotonic()
        jump = offset - self._offset
        if jump > JUMP:  # what has ended seems older than it is: it is kept for so much longer
            self._wait_to_prune = (after, jump)
        self._offset = offset

    # Transactions

    async def _write(self, work: Work[T]) -> T:
        return await self._answered(lambda: self._database.write(work), writing=True)

    async def _write_at_once(self, work: Work[T]) -> T:
        return await self._answered(lambda: self._database.write_at_once(work), writing=True)

    async def _read(self, work: Work[T]) -> T:
        return await self._answered(lambda: self._database.read(work), writing=False)

    async def _answered(self, ask: Callable[[], Awaitable[T]], *, writing: bool = True) -> T:
        """A transaction in a task of its own: who waits for it may be cancelled, it may not."""
        if not self._is_open:
            raise StoreAway(
                f"the store at {self._database.url!r} is not open: the engine has not started, or has stopped"
            )
        return await asyncio.shield(self._spawn(self._ask(ask, writing)))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    async def _ask(self, ask: Callable[[], Awaitable[T]], writing: bool) -> T:
        try:
            async with in_time(self._patience, self._database.break_off):
                answer = await ask()
        except Exception as error:
            said = self._meaning(error)
            if said is None:
                raise
            self._outage.failed(said, writing=writing)
            if isinstance(said, StoreAway):
                await self._database.forget_connections()
            if said is error:
                raise
            raise said from error
        self._outage.worked(writing=writing)
        return answer

    def _meaning(self, error: BaseException) -> StoreError | None:
        return meaning(error, self._database.url)

    async def _settled(self) -> None:
        """Wait for what is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _record(self, row: Any) -> Record:
        return self._rows.record(row, self.time())

    async def get(self, id: str) -> Record | None:
        """See `Store.get`."""
        if not is_id(id):
            return None

        row = await self._read(partial(one_row, select(jobs).where(jobs.c.id == id)))
        return None if row is None else self._record(row)

    async def read(self, record: Record) -> bool:
        """See `DurableStore.read`."""
        return await self.get(record.id) is not None


def one_row(statement: Any, connection: Connection) -> Any:
    """The row that a statement finds, or None."""
    return connection.execute(statement).one_or_none()


def all_rows(statement: Any, connection: Connection) -> Sequence[Any]:
    """All rows that a statement finds."""
    return connection.execute(statement).all()


def scalar(statement: Any, connection: Connection) -> Any:
    """The one value that a statement finds."""
    return connection.scalar(statement)
