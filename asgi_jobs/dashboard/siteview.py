"""Queues, tasks and counts, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import views, words
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.views import LOOKS, Action, Link, Look, Note, Part, Parts, Strong
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import TaskInfo
    from asgi_jobs.stores.base import QueueInfo

LONG_WAIT = timedelta(minutes=2)
FOR_A_PLACE = "Waits for a free place"
ORDER = (
    JobState.FAILED,
    JobState.RUNNING,
    JobState.QUEUED,
    JobState.SCHEDULED,
    JobState.SUCCEEDED,
    JobState.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue in a list."""

    id: str
    name: Link
    at_once: str
    look: Look | None
    said: Parts
    notes: Sequence[Note]
    waiting: str
    oldest: Part
    oldest_css: str
    actions: Sequence[Action]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A declared task."""

    key: str
    name: Link
    module: str
    description: str = ""
    policy: str = ""
    limits: str = ""
    next: Part = ""
    schedule: str = ""
    last: Look | None = None
    last_href: str = ""
    last_said: Parts = ()
    action: Action | None = None
    needs: str = ""
    missing: Note | None = None


@dataclass(frozen=True, slots=True)
class Tab:
    """A count of jobs by state; on the job list, the tab that shows them."""

    word: str
    count: str
    href: str
    css: str
    current: bool


# Queues


def queue_row(
    queue: QueueInfo, holder: Job | None, links: Links, now: datetime, *, back: str, may_act: bool, lacks: str = "",
    waits: str = FOR_A_PLACE,
) -> QueueRow:  # fmt: skip
    """A queue as a row.

    Args:
        queue, holder: how it stands, and the job that holds its slot.
        links, now, back, may_act: the page that it is on, and who looks.
        lacks: the task of a job that waits in it and that no worker knows, or "" for no such job.
        waits: why its first job has not started, where the queue itself is free.
    """
    state, said, notes = _queue_now(queue, holder, links, now)
    if state is None and queue.queued:
        said = (waits,)
    if lacks and holder is None and queue.paused_since is None:
        state, said = LOOKS["unknown"], (Link(shown(lacks), links.jobs(task=lacks)),)
    if queue.last_error and state is not LOOKS["blocked"]:
        notes = [*notes, Note((f"Last error: {shown(queue.last_error)}",))]
    late = queue.oldest_wait is not None and queue.oldest_wait > LONG_WAIT.total_seconds()
    return QueueRow(
        id=f"q-{words.digest(queue.name)}",
        name=Link(visible(queue.name), links.jobs(queue=queue.name), "name"),
        at_once="" if queue.limit == 1 else f"{queue.limit} at once",
        look=state,
        said=said,
        notes=notes,
        waiting=f"{queue.queued:,}" if queue.queued else "",
        oldest="" if queue.oldest_wait is None else views.lasts(queue.oldest_wait, now),
        oldest_css="warn strong" if late else "",
        actions=_queue_actions(queue, links, back) if may_act else (),
    )


def _queue_now(
    queue: QueueInfo, holder: Job | None, links: Links, now: datetime
) -> tuple[Look | None, Parts, list[Note]]:
    link = (views.job_link(holder, links),) if holder else ()
    if holder is not None and holder.cancelling:
        note = views.note(holder, links, now, None, None)
        return views.look(holder, now), link, [note] if note else []
    if queue.blocked_by and queue.blocked_since is not None:
        at = f", waiting at {shown(queue.waiting_at)}" if queue.waiting_at else ""
        return (
            LOOKS["blocked"],
            ("by ", *link),
            [Note(("for ", words.since(queue.blocked_since, now), at), "warn")],
        )
    if queue.paused_since is not None:
        running = (f", {words.amount(queue.running, 'job')} still running",) if queue.running else ()
        return LOOKS["paused"], ("for ", words.since(queue.paused_since, now), *running), []
    if queue.running > 1:
        return LOOKS["running"], (words.amount(queue.running, "job"),), []
    if holder is not None:
        return views.look(holder, now), (*link, " ", *_holder_said(holder, now)), []
    return None, ("Idle",), []


def _holder_said(holder: Job, now: datetime) -> Parts:
    if holder.held and not holder.error:
        return ("runs again at its place",)
    if holder.held and holder.run_at is not None:
        return (words.ahead(holder.run_at, now), f", {views.tries(holder)}")
    said = views.progress_words(holder)
    return (views.ran(holder, now), f", {said}" if said else "")


def _queue_actions(queue: QueueInfo, links: Links, back: str) -> Sequence[Action]:
    fields = (("queue", queue.name), ("back", back))
    name = visible(queue.name)
    if queue.paused_since is None:
        first = Action("Pause", links.to("/queues/pause"), fields, css="bare", subject=name)
    else:
        first = Action("Resume", links.to("/queues/resume"), fields, subject=name)
    waiting = queue.queued + (queue.current is not None and queue.running == 0)
    if not waiting:
        return (first,)
    cancel = Action(
        "Cancel waiting…",
        links.to("/queues/cancel"),
        fields,
        key=f"q-{words.digest(queue.name)}",
        question=("Cancel ", Strong(f"{waiting:,} waiting"), f" in {name}? What runs goes on."),
        button=f"Cancel {words.amount(waiting, 'job')}",
        css="" if queue.blocked_by else "bare",
        subject=name,
    )
    return (first, cancel)


# Tasks


def task_row(info: TaskInfo, links: Links, now: datetime, *, back: str, may_act: bool, unknown: int = 0) -> TaskRow:
    """A declared task as a row. `unknown`: so many jobs wait for a worker that knows it."""
    name = shown(words.short_task(info.task))
    run = Action("Run now", links.to("/tasks/run"), (("task", info.task), ("back", back)), subject=name)
    job = info.last_job
    return TaskRow(
        key=visible(info.task),
        name=Link(name, links.jobs(task=info.task), "name"),
        module=visible(words.module_of(info.task)),
        description=shown(info.description or ""),
        policy=f"queue {visible(info.queue)}" if info.queue else "",
        limits=_limits(info),
        next=words.ahead(info.next_run, now) if info.next_run else "",
        schedule=visible(info.schedule or ""),
        last=views.look(job, now) if job else None,
        last_href=links.job(job.id) if job else "",
        last_said=_last_said(job, now) if job else ((words.ago(info.last_run, now),) if info.last_run else ()),
        action=run if may_act and not info.needs_arguments else None,
        needs="needs arguments" if info.needs_arguments else "",
        missing=_missing(unknown),
    )


def unknown_row(task: str, number: int, links: Links) -> TaskRow:
    """A task that nobody declares, of which jobs are left."""
    return TaskRow(
        key=visible(task),
        name=Link(shown(words.short_task(task)), links.jobs(task=task), "name"),
        module=visible(words.module_of(task)),
        needs="not declared here",
        missing=_missing(number),
    )


def _missing(number: int) -> Note | None:
    if not number:
        return None
    waits = f": {words.amount(number, 'job')} {'waits' if number == 1 else 'wait'}"
    return Note(
        (Strong("No worker knows it"), f"{waits}. Deploy the worker that has it, or cancel them."), "warn", "warn"
    )


def _limits(info: TaskInfo) -> str:
    said = [words.amount(info.retries + 1, "try", "tries")] if info.retries else []
    return ", ".join(said + ([f"{words.took(info.timeout)} at most"] if info.timeout else []))


def _last_said(job: Job, now: datetime) -> Parts:
    if job.state is JobState.RUNNING:
        return ("for ", views.ran(job, now))
    took = views.ran(job, now)
    return (views.when(job, now), f", took {took}" if took else "")


# The frame


def tabs(counts: dict[JobState, int] | None, links: Links, current: str | None) -> list[Tab]:
    """The strip of counts; None: nobody knows them.

    `current`: the state that the list shows, "" for all; None away from it.
    """
    if counts is None:
        return [Tab("Jobs", "?", links.jobs(), "zero", current=False)]
    made = [
        Tab(
            word=str(state).capitalize(),
            count=f"{counts[state]:,}",
            href=links.jobs(state=str(state)),
            css="zero" if not counts[state] else "alarm" if state is JobState.FAILED else "",
            current=current == state,
        )
        for state in ORDER
    ]
    if current is None:
        return made
    return [Tab("All", f"{sum(counts.values()):,}", links.jobs(), "", current == ""), *made]
