"""The last hour of a store in a database, minute by minute. What is over is counted once, not at every look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from sqlalchemy import Connection, bindparam, func, literal_column, select

from asgi_jobs.stores.base import MINUTES, Minute
from asgi_jobs.stores.sql.tables import State, jobs

FRESH = 10.0
"""Seconds for which the count of a minute under way is good enough."""
SETTLED = 15.0
"""Seconds after which nothing comes to a minute any more: no transaction takes longer to commit."""
MOST = 20_000
"""Rows counted at a time; what is left is counted at the next look."""

_first = jobs.c.attempt == 1  # a later one has waited for its back-off, too
_ended = (
    select(
        func.count(),
        func.count().filter(jobs.c.state == State.SUCCEEDED),
        func.count().filter(jobs.c.state == State.FAILED),
        func.coalesce(func.max(jobs.c.started_at - jobs.c.since_at).filter(_first), 0.0),
    )
    .where(jobs.c.state >= literal_column("4"))  # as the partial index has it: no planner looks into a parameter
    .where(jobs.c.finished_at >= bindparam("begin"), jobs.c.finished_at < bindparam("end"))
)


class Hour:
    """What has ended in each minute since 1970, as far as it was counted."""

    def __init__(self) -> None:
        self._counted: dict[int, tuple[float, Minute]] = {}

    def stale(self, now: float) -> list[int]:
        """The minutes to count, newest first."""
        this = int(now // 60)
        return [minute for minute in range(this, this - MINUTES, -1) if self._is_stale(minute, now)]

    def _is_stale(self, minute: int, now: float) -> bool:
        at, _ = self._counted.get(minute, (-inf, None))
        return at < 60 * (minute + 1) + SETTLED and not at <= now < at + FRESH

    def learn(self, counted: Mapping[int, Minute], now: float) -> None:
        """Take in what was counted; forget what is older than an hour."""
        self._counted |= {minute: (now, found) for minute, found in counted.items()}
        oldest = int(now // 60) - MINUTES
        self._counted = {minute: kept for minute, kept in self._counted.items() if minute > oldest}

    def minutes(self, now: float) -> list[Minute | None]:
        """All of them, oldest first; the last one is under way. None: not counted yet."""
        this = int(now // 60)
        return [self._counted.get(minute, (0.0, None))[1] for minute in range(this - MINUTES + 1, this + 1)]


def count(minutes: Sequence[int], connection: Connection) -> dict[int, Minute]:
    """What ended in these minutes, up to a bound of rows."""
    found: dict[int, Minute] = {}
    looked_at = 0
    for minute in minutes:
        rows, *figures = connection.execute(_ended, {"begin": 60 * minute, "end": 60 * (minute + 1)}).one()
        found[minute] = Minute(*figures)
        looked_at += rows
        if looked_at > MOST:
            break
    return found
