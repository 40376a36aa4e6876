"""Why a job has not started: its delay, its place in line, who is before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import views, words
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown
from asgi_jobs.dashboard.views import Code, Link, Look, Note, Part, Parts, Strong
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs.info import Place, WorkerInfo
    from asgi_jobs.stores.base import QueueInfo

AGAIN = "What it waits for"


@dataclass(frozen=True, slots=True)
class Around:
    """What a job's page needs besides the job.

    Attributes:
        queue, blocks: its queue; the queue that it blocks.
        place, holder: where it stands in its queue, and who has the slot.
        alike: how many other jobs failed alike.
        retention: how long finished jobs are kept.
        durable: whether jobs outlive their process, so that others may run them.
        nobody: why no job starts, whichever it is; "" where somebody runs jobs: this process, or with a durable store
            any.
        worker: the process that runs it, or ran it last.
        known: whether a living worker knows its task.
        stuck_after: how long a job runs before its process tells the others where it waits.
    """

    queue: QueueInfo | None = None
    blocks: QueueInfo | None = None
    place: Place | None = None
    holder: Job | None = None
    alike: int = 0
    retention: str = ""
    durable: bool = False
    nobody: str = ""
    worker: WorkerInfo | None = None
    known: bool = True
    stuck_after: str = ""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A job before this one."""

    look: Look
    job: Link
    said: Part
    note: Note | None


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job has not started, or does not go on."""

    parts: Parts
    ahead: Sequence[Ahead]
    heading: str = "Why it has not started"


def why(job: Job, around: Around, links: Links, now: datetime) -> Why | None:
    """The reason, in words; None for a job that has started or ended."""
    if job.state in {JobState.QUEUED, JobState.SCHEDULED} and not around.known:
        return _why_unknown(job, around)
    if job.state is JobState.SCHEDULED and job.run_at is not None:
        if job.held:
            begins = (f"Its {views.tries(job)} begins ", words.ahead(job.run_at, now), "; it keeps its place.")
            return Why(begins, (), AGAIN)
        return Why(("It was enqueued with a delay and is due ", words.ahead(job.run_at, now), "."), ())
    if job.state is not JobState.QUEUED:
        return None
    if around.nobody:
        return Why((Strong(around.nobody), ", so no job starts."), ())
    if job.held:
        return _why_held(job, around, now)
    if around.queue is None:
        return Why(("It waits for a free place: as many jobs run as may run at once.",), ())
    return _why_in_queue(around.queue, around, links, now)


def _why_held(job: Job, around: Around, now: datetime) -> Why:
    again = f"Its {views.tries(job)} is due" if job.error else "It was interrupted and runs again"
    place = ", before all others of its queue." if around.queue else ", as soon as a place is free."
    return Why((*_paused(around.queue, now), again, place), (), AGAIN)


def _why_unknown(job: Job, around: Around) -> Why:
    kept = " It keeps its place, and those behind it in the queue wait." if around.queue else " It is not lost."
    remedy = " Declare the task, deploy the worker that has it, or cancel the job."
    return Why((Strong("No worker knows "), Code(shown(job.task)), Strong("."), kept, remedy), ())


def _why_in_queue(queue: QueueInfo, around: Around, links: Links, now: datetime) -> Why:
    link = views.queue_link(queue.name, links)
    assert link is not None
    at_once = "one at a time" if queue.limit == 1 else f"{queue.limit} at once"
    parts: Parts = ("Jobs of queue ", link, f" run {at_once}, in order.")
    if around.place is not None:
        parts = (*parts, *_place(around.place))
    return Why((*_paused(queue, now), *parts), _ahead(queue, around, links, now))


def _paused(queue: QueueInfo | None, now: datetime) -> Parts:
    if queue is None or queue.paused_since is None:
        return ()
    return (Strong("The queue has been paused for "), words.since(queue.paused_since, now), ". ")


def _place(place: Place) -> Parts:
    if place.position > views.COUNTED:
        return (Strong(f" More than {views.COUNTED:,} jobs"), " are before it.")
    return (" It is ", Strong("the next" if place.position == 1 else words.ordinal(place.position)), ".")


def _ahead(queue: QueueInfo, around: Around, links: Links, now: datetime) -> list[Ahead]:
    rows = []
    holder, behind = around.holder, around.place.behind if around.place else None
    if holder is not None:
        note = None
        if queue.blocked_by == holder.id and queue.blocked_since is not None:
            at = f", waiting at {shown(queue.waiting_at)}" if queue.waiting_at else ""
            note = Note(("Has blocked the queue for ", words.since(queue.blocked_since, now), at), "warn")
        rows.append(Ahead(views.look(holder, now), views.job_link(holder, links, "name"), views.ran(holder, now), note))
    if behind is not None and (holder is None or behind.id != holder.id):
        rows.append(Ahead(views.look(behind, now), views.job_link(behind, links, "name"), "just ahead of it", None))
    return rows
