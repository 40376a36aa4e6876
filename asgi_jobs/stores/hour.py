"""The last hour of a store in memory, minute by minute: counted as jobs end, so that looking at it costs nothing."""

from __future__ import annotations

from math import inf

from asgi_jobs.stores.base import MINUTES, Minute


class Hour:
    """What has ended in each minute. The one under way is counted by whoever ends a job, here in the open.

    Attributes:
        until: monotonic time at which the minute under way is over; `turn` begins the next.
        succeeded, failed, wait: see `Minute`.
    """

    def __init__(self) -> None:
        self._past: dict[int, Minute] = {}
        self._minute = 0
        self.until = -inf
        self.succeeded = self.failed = 0
        self.wait = 0.0

    def turn(self, now: float) -> None:
        """Begin the minute of the monotonic time; forget what is older than an hour."""
        self._past[self._minute] = Minute(self.succeeded, self.failed, self.wait)
        self._minute = int(now // 60)
        self.until = 60.0 * (self._minute + 1)
        self.succeeded = self.failed = 0
        self.wait = 0.0
        self._past = {minute: kept for minute, kept in self._past.items() if minute > self._minute - MINUTES}

    def minutes(self, now: float) -> list[Minute]:
        """All of them, oldest first; the last one is under way."""
        if now >= self.until:
            self.turn(now)
        past = range(self._minute - MINUTES + 1, self._minute)
        under_way = Minute(self.succeeded, self.failed, self.wait)
        return [*(self._past.get(minute, Minute()) for minute in past), under_way]
