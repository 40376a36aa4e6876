"""Who is alive, by the database's word and not by a clock.

On PostgreSQL each process holds a session lock on a connection of its own; the server lets go of it 3 ms after a
`kill -9`, and keeps it for a process whose loop is blocked for a minute. What a lock cannot tell is a network that
is cut: so the owner gives up its jobs when it has had no answer for `GRACE`, and others take them over when they have
seen the lock free for twice as long.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from sqlalchemy import Connection, delete, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from asgi_jobs.errors import StoreError, StoreUnusable
from asgi_jobs.stores.sql.database import meaning
from asgi_jobs.stores.sql.tables import workers

if TYPE_CHECKING:
    from asgi_jobs.stores.sql.postgresql import Postgresql

GRACE = 10.0
"""Seconds without an answer after which a process stops what it runs. Others wait twice as long."""
BEAT = 2.0
"""Seconds between two questions to the server."""
ANSWER = 5.0
"""Seconds that an answer may take before the connection counts as dead."""
KEEPALIVES = (
    "SET tcp_keepalives_idle = 5", "SET tcp_keepalives_interval = 2", "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 10000", "SET synchronous_commit = off",
)  # fmt: skip
logger = logging.getLogger("asgi_jobs")


class Keeper(Protocol):
    """What presence asks of the store."""

    def heard(self, message: dict[str, Any]) -> None:
        """Another process has said something."""
        ...

    async def look_around(self) -> None:
        """A beat: see what a lost message would have told."""
        ...

    async def rescue(self, worker: int) -> bool:
        """Take over the jobs of a process that is dead; False: it is not."""
        ...

    def lose(self) -> None:
        """What runs here may be taken over by others."""
        ...

    def row(self) -> dict[str, Any]:
        """What the table of workers says of this process, but for its id."""
        ...


class Presence:
    """This process among the others, on PostgreSQL."""

    def __init__(
        self, database: Postgresql, keeper: Keeper, *, direct: AsyncEngine | None, monotonic: Callable[[], float],
        grace: float = GRACE, beat: float = BEAT,
    ) -> None:  # fmt: skip
        self._database = database
        self._keeper = keeper
        self._direct = direct or create_async_engine(database.engine.url, poolclass=NullPool)
        self._monotonic = monotonic
        self.grace = grace
        self._beat = beat
        self.me = 0
        self.lost = False  # nothing may be claimed until we are known again
        self._connection: AsyncConnection | None = None
        self._backend = 0
        self._answered = 0.0
        self._seen_free: dict[int, float] = {}
        self._beating: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()

    @property
    def may_run(self) -> bool:
        """Whether jobs may be claimed here."""
        return not self.lost

    async def join(self) -> None:
        """Be known, and hear of what others do."""
        await self._refuse_pooler()
        await self._connect()
        self.me = await self._database.write(self._database.next_worker)
        await self._register()
        self._answered = self._monotonic()
        self._beating = asyncio.create_task(self._keep_beating())

    async def leave(self, *, for_good: bool) -> None:
        """Be gone, so that nobody has to wait for a grace.

        Args:
            for_good: no code of a job still runs here. Else the lock is kept until the process is dead.
        """
        if self._beating is not None:
            self._leaving.set()  # a question under way is not cut off: it would take the connection with it
            await self._beating
            self._beating = None
        if for_good:
            try:
                async with asyncio.timeout(ANSWER):
                    await self._sign_off()
            except Exception as error:  # the server sees the end of the session by itself
                if meaning(error, self._database.url) is None:
                    raise
        else:
            self._keep_session()
        self._drop_connection()
        await self._direct.dispose()

    async def _sign_off(self) -> None:
        if self._connection is not None and not self.lost:
            await self._connection.execute(delete(workers).where(workers.c.id == self.me))
            await self._connection.execute(text("SELECT pg_advisory_unlock_all()"))

    def _keep_session(self) -> None:
        """A second handle of the socket, which nobody closes: the server sees the session end with the process."""
        sock = self._socket()
        if sock is not None:
            os.dup(sock.fileno())

    # The connection

    async def _refuse_pooler(self) -> None:
        """Session locks and LISTEN need a server session of their own.

        Raises:
            StoreUnusable: two connections share one.
        """
        question = text("SELECT pg_backend_pid()")
        async with self._direct.connect() as one, self._direct.connect() as other:
            for connection in (one, other):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
            pids = [await connection.scalar(question) for connection in (one, other)]
        if pids[0] == pids[1]:
            raise StoreUnusable(
                f"{self._direct.url.render_as_string(hide_password=True)} leads through a pooler that shares server "
                f"sessions between transactions; locks and notifications need one of their own. Give "
                f"Jobs(direct_url=…), which leads to the server itself or to a pooler in session mode"
            )

    async def _connect(self) -> None:
        connection = await self._direct.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            for setting in KEEPALIVES:
                await connection.execute(text(setting))
            self._backend = await connection.scalar(text("SELECT pg_backend_pid()")) or 0
            await raw.add_listener(self._database.channel, self._on_notify)
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        self._connection = connection
        FORKING.add(self)

    def _on_notify(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._keeper.heard(json.loads(payload))

    async def _register(self) -> None:
        """Take the lock, then say who holds it: a row without a lock would look like a dead process."""
        assert self._connection is not None
        await self._connection.execute(
            text("SELECT pg_advisory_lock(:space, :me)"), {"space": self._database.space, "me": self.me}
        )
        await self._connection.execute(workers.insert(), {"id": self.me, **self._keeper.row()})
        self.lost = False

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.sync_connection is not None:
            connection.sync_connection.invalidate()

    def _socket(self) -> socket.socket | None:
        raw = _driver(self._connection)
        return None if raw is None else raw._transport.get_extra_info("socket")

    def forget_socket(self) -> None:
        """In a forked child: an orphan would keep the session, and with it the lock, alive."""
        sock = self._socket()
        if sock is not None:
            os.close(sock.fileno())

    # The beat

    async def _keep_beating(self) -> None:
        while not await passes(self._leaving, self._beat):
            try:
                await self._once()
            except Exception as error:
                if meaning(error, self._database.url) is None:
                    logger.exception("The watch over other processes failed; it goes on")

    async def _once(self) -> None:
        asked = self._monotonic()
        try:
            async with asyncio.timeout(min(ANSWER, self.grace / 2)):
                await self._ask()
        except Exception as error:
            self._seen_free.clear()  # nobody is seen dead while the database is away
            if not isinstance(error, (StoreError, TimeoutError)) and meaning(error, self._database.url) is None:
                raise
            self._drop_connection()
            if not self.lost and self._monotonic() - self._answered >= self.grace - self._beat:
                self.lost = True
                self._keeper.lose()
            return
        self._answered = asked
        await self._look_for_dead()
        await self._keeper.look_around()

    async def _ask(self) -> None:
        """One question on the connection that holds the lock; a new one where that has died."""
        if self._connection is None:
            await self._come_back()
        assert self._connection is not None
        known = await self._connection.scalar(
            update(workers).where(workers.c.id == self.me).values(seen_at=self._keeper.row()["seen_at"])
            .returning(workers.c.id)
        )  # fmt: skip
        if known is None:
            await self._start_anew()
        self.lost = False

    async def _come_back(self) -> None:
        """The connection was lost, and with it perhaps the lock: take it again, from our own old session if need be."""
        old = self._backend
        await self._connect()
        assert self._connection is not None
        await self._connection.execute(text("SELECT pg_terminate_backend(:old)"), {"old": old})
        await self._connection.execute(
            text("SELECT pg_advisory_lock(:space, :me)"), {"space": self._database.space, "me": self.me}
        )

    async def _start_anew(self) -> None:
        """Others have taken over: what ran here is not ours any more, and we begin as a new process."""
        assert self._connection is not None
        if not self.lost:
            self._keeper.lose()
        await self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
        self.me = await self._database.write(self._database.next_worker)
        await self._register()

    async def _look_for_dead(self) -> None:
        """Take over from processes whose lock we have seen free for twice the grace."""
        assert self._connection is not None
        found = await self._connection.execute(
            text(
                "SELECT w.id FROM asgi_jobs_workers w WHERE w.id <> :me AND NOT EXISTS (SELECT 1 FROM pg_locks l "
                "WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = :space AND l.objid = w.id "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
            ),
            {"me": self.me, "space": self._database.space},
        )
        now = self._monotonic()
        free = {id: self._seen_free.get(id, now) for id in found.scalars()}
        self._seen_free = free
        for worker, since in free.items():
            if now - since >= 2 * self.grace:
                await self._keeper.rescue(worker)


def _driver(connection: AsyncConnection | None) -> Any:
    """Asyncpg's connection."""
    if connection is None or connection.sync_connection is None:
        return None
    return connection.sync_connection.connection.driver_connection


async def passes(event: asyncio.Event, seconds: float) -> bool:
    """Whether something happens before so much time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


FORKING: WeakSet[Presence] = WeakSet()
"""Sockets belong to the process, and so does this: a fork copies them all."""


def _in_forked_child() -> None:
    for presence in FORKING:
        with suppress(Exception):
            presence.forget_socket()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def alive(connection: Connection, space: int) -> set[int]:
    """The workers whose lock is held."""
    found = connection.execute(
        text(
            "SELECT CAST(CAST(objid AS bigint) AS int) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 "
            "AND classid = :space AND objid > 0 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ),
        {"space": space},
    )
    return set(found.scalars())
