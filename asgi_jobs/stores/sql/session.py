"""The one connection of a process on which it holds its lock, and hears what others say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asgi_jobs.errors import StoreUnusable
from asgi_jobs.stores.sql.connections import Pooled, keep_for_ever
from asgi_jobs.stores.sql.tables import workers

SETTINGS = (
    "SET tcp_keepalives_idle = 5", "SET tcp_keepalives_interval = 2", "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 10000", "SET synchronous_commit = off",
)  # fmt: skip
LOCK = text("SELECT pg_advisory_lock(:space, :me)")
UNLOCK = text("SELECT pg_advisory_unlock_all()")
BACKEND = text("SELECT pg_backend_pid()")
END_OTHER = text(
    # Of a session that is not ours any more the number may be somebody else's: only who holds our lock is ended.
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pid = :old AND locktype = 'advisory' AND objsubid = 2 "
    "AND classid = :space AND objid = :me"
)
# Also of whom only a job that runs is left: it was claimed while its process was just leaving.
FREE = text(
    "SELECT w.id FROM (SELECT id FROM asgi_jobs_workers UNION SELECT worker FROM asgi_jobs WHERE state = 3) w "
    "WHERE w.id <> :me AND NOT EXISTS (SELECT 1 FROM pg_locks l "
    "WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = :space AND l.objid = w.id "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)


class Session:
    """A session of the server's, for as long as its connection lives.

    Args:
        engine: leads to the server itself, or to a pooler that shares no sessions.
        space: of the locks.
        channel: of the messages.
        hear: is given each message.
        broken: is called when the connection has broken.
    """

    def __init__(
        self, engine: AsyncEngine, space: int, channel: str, hear: Callable[[dict[str, Any]], None],
        broken: Callable[[], None],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._connections = Pooled(engine)
        self._space = space
        self._channel = channel
        self._hear = hear
        self._broken = broken
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._holder = 0  # the server process that holds our lock, or held it last

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def refuse_pooler(self) -> None:
        """Session locks and LISTEN need a server session of their own.

        Raises:
            StoreUnusable: two connections share one.
        """
        async with self._engine.connect() as one, self._engine.connect() as other:
            for connection in (one, other):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
            pids = [await connection.scalar(BACKEND) for connection in (one, other)]
        if pids[0] == pids[1]:
            raise StoreUnusable(
                f"{self._engine.url.render_as_string(hide_password=True)} leads through a pooler that shares server "
                f"sessions between transactions; locks and notifications need one of their own. Give "
                f"Jobs(direct_url=…), which leads to the server itself or to a pooler in session mode"
            )

    async def open(self) -> None:
        """Connect, and listen."""
        connection = await self._engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            driver: Any = (await connection.get_raw_connection()).driver_connection
            for setting in SETTINGS:
                await connection.execute(text(setting))
            await driver.add_listener(self._channel, self._on_notify)
            driver.add_termination_listener(self._on_end)
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        self._connection, self._driver = connection, driver

    def break_off(self, task: asyncio.Task[Any]) -> None:
        """End the connection that a task is making or asking on."""
        self._connections.break_off(task)

    def drop(self) -> None:
        """Let go of the connection, which may be broken, at once."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None and connection.sync_connection is not None:
            connection.sync_connection.invalidate()

    def keep_for_ever(self) -> None:
        """Let the lock be held until the process is dead."""
        if self._driver is not None:
            keep_for_ever(self._driver)

    async def close(self) -> None:
        """Be done."""
        self.drop()
        await self._engine.dispose()

    def _on_notify(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._hear(json.loads(payload))

    def _on_end(self, driver: Any) -> None:
        if driver is self._driver:
            self._broken()

    # Questions. All need an open connection

    async def lock(self, me: int) -> None:
        """Hold the lock of a worker; where an old session of ours still has it, that is ended."""
        connection = self._asked
        await connection.execute(END_OTHER, {"old": self._holder, "space": self._space, "me": me})
        await connection.execute(LOCK, {"space": self._space, "me": me})
        self._holder = await connection.scalar(BACKEND) or 0

    async def sign_on(self, me: int, row: dict[str, Any]) -> None:
        """Lock, then say who does: a row without a lock would look like a dead process."""
        await self._asked.execute(UNLOCK)
        await self.lock(me)
        await self._asked.execute(workers.insert(), {"id": me, **row})

    async def part(self, me: int) -> None:
        """Be gone, so that nobody has to wait for a grace."""
        connection = self._asked
        await connection.execute(delete(workers).where(workers.c.id == me))
        self._driver = None  # its end is no accident
        await connection.close()
        self._connection = None

    async def is_known(self, me: int, signs: dict[str, Any]) -> bool:
        """Say that we are seen; False: others have taken over."""
        seen = update(workers).where(workers.c.id == me).values(**signs).returning(workers.c.id)
        return await self._asked.scalar(seen) is not None

    async def unlocked(self, me: int) -> list[int]:
        """The other workers whose lock nobody holds."""
        return list((await self._asked.execute(FREE, {"me": me, "space": self._space})).scalars())

    @property
    def _asked(self) -> AsyncConnection:
        assert self._connection is not None
        return self._connection
