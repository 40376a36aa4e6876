"""What users need to test their jobs: a clock that moves only when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any

from asgi_jobs.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeTimer:
    """A timer of the fake clock."""

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.function: Callable[..., object] | None = function
        self.args = args

    def cancel(self) -> None:
        """Call it off."""
        self.function = None


class FakeClock(Clock):
    """Time that stands still until `advance`: delays, time limits, schedules and clean-up without waiting.

    `jobs = Jobs(clock=FakeClock())`, then `await clock.advance(timedelta(hours=1))`.
    """

    def __init__(self, start: datetime = START) -> None:
        self._elapsed = 1_000.0
        self._wall = start.timestamp() - self._elapsed
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = count()
        self.monotonic = lambda: self._elapsed
        self.time = lambda: self._wall + self._elapsed

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> FakeTimer:
        """Call the function when the clock has been advanced so far."""
        timer = FakeTimer(function, args)
        heappush(self._timers, (self._elapsed + seconds, next(self._order), timer))
        return timer

    async def advance(self, by: timedelta) -> None:
        """Let time pass: every timer on the way goes off at its time, and what it woke gets its turn.

        What is ready before happens before, at the old time.
        """
        await settle()
        end = self._elapsed + by.total_seconds()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heappop(self._timers)
            self._elapsed = max(self._elapsed, due)
            if timer.function is not None:
                timer.function(*timer.args)
                await settle()
        self._elapsed = end
        await settle()

    def set_wall(self, to: datetime) -> None:
        """Set the wall clock, as an operator or NTP does; monotonic time does not notice."""
        self._wall = to.timestamp() - self._elapsed


async def settle(turns: int = 20) -> None:
    """Give the event loop a few turns, so that what is ready happens."""
    for _ in range(turns):
        await asyncio.sleep(0)
