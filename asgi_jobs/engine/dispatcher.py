"""Takes due jobs from the store, has them run, hands in their outcomes: all in one exchange."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

from asgi_jobs.engine.run import Run
from asgi_jobs.errors import StoreError
from asgi_jobs.events import printable
from asgi_jobs.job import UNSET
from asgi_jobs.stores.base import Answer, Claimed, Outcome, Verdict

if TYPE_CHECKING:
    from asgi_jobs.engine.executor import Executor
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import Store

T = TypeVar("T")
PAUSE_AFTER_ERROR = 1.0
NAMED = 20
HELD = Verdict.HELD
logger = logging.getLogger("asgi_jobs")


class Dispatcher:
    """Keeps the places filled. Everything here runs on the loop.

    Work batches by itself: what ends in one turn of the loop goes into one exchange, and so does what ends while
    a store is busy with the last one. When the last running job has ended there is nothing to wait for, and the
    exchange comes at once.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        *,
        concurrency: int,
        threads: int,
        started: Callable[[Sequence[Record]], None],
        recorded: Callable[[list[Run]], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._running = executor.running
        self._started = started
        self._recorded = recorded
        self.concurrency = concurrency
        self.lent = 0  # places of jobs that wait for other jobs
        self._threads = self.free_threads = threads
        self.claiming = False
        self._outcomes: list[Run] = []
        self.planned = False
        self._again = False
        self._held = False  # an outcome that is to be told before its job starts again
        self._exchange: asyncio.Task[None] | None = None
        self._under_way: list[Run] = []  # the outcomes in it
        self._own = Context()

    def wake(self) -> None:
        """Something may be ready: look in the loop's next turn."""
        if not self.planned:
            self.planned = True
            loop = self._executor.loop
            assert loop is not None
            loop.call_soon(self.pump, context=self._own)

    def ended(self, run: Run) -> None:
        """An attempt has ended."""
        self._outcomes.append(run)
        if run.verdict is HELD:
            self._held = True
        if run.record.plan.threaded:
            self.free_threads += 1
        if not self._running:
            self._own.run(self.pump)
        elif not self.planned:
            self.wake()

    def pump(self) -> None:
        """Hand in what ended, and start what may start."""
        self.planned = False
        if self._exchange is not None:  # under way: what has come since goes into the next one
            self._again = True
            return
        outcomes, self._outcomes = self._outcomes, []
        if self._held:  # claim in the next turn: one that is due again at once would be told of as it is then
            self._held = False
            self.wake()
            answer = self._store.exchange(outcomes, 0, 0)
        else:
            answer = self._store.exchange(outcomes, *self._room())
        if isinstance(answer, Claimed):
            self._carry_out(outcomes, answer)
        else:
            self._exchange = asyncio.Task(self._await(outcomes, answer), loop=self._executor.loop, context=self._own)

    def _room(self) -> tuple[int, int]:
        if not self.claiming:
            return 0, 0
        return max(self.concurrency + self.lent - len(self._running), 0), self.free_threads

    def _room_beside(self, outcomes: list[Run]) -> tuple[int, int]:
        """The same where outcomes have gathered; see `pump`."""
        self._held = False
        if any(run.verdict is HELD for run in outcomes):
            self._again = True
            return 0, 0
        return self._room()

    async def _await(self, outcomes: list[Run], answer: Awaitable[Claimed]) -> None:
        """The exchange of a store that needs I/O: repeated until it succeeds, for it can undo nothing."""
        claimed, self._under_way = None, outcomes
        while claimed is None:
            try:
                claimed = await answer
            except Exception as error:
                if not isinstance(error, StoreError):  # that the store has logged, once
                    logger.exception("The store did not answer; trying again")
                await asyncio.sleep(PAUSE_AFTER_ERROR)
                outcomes += self._outcomes
                self._outcomes = []
                answer = _as_awaitable(self._store.exchange(outcomes, *self._room_beside(outcomes)))
        self._exchange, self._under_way = None, []
        self._carry_out(outcomes, claimed)
        if self._again:
            self._again = False
            self.wake()

    def _carry_out(self, outcomes: list[Run], claimed: Claimed) -> None:
        if claimed.jobs:
            start = self._executor.start
            for record in claimed.jobs:
                if record.plan.threaded:
                    self.free_threads -= 1
                start(record)
        if outcomes:  # told before the starts: the end of a job comes before the start of its successor
            if claimed.refused:
                outcomes = [run for run in outcomes if run not in claimed.refused]
                _tell_refused(claimed.refused)
            self._recorded(outcomes)
        if claimed.jobs:
            self._started(claimed.jobs)
        if claimed.more:
            self.wake()

    async def settle_within(self, seconds: float) -> None:
        """Wait so long until every outcome is in the store."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.settle()

    async def give_up(self) -> list[Run]:
        """End the exchange that is under way; gives the outcomes that nobody knows whether they are stored."""
        exchange, unknown = self._exchange, self.forget()
        if exchange is not None:
            exchange.cancel()
            await asyncio.wait((exchange,))
        return unknown

    def forget(self) -> list[Run]:
        """Begin anew; gives the outcomes that were not handed in."""
        self.free_threads = self._threads - sum(run.record.plan.threaded for run in self._running)
        unknown = self._under_way + self._outcomes
        self._exchange, self._under_way, self._outcomes = None, [], []
        self._again = self._held = self.planned = False
        return unknown

    async def settle(self) -> None:
        """Wait until every outcome is in the store."""
        while self._outcomes or self._exchange is not None:
            if self._exchange is not None:
                await asyncio.wait((self._exchange,))
            else:
                self.pump()
                await asyncio.sleep(0)


def _tell_refused(refused: Sequence[Outcome]) -> None:
    for one in refused:
        one.record.detail().value = UNSET  # what counts is what the job gives where it runs now
    names = ", ".join(f"'{printable(one.record.name)}' ({one.record.id})" for one in refused[:NAMED])
    logger.warning(
        "The outcome of %d job(s) was refused: another process has taken them over, and their code may have run "
        "beside it: %s",
        *(len(refused), names),
    )


async def resolve(answer: Answer[T]) -> T:
    """The store's answer, at once or awaited."""
    return await answer if isawaitable(answer) else answer


async def _as_awaitable(answer: Answer[T]) -> T:
    return await resolve(answer)
