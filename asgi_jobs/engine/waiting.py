"""Waiting for jobs: until one is stored, until one has ended, until all have. A job that waits lends its places."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asgi_jobs.clock import in_words
from asgi_jobs.engine.run import current_run
from asgi_jobs.engine.waits import Waiters, refuse_deadlock
from asgi_jobs.errors import DeadlockError, NotStored
from asgi_jobs.job import UNSET

if TYPE_CHECKING:
    from datetime import timedelta

    from asgi_jobs.engine.engine import Engine
    from asgi_jobs.engine.run import Run
    from asgi_jobs.job import Job, Record


class Waiting:
    """Whoever waits for jobs of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.waiters = Waiters()
        self.joiners: list[asyncio.Future[None]] = []

    async def stored(self, job: Job) -> None:
        """Wait until the job is stored."""
        if self._engine.durable is not None:
            await self._engine.durable.stored(job)

    async def refresh(self, job: Job) -> None:
        """Read the job again."""
        if self._engine.durable is not None:
            await self._engine.durable.refresh(job)
        elif job._record.stored is False:
            raise NotStored("its transaction was rolled back, so the job does not exist")

    async def kept_value(self, record: Record) -> Any:
        """The value of a job that succeeded, where a record keeps it; lists of jobs were read without."""
        durable = self._engine.durable
        if durable is not None and record.value is UNSET and record.plan.policy.keep_result:
            await durable.store.read(record)
        return record.value

    async def wait(self, job: Job, timeout: timedelta | None) -> None:
        """Wait for the job's end; a job that waits lends its places meanwhile."""
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                if self._engine.durable is not None:
                    await self._engine.durable.committed(job)
                await self._wait(job._record)
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(f"job {job.name!r} had not ended after {in_words(timeout)}; it goes on") from None

    async def _wait(self, record: Record) -> None:
        if record.finished is not None:
            return
        if record.stored is False:
            raise NotStored("its transaction was rolled back, so the job does not exist")
        run = current_run()
        if run is None or not run.belongs_to(self._engine.executor):
            await self._end_of(record)
            return
        await refuse_deadlock(run, record, self._engine.store)
        if not run.waits:
            self._lend(run)
        run.waits = [*(run.waits or ()), record]
        try:
            await self._end_of(record)
        finally:
            run.waits.remove(record)
            if not run.waits:
                self._take_back(run)

    async def _end_of(self, record: Record) -> None:
        if self._engine.durable is not None:
            await self._engine.durable.end_of(record)
        else:
            await self.waiters.wait(record.id)

    def _lend(self, run: Run) -> None:
        self._engine.dispatcher.lent += 1
        if run.scope is not None:
            run.scope.lend()
        self._engine.dispatcher.wake()

    def _take_back(self, run: Run) -> None:
        self._engine.dispatcher.lent -= 1
        if run.scope is not None:
            run.scope.take_back()

    async def join(self) -> None:
        """Wait until nothing is queued, running or between two attempts."""
        run = current_run()
        if run is not None and run.belongs_to(self._engine.executor):
            raise DeadlockError("join() inside a job would wait for that job itself")
        if self._engine.durable is not None:
            await self._engine.durable.join()
            return
        while self._engine.store.pending():
            with self.joining() as idle:
                await idle

    @contextmanager
    def joining(self) -> Iterator[asyncio.Future[None]]:
        """A future that is done when nothing is left to do, or on a durable store: nothing here."""
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.joiners.append(idle)
        try:
            yield idle
        finally:
            if idle in self.joiners:
                self.joiners.remove(idle)

    def release_joiners(self) -> None:
        """Let `join` look whether it is over."""
        engine = self._engine
        if self.joiners and not (engine.executor.running if engine.durable is not None else engine.store.pending()):
            for idle in self.joiners:
                if not idle.done():
                    idle.set_result(None)
            self.joiners.clear()
