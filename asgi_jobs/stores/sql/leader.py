"""Which process runs the jobs of a SQLite store: the one that holds a lock on a file beside the database.

The kernel lets go of the lock the moment its process is gone, so there is nothing to wait for. What other
processes commit is seen by `PRAGMA data_version`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, not_, select, text, update

from asgi_jobs.stores.sql.database import meaning
from asgi_jobs.stores.sql.presence import passes
from asgi_jobs.stores.sql.tables import meta, workers

if TYPE_CHECKING:
    from asgi_jobs.stores.sql.presence import Keeper
    from asgi_jobs.stores.sql.sqlite import Sqlite

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

ALONE, AMONG_OTHERS = 0.25, 0.01
"""Seconds between two looks at what others have committed."""
BEAT = 2.0
SILENT = 15.0
"""Seconds after which a process that has said nothing counts as gone."""
NOT_OURS = text(
    "SELECT worker FROM asgi_jobs WHERE state = 3 AND worker <> :me "
    "UNION SELECT worker FROM asgi_jobs WHERE state = 4 AND slot IS NOT NULL AND worker <> :me"
)
HELD: set[int] = set()
"""Open lock files. A fork copies them, and an orphan would keep the lock: so its copies are closed."""
logger = logging.getLogger("asgi_jobs")


class Leader:
    """This process among the others, on SQLite."""

    def __init__(
        self, database: Sqlite, keeper: Keeper, *, runs: bool, monotonic: Callable[[], float], beat: float = BEAT
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._runs = runs
        self._monotonic = monotonic
        self._beat = beat
        self._path = Path(f"{database.url.database}.lock").resolve()
        self._file: int | None = None
        self._looking: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._version = 0
        self._others = False
        self.me = 0

    @property
    def may_run(self) -> bool:
        """Whether jobs may be claimed here."""
        return self._file is not None

    @property
    def trouble(self) -> str | None:
        """Why jobs may not run here, though they should."""
        return None

    async def join(self) -> None:
        """Be known, and run jobs if nobody else does."""
        self.me = await self._database.write(self._sign_on)
        self._version = await self._database.version()  # before the first claim: what comes after it is news
        await self._try_to_lead()
        self._looking = asyncio.create_task(self._keep_looking())

    async def leave(self, *, for_good: bool) -> None:
        """Be gone, and let another process run the jobs.

        Args:
            for_good: no code of a job still runs here. Else the lock is kept until the process is dead.
        """
        if self._looking is not None:
            self._leaving.set()  # a look under way is not cut off in the middle of a statement
            await self._looking
            self._looking = None
        if not for_good:
            return
        try:
            await self._database.write(self._sign_off)
        except Exception as error:
            if meaning(error, self._database.url) is None:
                raise
        finally:
            self._let_go()

    def _sign_on(self, connection: Connection) -> int:
        me = self._database.next_worker(connection)
        connection.execute(workers.insert(), {"id": me, **self._keeper.row()})
        return me

    def _sign_off(self, connection: Connection) -> None:
        connection.execute(delete(workers).where(workers.c.id == self.me))

    # The lock

    async def _try_to_lead(self) -> None:
        if not self._runs or self._file is not None:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(file):
            os.close(file)
            return
        self._file = file
        HELD.add(file)
        try:
            await self._take_over()
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            HELD.discard(file)
            os.close(file)

    def _look_at_lock(self) -> None:
        """A file that was deleted, or replaced, is no lock for those who come after."""
        if self._file is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            same = False
        if not same:
            logger.error("The lock of the store, %s, was deleted: another process may run its jobs", self._path)
            self._let_go()
            self._keeper.lose()

    async def _take_over(self) -> None:
        """Whatever runs by another's name ran in a process that is dead: it held the lock."""
        for worker in await self._database.write(self._lead):
            await self._keeper.rescue(worker)

    def _lead(self, connection: Connection) -> list[int]:
        """Say who runs jobs now; gives the workers whose jobs are left."""
        connection.execute(update(meta).where(meta.c.key == "leader").values(value=self.me))
        return list(connection.execute(NOT_OURS, {"me": self.me}).scalars())

    # What others do

    async def _keep_looking(self) -> None:
        beaten = self._monotonic()
        while True:
            if await passes(self._leaving, AMONG_OTHERS if self._others else ALONE):
                return
            try:
                if await self._changed():
                    self._keeper.heard({"changed": True})
                if self._monotonic() - beaten >= self._beat:
                    beaten = self._monotonic()
                    await self._once()
            except Exception as error:
                if meaning(error, self._database.url) is None:
                    logger.exception("The watch over other processes failed; it goes on")

    async def _changed(self) -> bool:
        """Whether another process has committed since the last look."""
        version = await self._database.version()
        changed, self._version = self._version != version, version
        return changed

    async def _once(self) -> None:
        self._others = await self._database.write(self._say_alive)
        self._look_at_lock()
        await self._try_to_lead()
        await self._keeper.look_around()

    def _say_alive(self, connection: Connection) -> bool:
        """Give a sign of life, and forget those who gave none; gives whether there are others."""
        signs = self._keeper.signs()
        known = connection.scalar(
            update(workers).where(workers.c.id == self.me).values(**signs).returning(workers.c.id)
        )
        if known is None:  # we were silent for too long
            connection.execute(workers.insert(), {"id": self.me, **self._keeper.row()})
        silent = (workers.c.seen_at < signs["seen_at"] - SILENT) & not_(workers.c.stopping)  # that is rescue's to read
        connection.execute(delete(workers).where(workers.c.id != self.me, silent))
        return connection.scalar(select(workers.c.id).where(workers.c.id != self.me).limit(1)) is not None


def alive(connection: Connection, now: float) -> set[int]:
    """The workers that have been heard of lately."""
    found = connection.execute(select(workers.c.id).where(workers.c.seen_at >= now - SILENT))
    return set(found.scalars())


def _lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _in_forked_child() -> None:
    for file in HELD:
        with suppress(OSError):
            os.close(file)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
