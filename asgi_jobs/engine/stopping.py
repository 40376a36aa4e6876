"""The end of an engine: drain, cut off what is left, say what is lost, close everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.engine.ending import Stop
from asgi_jobs.events import label

if TYPE_CHECKING:
    from datetime import timedelta

    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.engine import Engine
    from asgi_jobs.engine.run import Run
    from asgi_jobs.job import Record

LOST = "lost when the application stopped"
CLEAN_UP_SHARE, LONGEST_CLEAN_UP = 0.2, 5.0
"""The last part of the time, for the clean-up of what is cancelled: its share, and at most so many seconds."""
LAST_MOMENT = 0.5
"""Seconds for what is closed last, however late it is."""
NAMED = 20
GIVE_UP_TURNS = 5
logger = logging.getLogger("asgi_jobs")


class Shutdown:
    """One stop. Its time is one for all of its steps.

    When it is cancelled (a second signal, a server that waits no longer), the draining is over; the other steps are
    done all the same, and the cancel is passed on at the end.
    """

    def __init__(self, engine: Engine, clock: Clock, timeout: timedelta) -> None:
        self._engine = engine
        self._clock = clock
        self._clean_up = min(timeout.total_seconds() * CLEAN_UP_SHARE, LONGEST_CLEAN_UP)
        self._end = clock.monotonic() + timeout.total_seconds()
        self._cuts: list[asyncio.CancelledError] = []

    async def run(self, *, drain: bool) -> None:
        """Stop.

        Args:
            drain: whether jobs are waited for at all.
        """
        engine = self._engine
        self._begin()
        with self._uncut():
            await engine.upkeep.stop_schedules()
        if drain and not self._cuts:
            with self._uncut():
                await self._drain(self._end - self._clean_up)
        if self._cuts or not drain:
            self._end = min(self._end, self._clock.monotonic() + self._clean_up)
        self._before_the_cut()
        runs = list(engine.executor.running)
        with self._uncut():
            await self._interrupt(runs)
        await self._part(runs)
        with self._uncut():
            await self._close()
        with self._uncut():
            await self._close_store()
        if self._cuts:
            raise self._cuts[0]

    @contextmanager
    def _uncut(self) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError as cut:
            self._cuts.append(cut)

    @property
    def _left(self) -> float:
        return max(self._end - self._clock.monotonic(), 0.0)

    # Its steps

    def _begin(self) -> None:
        """Jobs that wait still start."""

    def _before_the_cut(self) -> None:
        self._engine.stop_claiming()

    async def _part(self, runs: list[Run]) -> None:
        """What waits goes with the process."""
        engine = self._engine
        with self._uncut():
            await engine.dispatcher.settle()
        lost = await resolve(engine.store.abandon(LOST))
        self._name_lost(runs, lost)
        engine.told_cancelled(lost)

    async def _drain(self, until: float) -> None:
        engine = self._engine
        engine.dispatcher.pump()  # what stands in line may be paused or cancelled
        if engine.store.drained(until):
            return
        seconds = max(until - self._clock.monotonic(), 0.0)
        await self._say_what_is_waited_for(seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not engine.store.drained(until):
                    engine.moved.clear()
                    await engine.moved.wait()
                    await asyncio.sleep(0)  # the dispatcher has been woken, too

    async def _say_what_is_waited_for(self, seconds: float) -> None:
        running = [label(run.job) for run in self._engine.executor.running]
        jobs = await resolve(self._engine.store.pending())
        named = ", ".join(running[:NAMED]) or "queued"
        logger.warning("Stopping: waiting up to %.0f s for %d job(s) (%s)", seconds, jobs, named)

    async def _interrupt(self, runs: list[Run]) -> None:
        """Cancel what runs, and give up what then does not end."""
        for run in runs:
            run.ask_to_stop(Stop.SHUTDOWN)
        await self._wait_for(runs, self._left)
        for run in runs:
            run.give_up()
        await self._wait_for(runs, 0)
        for run in filter(self._runs, runs):
            _let_go(run)

    def _runs(self, run: Run) -> bool:
        return run in self._engine.executor.running

    async def _wait_for(self, runs: list[Run], seconds: float) -> None:
        tasks = [task for run in filter(self._runs, runs) if (task := run.driver or run.task) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
            for _ in range(GIVE_UP_TURNS):  # their call-backs, and what a cancel still sets in motion
                await asyncio.sleep(0)

    def _name_lost(self, runs: list[Run], waiting: Sequence[Record]) -> None:
        jobs = [f"{label(run.job)} still running: it does not stop" for run in runs if self._runs(run)]
        jobs += [f"{label(run.job)} running" for run in runs if run.interrupted and not self._runs(run)]
        lost = len(jobs) + len(waiting)
        jobs += [f"{label(self._engine.view(record))} waiting" for record in waiting[:NAMED]]
        if lost:
            more = f" and {lost - NAMED} more" if lost > NAMED else ""
            verb = "jobs were" if lost > 1 else "job was"
            logger.warning("%d %s lost at shutdown: %s%s", lost, verb, "; ".join(jobs[:NAMED]), more)

    async def _close(self) -> None:
        engine = self._engine
        if engine.watchdog is not None:
            engine.watchdog.stop()
        engine.neighbours.leave()
        engine.threads.close()
        await engine.upkeep.stop()
        await self._close_scopes()

    async def _close_store(self) -> None:
        await resolve(self._engine.store.close())

    async def _close_scopes(self) -> None:
        """Close the container that was made for this run: the application's code, which may hang or fail."""
        closing = asyncio.ensure_future(self._engine.scopes.stop())
        done, _ = await asyncio.wait((closing,), timeout=max(self._left, LAST_MOMENT))
        if not done:
            closing.cancel()
            logger.warning("The providers' container did not close in time and was given up")
        elif closing.exception() is not None:
            logger.error("The providers' container could not be closed", exc_info=closing.exception())


def _let_go(run: Run) -> None:
    """`asyncio.run` waits for every task at its end: for one that swallows its cancel, for ever."""
    task = run.driver if run.task is None or run.task.done() else run.task
    if task is not None and run.thread is None:
        asyncio._unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
