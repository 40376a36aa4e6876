"""What `Jobs` tells of tasks, places and its own health."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from asgi_jobs.job import Job, view_of

if TYPE_CHECKING:
    from asgi_jobs.job import Engine
    from asgi_jobs.stores.base import Worker


class Place(NamedTuple):
    """Where a queued job stands: 1 is the next, 1,001 all that is further behind than 1,000; behind whom."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A process that has the durable store open.

    Attributes:
        id: new at every start.
        host, pid: where it is.
        started_at: when it opened the store.
        seen_at: when it was last known to be alive.
        alive: whether it is known to live now.
        standby: it would run jobs, but another process does: of a SQLite store one at a time.
        concurrency: how many jobs it runs at once; 0: it only enqueues and shows.
        tasks: the keys of the tasks that it declares; only those does it run.
        busy: how many jobs it runs.
        running: those jobs, where they were asked for.
    """

    id: int
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    alive: bool
    standby: bool
    concurrency: int
    tasks: tuple[str, ...]
    busy: int
    running: list[Job]


def worker_info(worker: Worker, engine: Engine) -> WorkerInfo:
    """What people are told of a store's worker."""
    return WorkerInfo(
        id=worker.id,
        host=worker.host,
        pid=worker.pid,
        started_at=datetime.fromtimestamp(worker.started, UTC),
        seen_at=datetime.fromtimestamp(worker.seen, UTC),
        alive=worker.alive,
        standby=worker.standby,
        concurrency=worker.concurrency,
        tasks=worker.tasks,
        busy=worker.busy,
        running=[view_of(record, engine) for record in worker.running],
    )


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine can do its work, for the application's own probe.

    A blocked queue is a reason that leaves `ok` True: a probe that restarts the process would lose jobs in memory.
    """

    ok: bool
    reasons: list[str]
