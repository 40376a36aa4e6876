"""Stores what was enqueued: one writer for each process, in the order of the calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import NotStored, StoreAway, StoreLocked
from asgi_jobs.events import printable
from asgi_jobs.job import Record

if TYPE_CHECKING:
    from asgi_jobs.stores.base import Store

PAUSE_WHILE_AWAY = 1.0
MOST_AT_ONCE = 1_000
TOO_LATE = "the application stopped before the store had taken it"
logger = logging.getLogger("asgi_jobs")


class Writer:
    """Everything that waits goes in one transaction, so it batches by itself while the last one is under way.

    Everything here runs on the loop.

    Args:
        store: where to.
        stored: is told of the jobs that are stored now.
    """

    def __init__(self, store: Store, stored: Callable[[Sequence[Record]], None]) -> None:
        self._store = store
        self._tell = stored
        self._waiting: list[Record] = []
        self._batch: list[Record] = []
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locked = False
        self.closed = True

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new start, perhaps on a new loop."""
        self.closed, self._task, self._loop = False, None, loop
        self._abandon("its event loop was closed before the store had taken it")

    @property
    def unstored(self) -> int:
        """How many jobs wait to be stored."""
        return len(self._waiting) + len(self._batch)

    def put(self, record: Record) -> None:
        """Store a job after those before it, from the loop's next turn on."""
        self._waiting.append(record)
        if self.closed:
            self._abandon(TOO_LATE)
        elif self._task is None:
            self._task = asyncio.Task(self._write(), loop=self._loop, context=Context())

    async def flush(self) -> None:
        """Wait until nothing waits."""
        await asyncio.sleep(0)  # what threads have handed over
        while self._task is not None:
            await asyncio.wait((self._task,))

    async def close(self, seconds: float) -> None:
        """Store what can be stored in so much time; the rest is given up, and named in the log."""
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except TimeoutError:
            pass
        finally:
            self.closed = True
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait((self._task,))
            self._abandon(TOO_LATE)

    # The task

    async def _write(self) -> None:
        try:
            while self._waiting:
                self._batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                while self._batch:
                    await self._store_batch()
        finally:
            self._task = None

    async def _store_batch(self) -> None:
        """Store the batch, or find out what to do with those that are left of it."""
        try:
            await self._store_first(len(self._batch))
        except StoreAway:  # which the store has logged
            await asyncio.sleep(PAUSE_WHILE_AWAY)
        except StoreLocked as error:
            self._let_awaited_go(error)
        except Exception as error:
            if len(self._batch) > 1:
                await self._store_one_by_one()
            else:
                self._fail(self._batch.pop(), error)

    async def _store_first(self, n: int) -> None:
        stored = await resolve(self._store.add(self._batch[:n], bounded=False))
        records, self._batch = self._batch[:n], self._batch[n:]
        self._locked = False
        for record, answer in zip(records, stored, strict=True):
            settle(record, None if answer is record else answer)
        self._tell([record for record, answer in zip(records, stored, strict=True) if answer is record])

    async def _store_one_by_one(self) -> None:
        """One of them cannot be stored; the others can, in their order."""
        while self._batch:
            try:
                await self._store_first(1)
            except (StoreAway, StoreLocked):
                return  # the rest is still a batch
            except Exception as error:
                self._fail(self._batch.pop(0), error)

    def _let_awaited_go(self, error: StoreLocked) -> None:
        """Whoever awaits may be the one whose transaction locks the database; nobody else loses anything by waiting."""
        batch = self._batch
        self._batch = [record for record in batch if not record.detail().unwritten]
        for record in batch:
            if record.detail().unwritten:
                self._fail(record, error)
        if self._batch and not self._locked:
            self._locked = True
            logger.warning("The store's database is locked; %d job(s) wait to be stored: %s", len(self._batch), error)

    def _fail(self, record: Record, error: Exception) -> None:
        logger.error("Job '%s' of %s could not be stored", printable(record.name), record.plan.key, exc_info=error)
        settle(record, error)

    def _abandon(self, why: str) -> None:
        lost, self._batch, self._waiting = self._batch + self._waiting, [], []
        for record in lost:
            settle(record, NotStored(f"job {record.name!r} was not stored: {why}"))
        if lost:
            names = ", ".join(f"'{printable(record.name)}'" for record in lost[:20])
            more = f" and {len(lost) - 20} more" if len(lost) > 20 else ""
            logger.error("%d job(s) were not stored, for %s: %s%s", len(lost), why, names, more)


def settle(record: Record, answer: Record | Exception | None) -> None:
    """A job is stored (None), or another one is in its place, or it cannot be; who waits for that hears of it."""
    details = record.detail()
    details.stored, details.answer = answer is None, answer
    waiting, details.unwritten = details.unwritten, None
    for future in waiting or ():
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None)


def answer_of(record: Record) -> Record:
    """The record that is stored for this one: itself, or with `unique` the unfinished job of the same key.

    Raises:
        NotStored, StoreLocked: there is none.
    """
    answer = record.detail().answer
    if answer is None or isinstance(answer, Record):
        return answer or record
    if isinstance(answer, StoreLocked):
        raise StoreLocked(str(answer))
    if isinstance(answer, NotStored):
        raise NotStored(str(answer))
    raise NotStored(f"job {record.name!r} could not be stored: {type(answer).__name__}: {answer}") from answer
