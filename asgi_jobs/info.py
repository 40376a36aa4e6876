"""What `Jobs` tells of tasks, places and its own health."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from asgi_jobs.job import Job


class Place(NamedTuple):
    """Where a queued job stands: 1 is the next; behind whom."""

    position: int
    behind: Job | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """A declared task, and how its schedule stands.

    Attributes:
        task: its key.
        description: the first line of its docstring.
        queue: where its jobs go.
        schedule: in words; None when it has none.
        next_run, last_run: of its schedule.
        last_job: the last scheduled run, while its record is kept.
        skipped: ticks left out because the run before had not ended.
        needs_arguments: only code can enqueue it.
        retries, timeout: its policy.
    """

    task: str
    description: str
    queue: str | None
    schedule: str | None
    next_run: datetime | None
    last_run: datetime | None
    last_job: Job | None
    skipped: int
    needs_arguments: bool
    retries: int
    timeout: timedelta | None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine can do its work, for the application's own probe.

    A blocked queue is a reason that leaves `ok` True: a probe that restarts the process would lose jobs in memory.
    """

    ok: bool
    reasons: list[str]
