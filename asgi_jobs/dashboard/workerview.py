"""The processes that share a durable store, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import views, words
from asgi_jobs.dashboard.fleet import Fleet, is_here
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.views import LOOKS, Code, Link, Look, Note, Part, Parts

if TYPE_CHECKING:
    from asgi_jobs import Job, WorkerInfo

RUNNING_SHOWN = 10
START_ONE: Parts = (
    "Start one with ",
    Code("python -m asgi_jobs worker module:jobs"),
    "; a process with ",
    Code("concurrency=0"),
    " only enqueues.",
)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A process in a list."""

    id: str
    look: Look
    where: str
    here: bool
    notes: Sequence[Note]
    tasks: Sequence[Link]
    knows: str
    runs: bool
    busy: str
    started: Part
    seen: Part


def worker_row(worker: WorkerInfo, links: Links, now: datetime) -> WorkerRow:
    """A process as a row."""
    return WorkerRow(
        id=row_id(worker),
        look=LOOKS["alive" if worker.alive else "dead"],
        where=where(worker),
        here=is_here(worker),
        notes=_notes(worker, links, now),
        tasks=[Link(visible(task), links.jobs(task=task)) for task in worker.tasks],
        knows=f"Knows {words.amount(len(worker.tasks), 'task')}",
        runs=bool(worker.concurrency) and not worker.standby,
        busy=_busy(worker),
        started=words.ago(worker.started_at, now),
        seen="now" if worker.alive else words.ago(worker.seen_at, now),
    )


def _busy(worker: WorkerInfo) -> str:
    if not worker.concurrency:
        return "only enqueues"
    return "stands by" if worker.standby else f"{worker.busy:,} of {worker.concurrency:,}"


def row_id(worker: WorkerInfo) -> str:
    """The element of a process on its page."""
    return f"w-{worker.id}"


def where(worker: WorkerInfo) -> str:
    """`host:pid`."""
    return f"{shown(worker.host)}:{worker.pid}"


def worker_link(worker: WorkerInfo, links: Links) -> Link:
    """Where a process is, leading to its row."""
    return Link(where(worker), links.to("/workers", anchor=row_id(worker)))


def _notes(worker: WorkerInfo, links: Links, now: datetime) -> list[Note]:
    notes = [_running(job, links, now) for job in worker.running[:RUNNING_SHOWN]]
    more = len(worker.running) - RUNNING_SHOWN
    if more > 0:
        notes.append(Note((Link(f"and {more:,} more", links.jobs(state="running")),)))
    if worker.running and not worker.alive:
        what = "It goes back to its place" if len(worker.running) == 1 else "They go back to their places"
        notes.append(Note((f"{what} when another worker takes over.",), "warn"))
    return notes


def _running(job: Job, links: Links, now: datetime) -> Note:
    look = views.look(job, now)
    said = f", {look.word.lower()}" if job.cancelling else ""
    return Note((views.job_link(job, links), " ", views.ran(job, now), said), icon=look.icon)


def fleet_said(fleet: Fleet) -> str:
    """How many there are, and how busy."""
    running = fleet.running or fleet.able
    busy, places = sum(worker.busy for worker in running), sum(worker.concurrency for worker in running)
    said = (
        f"{words.amount(len(running), 'worker')}, {busy:,} of {places:,} places busy" if running else "No worker runs"
    )
    by, gone = len(fleet.able) - len(running), sum(not worker.alive for worker in fleet.workers)
    said += f"; {by:,} {'stands' if by == 1 else 'stand'} by" if by else ""
    return f"{said}; {gone:,} not alive" if gone else said


def processes_said(fleet: Fleet) -> str:
    """The same, with those that only enqueue."""
    only = sum(worker.alive and not worker.concurrency for worker in fleet.workers)
    if not only:
        return fleet_said(fleet)
    others = "1 process only enqueues" if only == 1 else f"{only:,} processes only enqueue"
    return f"{fleet_said(fleet)}; {others}"
