"""Who is alive, by the database's word and not by a clock.

On PostgreSQL each process holds a session lock on a connection of its own; the server lets go of it 3 ms after a
`kill -9`, and keeps it for a process whose loop is blocked for a minute. What a lock cannot tell is a network that
is cut: so the owner gives up its jobs when it has had no answer for `GRACE`, and others take them over when they have
seen the lock free for twice as long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from asgi_jobs.stores.sql.database import meaning
from asgi_jobs.stores.sql.session import Session

if TYPE_CHECKING:
    from asgi_jobs.stores.sql.postgresql import Postgresql

T = TypeVar("T")
GRACE = 10.0
"""Seconds without an answer after which a process stops what it runs. Others wait twice as long."""
BEAT = 2.0
"""Seconds between two questions to the server."""
ANSWER = 5.0
"""Seconds that an answer may take before the connection counts as dead."""
LOOKS = 20
"""So often within the grace is looked whether it is over."""
TURNS = 10
"""Turns of the loop in which an answer is read that came while the loop was blocked."""
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

    def signs(self) -> dict[str, Any]:
        """What of that may have changed since."""
        ...


class Presence:
    """This process among the others, on PostgreSQL."""

    def __init__(
        self, database: Postgresql, keeper: Keeper, *, monotonic: Callable[[], float], grace: float, beat: float
    ) -> None:
        engine = create_async_engine(database.direct or database.engine.url, poolclass=NullPool)
        self._database = database
        self._keeper = keeper
        self._leaving = asyncio.Event()
        self._hurry = asyncio.Event()
        self._session = Session(engine, database.space, database.channel, keeper.heard, self._hurry.set)
        self._monotonic = monotonic
        self.grace = grace
        self._beat = beat
        self._patience = min(ANSWER, grace / 2)
        self.me = 0
        self.lost = False  # nothing may be claimed until we are known again
        self._answered = 0.0  # when the last question that got its answer was sent
        self._benefit = (0.0, 0.0)  # of the doubt: until then, counted from that answer
        self._seen_free: dict[int, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def may_run(self) -> bool:
        """Whether jobs may be claimed here."""
        return not self.lost

    @property
    def trouble(self) -> str | None:
        """Why jobs may not run here."""
        return f"the server has not answered for {self.grace:g} s on the connection of its locks" if self.lost else None

    async def join(self) -> None:
        """Be known, and hear of what others do."""
        try:
            await self._session.refuse_pooler()
            await self._session.open()
            self.me = await self._database.write(self._database.next_worker)
            self._answered = self._monotonic()
            await self._session.sign_on(self.me, self._keeper.row())
        except BaseException:
            await self._session.close()
            raise
        self._tasks = [asyncio.create_task(self._keep_asking()), asyncio.create_task(self._keep_judging())]

    async def leave(self, *, for_good: bool) -> None:
        """Be gone, so that nobody has to wait for a grace.

        Args:
            for_good: no code of a job still runs here. Else the lock is kept until the process is dead.
        """
        self._leaving.set()  # a question under way is not cut off: it would take the connection with it
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
            if for_good and self._session.is_open and not self.lost:
                await self._answer(self._session.part(self.me))
        except Exception as error:  # the server sees the end of the session by itself
            if meaning(error, self._database.url) is None:
                raise
        finally:
            if not for_good:
                self._session.keep_for_ever()
            await self._cancel(self._tasks)
            await self._session.close()

    async def _cancel(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """End tasks, of which one may wait for an answer."""
        left = [task for task in tasks if not task.done()]
        if left:
            self._session.drop()
            for task in left:
                self._session.break_off(task)
                self._database.break_off(task)
                task.cancel()
            await asyncio.wait(left)

    # Questions

    async def _keep_asking(self) -> None:
        """Ask at each beat. What takes longer goes on beside, so that no beat is left out."""
        around: asyncio.Task[None] | None = None
        try:
            while not await self._next_beat():
                answered = await self._ask()
                if answered and (around is None or around.done()):
                    around = asyncio.create_task(self._look_around(self._dead()))
            if around is not None:
                await asyncio.wait((around,))
        finally:
            if around is not None and not around.done():
                around.cancel()
                await asyncio.wait((around,))

    async def _next_beat(self) -> bool:
        """Wait for it, or for the connection to break; gives whether there is none any more."""
        self._hurry.clear()
        broken = asyncio.ensure_future(self._hurry.wait())
        leaving = asyncio.ensure_future(self._leaving.wait())
        ways = (broken, leaving)
        try:
            await asyncio.wait(ways, timeout=self._beat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
        return self._leaving.is_set()

    async def _ask(self) -> bool:
        """One question, on the connection that holds the lock; whether it was answered."""
        asked = self._monotonic()
        try:
            await self._answer(self._question())
        except Exception as error:
            self._seen_free.clear()  # nobody is seen dead while the database is away
            self._session.drop()
            if meaning(error, self._database.url) is None:
                logger.exception("The watch over other processes failed; it goes on")
            return False
        self._answered = asked
        self.lost = False
        return True

    async def _answer(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer, if it comes in time; one that came while the loop was blocked is still to be read."""
        task = asyncio.create_task(question)
        try:
            await asyncio.wait((task,), timeout=self._patience)
            for _ in range(TURNS):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            await self._cancel((task,))

    async def _question(self) -> None:
        """Are we still known? Where the connection was lost, it and the lock have to be won back first."""
        if not self._session.is_open:
            await self._session.open()
            await self._session.lock(self.me)
        if not await self._session.is_known(self.me, self._keeper.signs()):
            await self._start_anew()
        now = self._monotonic()
        self._seen_free = {id: self._seen_free.get(id, now) for id in await self._session.unlocked(self.me)}

    async def _start_anew(self) -> None:
        """Others have taken over: what ran here is not ours any more, and we begin as a new process."""
        if not self.lost:
            self.lost = True
            self._keeper.lose()
        self.me = await self._database.write(self._database.next_worker)
        await self._session.sign_on(self.me, self._keeper.row())

    # Judgement

    async def _keep_judging(self) -> None:
        """Give up what runs here when nothing was answered for the grace, whatever the question under way does."""
        step = self.grace / LOOKS
        while True:
            before = self._monotonic()
            if await passes(self._leaving, step):
                return
            now = self._monotonic()
            if now - before > 2 * step:
                self._doubt(now)
            if not self.lost and now - self._answered >= self.grace and not self._doubted(now):
                self.lost = True
                self._keeper.lose()

    def _doubt(self, now: float) -> None:
        """The loop was blocked, or the process frozen: it could not hear an answer, and has seen nothing."""
        self._seen_free.clear()
        if self._benefit[1] != self._answered:  # once for each answer, else a busy loop would go on for ever
            self._benefit = (now + self._patience + self._beat, self._answered)

    def _doubted(self, now: float) -> bool:
        until, answered = self._benefit
        return answered == self._answered and now < until

    def _dead(self) -> list[int]:
        """The workers whose lock we have seen free for twice the grace."""
        now = self._monotonic()
        return [worker for worker, since in self._seen_free.items() if now - since >= 2 * self.grace]

    async def _look_around(self, dead: Sequence[int]) -> None:
        try:
            for worker in dead:
                await self._keeper.rescue(worker)
            await self._keeper.look_around()
        except Exception as error:
            if meaning(error, self._database.url) is None:
                logger.exception("The watch over other processes failed; it goes on")


async def passes(event: asyncio.Event, seconds: float) -> bool:
    """Whether something happens before so much time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


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
