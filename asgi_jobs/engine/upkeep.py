"""What happens by itself while time passes: delayed jobs become due, schedules tick, records go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import StoreError

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import Store, Ticket
    from asgi_jobs.task import Task

PULSE = 5.0
"""Seconds between looks at what nobody tells us: a wall clock that was set, other processes."""
PRUNE_STEP = 1_000
PAUSE_WHILE_AWAY = 1.0
logger = logging.getLogger("asgi_jobs")


class Alarm:
    """A sleep that can be cut short."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sleeper: asyncio.Future[None] | None = None
        self._rung = False

    async def sleep(self, seconds: float | None) -> None:
        """Sleep so long, or until `ring`; None: until `ring`."""
        if self._rung:
            self._rung = False
            return
        self._sleeper = sleeper = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(max(seconds, 0), self._wake, sleeper) if seconds is not None else None
        try:
            await sleeper
        finally:
            self._sleeper = None
            self._rung = False
            if timer is not None:
                timer.cancel()

    def ring(self) -> None:
        """Wake the sleeper, or the next one at once."""
        self._rung = True
        if self._sleeper is not None:
            self._wake(self._sleeper)

    def _wake(self, sleeper: asyncio.Future[None]) -> None:
        if not sleeper.done():
            sleeper.set_result(None)


@dataclass(slots=True)
class Ticking:
    """A scheduled task, and when it ticks next."""

    task: Task[Any, Any]
    next: datetime


class Upkeep:
    """Background chores, each a task of its own; one that fails is logged and goes on."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        tasks: Callable[[], Iterable[Task[Any, Any]]],
        make: Callable[[Task[Any, Any]], Record],
        wake: Callable[[], None],
        pulse: Callable[[], None],
        time: Callable[[], float],
        further: Sequence[Callable[[], Awaitable[float | None]]] = (),
        retention: timedelta,
        cleanup_interval: timedelta,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._make = make
        self._wake = wake
        self._pulse = pulse
        self._time = time
        self._further = further
        self._retention = retention
        self._cleanup_interval = cleanup_interval
        self._due = Alarm(clock)
        self._tick = Alarm(clock)
        self._started: datetime | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._ticker: asyncio.Task[None] | None = None
        self.ticking: dict[str, Ticking] = {}

    def start(self, *, schedules: bool) -> None:
        """Begin."""
        self._started = self._started or self._now()
        chores: list[Callable[[], Awaitable[float | None]]] = [self._promote, self._clean, self._look, *self._further]
        alarms = [self._due, *(Alarm(self._clock) for _ in chores[1:])]
        self._chores = [asyncio.create_task(self._repeat(*pair)) for pair in zip(chores, alarms, strict=True)]
        if schedules:
            self._ticker = asyncio.create_task(self._repeat(self._propose, self._tick))

    async def stop_schedules(self) -> None:
        """Propose nothing any more."""
        if self._ticker is not None:
            await _end(self._ticker)
            self._ticker = None

    async def stop(self) -> None:
        """End every chore."""
        await self.stop_schedules()
        chores, self._chores = self._chores, []
        for chore in chores:
            await _end(chore)

    def expect(self) -> None:
        """A job was delayed: look again when the next one is due."""
        self._due.ring()

    def next_run(self, task: Task[Any, Any], ticket: Ticket) -> datetime | None:
        """When a schedule ticks next: here, or where schedules are proposed."""
        ticking = self.ticking.get(task.key)
        if ticking is not None:
            return ticking.next
        schedule = task.policy.schedule
        if schedule is None or not self._store.durable or self._started is None:
            return None
        return schedule.next_tick(_date(ticket.last), _date(ticket.since) or self._started)

    def declared(self) -> None:
        """A task was declared while the engine runs: it may have a schedule."""
        self._tick.ring()

    async def _repeat(self, chore: Callable[[], Awaitable[float | None]], alarm: Alarm) -> None:
        """Do a chore for ever; it says how long to sleep before the next time."""
        while True:
            try:
                seconds = await chore()
            except StoreError:  # which the store has logged
                seconds = PAUSE_WHILE_AWAY
            except Exception:
                logger.exception("A chore of the engine failed; it is tried again in %.0f s", PULSE)
                seconds = PULSE
            await alarm.sleep(seconds)

    async def _promote(self) -> float | None:
        """Give delayed jobs whose time has come their place."""
        due = await resolve(self._store.due())
        self._wake()
        wait = None if due is None else max(due - self._clock.monotonic(), 0.0)
        if self._store.durable:  # others may have enqueued what is due
            return PULSE if wait is None else min(wait, PULSE)
        return wait

    async def _clean(self) -> float | None:
        """Let finished records go, a bounded step at a time."""
        keep = self._retention.total_seconds()
        while await resolve(self._store.prune(keep, PRUNE_STEP)) == PRUNE_STEP:  # noqa: ASYNC110 - others get their turn
            await asyncio.sleep(0)
        return self._cleanup_interval.total_seconds()

    async def _look(self) -> float | None:
        self._pulse()
        return PULSE

    async def _propose(self) -> float | None:
        """Enqueue the runs of schedules that have ticked; of several missed ticks one."""
        for task in self._tasks():
            if task.policy.schedule is not None:
                await self._propose_one(task)
        now = self._now()
        waits = [(ticking.next - now).total_seconds() for ticking in self.ticking.values()]
        # A wall clock may be set: never sleep so long that it would not be noticed.
        return min([max(wait, 0.0) for wait in waits] + [PULSE]) if waits else None

    async def _propose_one(self, task: Task[Any, Any]) -> None:
        schedule = task.policy.schedule
        assert schedule is not None
        assert self._started is not None
        ticket = await resolve(self._store.ticket(task.key))
        last = _date(ticket.last)
        since = _date(ticket.since) or self._started
        now = self._now()
        due = schedule.latest_due(last, now, since)
        if due is not None:
            try:
                if await resolve(self._store.propose(self._make(task), due.timestamp())):
                    self._wake()
            except StoreError:
                raise
            except Exception:
                logger.exception("The run of %s that was due at %s could not be enqueued", task.key, due)
            last = due
        self.ticking[task.key] = Ticking(task, schedule.next_tick(last, since))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._time(), UTC)


def _date(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
