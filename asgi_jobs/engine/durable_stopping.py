"""The end of an engine whose jobs outlive it: nothing new starts, and what is cut off goes back to its place."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.engine.stopping import LAST_MOMENT, NAMED, Shutdown
from asgi_jobs.errors import StoreError
from asgi_jobs.events import label

if TYPE_CHECKING:
    from asgi_jobs.engine.run import Run

logger = logging.getLogger("asgi_jobs")


class DurableShutdown(Shutdown):
    """As `Shutdown`. Nothing here waits for the database longer than there is time."""

    def _begin(self) -> None:
        self._engine.dispatcher.claiming = False

    def _before_the_cut(self) -> None:
        """Jobs may enqueue to their end: it is only stored."""

    async def _drain(self, until: float) -> None:
        """First hear of the jobs that are on their way here: they go back without having begun."""
        await self._engine.dispatcher.settle_within(max(until - self._clock.monotonic(), 0.0))
        await super()._drain(until)

    async def _say_what_is_waited_for(self, seconds: float) -> None:
        running = [label(run.job) for run in self._engine.executor.running]
        if running:
            _say("Stopping: waiting up to %.0f s for %d job(s): %s", running, seconds)
        else:
            logger.warning("Stopping: waiting up to %.0f s for the store to take what has ended", seconds)

    async def _part(self, runs: list[Run]) -> None:
        """Hand in what ended, and store what was enqueued to the end."""
        engine = self._engine
        unknown: list[Run] = []
        with self._uncut():
            await engine.dispatcher.settle_within(self._at_least_a_moment)
        with self._uncut():
            unknown = await engine.dispatcher.give_up()
        engine.executor.ended = _unheard
        engine.stop_claiming()
        if engine.durable is not None:
            with self._uncut():
                await engine.durable.writer.close(self._at_least_a_moment)
        self._say_what_goes_on(runs, unknown)

    @property
    def _at_least_a_moment(self) -> float:
        return max(self._left, LAST_MOMENT)

    def _say_what_goes_on(self, runs: list[Run], unknown: list[Run]) -> None:
        back = [label(run.job) for run in runs if run.interrupted and run not in unknown]
        again = [label(run.job) for run in unknown]
        endless = [label(run.job) for run in runs if self._runs(run)]
        _say("%d job(s) were interrupted, and go back to their place: %s", back)
        _say("%d job(s) have ended, but the store did not answer: they run again: %s", again)
        _say("%d job(s) still run, for they do not stop; they run again when this process is dead: %s", endless)

    async def _close_store(self) -> None:
        try:
            async with asyncio.timeout(self._at_least_a_moment):
                await resolve(self._engine.store.close())
        except (TimeoutError, StoreError):
            logger.warning("The store's database did not answer while the application stopped")


def _say(line: str, jobs: list[str], *before: object) -> None:
    if jobs:
        more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
        logger.warning(line, *before, len(jobs), "; ".join(jobs[:NAMED]) + more)


def _unheard(_run: Run) -> None:
    """What ends from now on is not handed in: its row stays as it is until this process is seen to be dead."""
