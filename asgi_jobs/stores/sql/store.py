"""The store in a database: opened, closed, and told of what other processes do."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, not_, select, update

from asgi_jobs.errors import StoreError
from asgi_jobs.job import Record
from asgi_jobs.stores.base import Callbacks
from asgi_jobs.stores.sql import leader, presence
from asgi_jobs.stores.sql.address import same_place
from asgi_jobs.stores.sql.common import all_rows
from asgi_jobs.stores.sql.connections import in_time
from asgi_jobs.stores.sql.leader import Leader
from asgi_jobs.stores.sql.looking import Looking
from asgi_jobs.stores.sql.postgresql import Postgresql
from asgi_jobs.stores.sql.presence import Presence
from asgi_jobs.stores.sql.sqlite import Sqlite
from asgi_jobs.stores.sql.tables import State, jobs, workers

SWEEP_EVERY = 5
"""Beats between two looks at all queues, for what a lost message would have told."""
SAID = 20
"""Jobs that a log line names."""
logger = logging.getLogger("asgi_jobs")


class SqlStore(Looking):
    """Jobs in SQLite or PostgreSQL.

    Args:
        store: a URL, "sqlite+aiosqlite:///jobs.db" or "postgresql+asyncpg://…", or an AsyncEngine of one. A SQLite
            engine gives its URL only: its pragmas and its BEGIN are the application's affair.
        tasks: the declared tasks by key, asked for at each claim.
        limits: queue to most running at once, in the whole fleet.
        max_queued, max_finished: see `Jobs`.
        concurrency: how many jobs this process runs at once; 0: none.
        direct_url: leads past a transaction pooler.
        create_tables: whether missing tables are made.
        clock: where the time comes from. With the ordinary clock it is the database's.

    Raises:
        InvalidOption, InvalidOptionType: the store cannot be one.
    """

    grace = presence.GRACE
    beat = presence.BEAT

    async def open(self, callbacks: Callbacks) -> None:
        """See `Store.open`.

        Raises:
            StoreError: the database does not answer, or its tables cannot be used.
        """
        self._callbacks = callbacks
        self._mine.clear()
        self._expect_anything()
        self._watched: set[str] = set()
        self._beats = 0
        try:
            await self._start(lambda: self._database.open(create_tables=self._create_tables))
            self._is_open = True
            await self._start(self._follow_clock)
            self._presence = self._make_presence()
            await self._start(self._presence.join)
            await self._count_waiting()
        except BaseException:
            await self._close()
            raise

    async def _start(self, step: Any) -> None:
        """One step of the start; nothing is tried again, for the application should hear of it."""
        try:
            async with in_time(self._patience, self._database.break_off):
                await step()
        except Exception as error:
            said = self._meaning(error)
            if said is None or said is error:
                raise
            raise said from error

    def _make_presence(self) -> Presence | Leader:
        database = self._database
        if isinstance(database, Sqlite):
            return Leader(database, self, runs=self.concurrency > 0, monotonic=self._clock.monotonic, beat=self.beat)
        assert isinstance(database, Postgresql)
        return Presence(database, self, monotonic=self._clock.monotonic, grace=self.grace, beat=self.beat)

    async def close(self) -> None:
        """See `Store.close`."""
        try:
            if self._outage.trouble is None:
                await self._settled()
                with suppress(StoreError):
                    await self._write(self._part)
            await self._presence.leave(for_good=not self._mine)
            await self._settled()
        finally:
            await self._close()

    def _part(self, connection: Connection) -> None:
        """What was claimed at the last moment goes back; what does not stop runs again when this process is dead."""
        ours = (jobs.c.worker == self._presence.me) & (jobs.c.state == State.RUNNING)
        still_runs = jobs.c.id.in_(list(self._mine))
        now = self.time()
        connection.execute(
            update(jobs)
            .where(ours, not_(still_runs))
            .values(state=State.HELD, run_at=now, since_at=now, started_at=None, attempt=jobs.c.attempt - 1)
        )
        # An orderly end of the process is no death of the jobs that it leaves to the others.
        connection.execute(update(workers).where(workers.c.id == self._presence.me).values(stopping=True))

    async def _close(self) -> None:
        self._is_open = False
        await self._database.close()

    # What presence asks (presence.Keeper)

    def row(self) -> dict[str, Any]:
        """See `presence.Keeper.row`."""
        known = {"host": socket.gethostname(), "pid": os.getpid(), "concurrency": self.concurrency}
        return known | {"started_at": self.time()} | self.signs()

    def signs(self) -> dict[str, Any]:
        """See `presence.Keeper.signs`: tasks may be declared while the engine runs."""
        return {"seen_at": self.time(), "tasks": json.dumps(sorted(self._tasks()))}

    def lose(self) -> None:
        """See `presence.Keeper.lose`."""
        self._callbacks.lost(None)

    def heard(self, message: Mapping[str, Any]) -> None:
        """Another process, or this one, has said what it did."""
        me = self._presence.me
        self.revision += 1
        if "changed" in message:
            self._expect_anything()
            self._look_later()
        if "wake" in message:
            if message["wake"] is None:
                self._expect_anything()
            else:
                self._expect(message["wake"])
        for worker, id in message.get("stop", ()):
            if worker == me:
                self._spawn(self._stop(id))
        for worker, id in message.get("lost", ()):
            if worker == me:
                self._mine.pop(id, None)
                self._callbacks.lost([id])
        ended = message.get("ended", ())
        if ended is None or self._watched.intersection(ended):
            self._look_later()
        self._callbacks.wake()

    def _look_later(self) -> None:
        if self._watched or self._mine:
            self._spawn(self._look_at_ours())

    async def _stop(self, id: str) -> None:
        """A job that runs here was asked to stop; its record knows why, and that it is not to be tried again."""
        await self.get(id)
        self._callbacks.asked_to_stop(id)

    async def look_around(self) -> None:
        """See `presence.Keeper.look_around`."""
        self._beats += 1
        await self._follow_clock()
        await self._look_at_ours()
        self._looked = False
        if self._beats % SWEEP_EVERY == 0:
            await self._count_waiting()
            self._expect_anything()
        self._callbacks.wake()

    async def _look_at_ours(self) -> None:
        """Whether a job that runs here was asked to stop, or one that is watched has ended."""
        ours = list(self._mine)
        watched = list(self._watched)
        if ours:
            asked = select(jobs.c.id, jobs.c.claim, jobs.c.cancel_at).where(
                jobs.c.worker == self._presence.me, jobs.c.state == State.RUNNING, jobs.c.cancel_at.is_not(None)
            )
            for row in await self._read(partial(all_rows, asked)):
                if row.id in self._mine:
                    await self.get(row.id)
                    self._callbacks.asked_to_stop(row.id)
        if watched:
            ended = select(jobs.c.id).where(jobs.c.id.in_(watched), jobs.c.state < State.SUCCEEDED)
            unfinished = {row.id for row in await self._read(partial(all_rows, ended))}
            await self._say_ended([id for id in watched if id not in unfinished])

    async def _say_ended(self, ids: Sequence[str]) -> None:
        for id in ids:
            await self.get(id)
            self._watched.discard(id)
        if ids:
            self._callbacks.ended(ids)

    async def watch(self, record: Record) -> None:
        """See `DurableStore.watch`."""

        def mark(connection: Connection) -> Any:
            unfinished = (jobs.c.id == record.id) & (jobs.c.state < State.SUCCEEDED)
            return connection.scalar(update(jobs).where(unfinished).values(watched=True).returning(jobs.c.id))

        if record.id in self._mine:
            return
        self._watched.add(record.id)
        if await self._write(mark) is None:
            await self._say_ended([record.id])

    def _say_rescued(self, worker: int, rows: Sequence[Any]) -> None:
        names = ", ".join(f"{row.name!r} ({row.id})" for row in rows[:SAID])
        more = f" and {len(rows) - SAID} more" if len(rows) > SAID else ""
        logger.warning(
            "Worker %d is gone; %d job(s) that it ran go back to their places: %s%s", worker, len(rows), names, more
        )

    def _alive(self, connection: Connection) -> set[int]:
        database = self._database
        if isinstance(database, Postgresql):
            return presence.alive(connection, database.space)
        return leader.alive(connection, self.time())

    # What the engine asks

    def owns(self, bind: Any) -> bool:
        """See `DurableStore.owns`."""
        engine = getattr(bind, "engine", bind)
        engine = getattr(engine, "sync_engine", engine)
        url = getattr(engine, "url", None)
        return url is not None and same_place(url, self._database.url)

    async def trouble(self) -> str | None:
        """See `DurableStore.trouble`. What is known is not asked again: an answer may take long to stay away."""
        known = self._outage.trouble or self._presence.trouble
        if known is not None:
            return known
        try:
            async with asyncio.timeout(presence.ANSWER):
                await self._read(partial(all_rows, select(jobs.c.id).limit(1)))
        except StoreError as error:
            return str(error)
        except TimeoutError:
            return f"the store has not answered for {presence.ANSWER:g} s"
        return None
