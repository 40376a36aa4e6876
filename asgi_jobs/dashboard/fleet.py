"""The processes that share a durable store, and the tasks that none of them knows; in memory there is neither."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asgi_jobs import Jobs, WorkerInfo
    from asgi_jobs.job import Job


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who has the store open.

    Attributes:
        workers: every process, those that run jobs first.
        unknown: tasks that no living worker knows, and how many unfinished jobs they have; nothing while no worker
            lives at all, for then it is not the tasks that are missing.
    """

    workers: Sequence[WorkerInfo] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)

    @property
    def able(self) -> list[WorkerInfo]:
        """The living ones that run jobs, or would."""
        return [worker for worker in self.workers if worker.alive and worker.concurrency]

    @property
    def running(self) -> list[WorkerInfo]:
        """Those of them that do: SQLite's jobs are run by one process at a time, the others stand by."""
        return [worker for worker in self.able if not worker.standby]

    @property
    def facts(self) -> tuple[object, ...]:
        """What a page shows of it, but for what only the clock changes: when the living were last seen."""
        workers = [(one.id, one.alive, one.standby, one.concurrency, one.busy, one.tasks) for one in self.workers]
        return workers, self.unknown

    def of(self, job: Job) -> WorkerInfo | None:
        """The process that runs a job, or ran it last, while it is known."""
        return next((worker for worker in self.workers if worker.id == job.worker), None)


async def fleet_of(jobs: Jobs) -> Fleet:
    """Look who is there."""
    if not jobs.durable:
        return Fleet()
    fleet = Fleet(in_order(await jobs.workers(running=False)))
    return replace(fleet, unknown=dict(sorted((await jobs.unknown_tasks()).items()))) if fleet.able else fleet


def nobody_runs(jobs: Jobs, fleet: Fleet) -> str:
    """Why no job starts, whichever it is; "" where jobs do."""
    if jobs.durable:
        return "" if fleet.able else "No worker runs"
    return "The engine is not running" if jobs.status in {"stopped", "new"} else ""


def in_order(workers: Sequence[WorkerInfo]) -> list[WorkerInfo]:
    """Those that run jobs first, those that are gone last."""
    return sorted(workers, key=lambda one: (not one.alive, not one.concurrency, one.standby, one.id))


def is_here(worker: WorkerInfo) -> bool:
    """Whether this very process is meant."""
    return worker.pid == os.getpid() and worker.host == socket.gethostname()
