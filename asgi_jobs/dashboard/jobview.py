"""The page of one job: what holds it up or up what, where it is, why it failed, what came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import traces, views, words, workerview
from asgi_jobs.dashboard.fleet import is_here
from asgi_jobs.dashboard.jobactions import actions_on
from asgi_jobs.dashboard.jobfacts import facts_of
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.pulse import not_stopping
from asgi_jobs.dashboard.timeline import Step, timeline
from asgi_jobs.dashboard.views import Action, Code, Look, Note, Parts, Strong
from asgi_jobs.dashboard.why import Around, Why, why
from asgi_jobs.dashboard.words import Moment
from asgi_jobs.job import Job, JobError, JobState

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class FrameView:
    """A line of code, and where it stands."""

    at: str
    function: str
    code: str


@dataclass(frozen=True, slots=True)
class StackView:
    """Where a running job is now."""

    heading: str
    as_of: Moment
    own: Sequence[FrameView]
    others: Sequence[FrameView]


@dataclass(frozen=True, slots=True)
class ErrorView:
    """Why a job failed, or why its last attempt did."""

    type: str
    message: str
    frames: Sequence[FrameView]
    count: int
    traceback: str


@dataclass(frozen=True, slots=True)
class ProgressView:
    """How far it is, by its own account."""

    done: str
    total: str
    text: str
    value: float
    most: float
    note: Parts


@dataclass(frozen=True, slots=True)
class JobView:
    """Everything that a job's page shows."""

    id: str
    name: str
    look: Look
    since: Parts
    actions: Sequence[Action]
    notice: Note | None
    why: Why | None
    stack: StackView | None
    progress: ProgressView | None
    error: ErrorView | None
    log: Sequence[tuple[Moment, str]]
    log_note: str
    steps: Sequence[Step]
    facts: Sequence[tuple[str, Parts]]
    silent: str


def job_view(job: Job, around: Around, links: Links, now: datetime, *, may_act: bool) -> JobView:
    """A job, made ready for its page."""
    lines = job.log
    return JobView(
        id=job.id,
        name=shown(job.name) or "(no name)",
        look=views.look(job, now),
        since=_since(job, now),
        actions=actions_on(job, around, links, now) if may_act else (),
        notice=_notice(job, around, links, now),
        why=why(job, around, links, now),
        stack=_stack(job, now),
        progress=_progress(job, now),
        error=_error(job.error) if job.error else None,
        log=[(words.clock(line.at, now), shown(line)) for line in lines],
        log_note=_log_note(job, len(lines)),
        steps=timeline(job, links, now),
        facts=facts_of(job, around, links),
        silent=_silent(job, around),
    )


def _silent(job: Job, around: Around) -> str:
    """Where a job runs that nothing else is known of yet."""
    elsewhere = around.worker is not None and not is_here(around.worker)
    if job.state is not JobState.RUNNING or not elsewhere:
        return ""
    return f"It runs in another process: where it waits is shown here when it has run for {around.stuck_after}."


def _since(job: Job, now: datetime) -> Parts:
    if not_stopping(job, now):
        return ()
    if job.cancelling and job.cancel_requested_at is not None:
        return ("for ", words.since(job.cancel_requested_at, now))
    if job.state is JobState.QUEUED:
        return ("for ", words.since(views.due(job), now))
    return (views.ran(job, now) if job.state is JobState.RUNNING else views.when(job, now),)


def _notice(job: Job, around: Around, links: Links, now: datetime) -> Note | None:
    queue = views.queue_link(job.queue, links)
    if not_stopping(job, now) and job.cancel_requested_at is not None:
        until = ", or until it is released." if around.durable else "."
        held: Parts = (" Queue ", queue, f" stays held until then{until}") if queue else ()
        asked = Strong(f"Asked to stop {words.lasting(now - job.cancel_requested_at)} ago; its code has not ended.")
        how = (
            " It ends when its code lets it: a thread cannot be stopped from outside, it has to look at ",
            Code("current_job().cancelled"),
            "; async code may have swallowed the cancellation.",
        )
        return Note((asked, *how, *held), "warn", "cancelling")
    if job.state is JobState.RUNNING and around.worker is not None and not around.worker.alive:
        gone = f" {workerview.where(around.worker)} is not alive any more. "
        then = "The job goes back to its place when another worker takes it over, some 20 s after it was last seen."
        return Note((Strong("Its process died."), gone, then), "warn", "warn")
    if job.waiting_for_session:
        said = "All sessions that jobs may have are open; its time limit has not begun."
        return Note((Strong("It waits for a session."), f" {said} See ", Code("max_sessions"), "."), "info", "info")
    if around.blocks is None or queue is None:
        return None
    waiting = words.amount(around.blocks.queued, "job waits", "jobs wait")
    parts: Parts = (Strong("It blocks queue "), queue, Strong("."), f" {waiting} behind it")
    if around.blocks.oldest_wait is not None:
        parts = (*parts, ", the oldest for ", views.lasts(around.blocks.oldest_wait, now))
    return Note((*parts, "."), "warn", "blocked")


def _stack(job: Job, now: datetime) -> StackView | None:
    frames, at = views.frames_of(job)
    if job.state is not JobState.RUNNING or not frames:
        return None
    shown_frames = [
        (frame.own, FrameView(views.place_in_code(frame), visible(frame.function), shown(frame.code)))
        for frame in frames
    ]
    own = [view for mine, view in shown_frames if mine]
    others = [view for mine, view in shown_frames if not mine]
    heading = "Where it is now" if at is None else "Where it was last seen"
    return StackView(heading, words.clock(at or now, now), own or others, others if own else ())


def _progress(job: Job, now: datetime) -> ProgressView | None:
    progress = job.progress
    if progress is None:
        return None
    known = progress.total is not None and progress.total > 0
    still: Parts = ()
    if job.state is JobState.RUNNING and (now - progress.at).total_seconds() >= 10:
        still = ("no progress for ", words.since(progress.at, now))
    return ProgressView(
        done=words.figure(progress.done),
        total=words.figure(progress.total) if known and progress.total is not None else "",
        text=shown(progress.text or ""),
        value=progress.done,
        most=progress.total if known and progress.total is not None else 0,
        note=still,
    )


def _error(error: JobError) -> ErrorView:
    frames = [
        FrameView(visible(frame.at), visible(frame.function), shown(frame.code))
        for frame in traces.own_frames(error.traceback)
    ]
    count = traces.count_frames(error.traceback)
    return ErrorView(shown(error.type), shown(error.message), frames[:10], count, shown(error.traceback))


def _log_note(job: Job, kept: int) -> str:
    tries = ", all tries" if job.attempt > 1 else ""
    if job.log_count > kept:
        return f"last {kept:,} of {words.amount(job.log_count, 'line')}{tries}"
    return words.amount(kept, "line") + tries
