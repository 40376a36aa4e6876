"""What happened to a job, in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest

from asgi_jobs.dashboard import words
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown
from asgi_jobs.dashboard.views import Link, Parts, tries
from asgi_jobs.dashboard.words import Moment
from asgi_jobs.errors import ProcessDied
from asgi_jobs.job import Attempt, Job, JobState

DIED = f"{ProcessDied.__module__}.{ProcessDied.__qualname__}"
SOURCES = {"code": "Enqueued by code", "manual": "Enqueued by hand", "schedule": "Enqueued by its schedule"}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, and when."""

    icon: str
    css: str
    text: str
    at: Moment
    note: Parts = ()


def timeline(job: Job, links: Links, now: datetime) -> list[Step]:
    """The steps of a job, first to last."""
    steps = [_enqueued(job, links, now)]
    missing = _ended(job) - sum(map(_counts, _tries(job)))
    if missing > 0:
        said = words.amount(missing, "earlier try", "earlier tries")
        steps.append(Step("idle", "", f"{said} not kept", words.clock(job.enqueued_at, now)))
    steps += _attempts(job, now)
    steps += _under_way(job, now)
    if job.cancel_requested_at is not None:
        steps.append(_asked(job, now))
    if job.state.finished and not job.attempts:
        steps.append(_end_without_start(job, now))
    return sorted(steps, key=lambda step: step.at.iso)


def _tries(job: Job) -> list[Attempt]:
    """The ended attempts but for the one that ended the job."""
    return job.attempts[:-1] if job.state.finished else job.attempts


def _attempts(job: Job, now: datetime) -> list[Step]:
    tries = _tries(job)
    number = max(_ended(job) - sum(map(_counts, tries)), 0)
    starts = [attempt.started_at for attempt in job.attempts[1:]]
    steps = []
    for attempt, following in zip_longest(tries, starts[: len(tries)]):
        number += _counts(attempt)
        steps.append(_tried(number, attempt, following, now))
    return [*steps, _final(job, job.attempts[-1], now)] if job.state.finished and job.attempts else steps


def _counts(attempt: Attempt) -> bool:
    """Whether it was a try of its own: not one that a stop or the death of its process cut off."""
    return attempt.error is not None and not _died(attempt)


def _died(attempt: Attempt) -> bool:
    return attempt.error is not None and attempt.error.type == DIED


def _ended(job: Job) -> int:
    """How many tries have ended, the one that ended the job not counted."""
    under_way = job.state is JobState.RUNNING or (job.state.finished and bool(job.attempts))
    return max(job.attempt - under_way, 0)


def _enqueued(job: Job, links: Links, now: datetime) -> Step:
    note: Parts = ()
    if job.retry_of:
        note = ("runs ", Link("an earlier job", links.job(job.retry_of)), " again")
    elif job.run_at is not None and job.attempt == 0 and not job.held:
        note = ("due ", words.clock(job.run_at, now))
    return Step("queued", "", SOURCES.get(job.source, "Enqueued"), words.clock(job.enqueued_at, now), note)


def _tried(number: int, attempt: Attempt, following: datetime | None, now: datetime) -> Step:
    took = words.took(attempt.finished_at - attempt.started_at)
    at = words.clock(attempt.finished_at, now)
    if attempt.error is None:
        return Step("idle", "", "Interrupted, back to its place", at, (f"after {took}; it does not count as a try",))
    if _died(attempt):
        return Step("warn", "warn", "Its process died", at, (f"after {took}; back to its place, not counted as a try",))
    name = shown(words.short_type(attempt.error.type))
    later = f", next try {words.took(following - attempt.finished_at)} later" if following else ""
    return Step("failed", "bad", f"{words.ordinal(number)} try failed", at, (f"after {took}: {name}{later}",))


def _final(job: Job, attempt: Attempt, now: datetime) -> Step:
    took = words.took(attempt.finished_at - attempt.started_at)
    at = words.clock(attempt.finished_at, now)
    if _died(attempt):
        said = f"after {took}, the {words.ordinal(job.deaths)} time: it is not run again"
        return Step("failed", "bad", "Its process died", at, (said,))
    which = f"{words.ordinal(job.attempt)} try " if job.retries or job.attempt > 1 else ""
    if job.state is JobState.FAILED:
        error = f": {shown(words.short_type(attempt.error.type))}" if attempt.error else ""
        left = ", no tries left" if job.retries else ""
        return Step("failed", "bad", f"{which}failed".capitalize(), at, (f"after {took}{error}{left}",))
    return Step(str(job.state), "", f"{which}{job.state}".capitalize(), at, (f"after {took}",))


def _under_way(job: Job, now: datetime) -> list[Step]:
    if job.state is JobState.RUNNING and job.started_at is not None:
        at = words.clock(job.started_at, now)
        if job.attempt > 1:
            return [Step("running", "", f"{words.ordinal(job.attempt)} try started", at)]
        if job.attempts:
            return [Step("running", "", "Started again", at)]
        due = max(job.enqueued_at, job.run_at) if job.run_at else job.enqueued_at
        return [Step("running", "", f"Started after {words.took(job.started_at - due)}", at)]
    if job.held and job.run_at is not None and not job.state.finished:
        text = tries(job).capitalize() if job.error else "To run again at its place"
        return [Step("scheduled", "", text, words.clock(job.run_at, now))]
    return []


def _asked(job: Job, now: datetime) -> Step:
    assert job.cancel_requested_at is not None
    css = "warn" if job.cancelling else ""
    note: Parts = (shown(job.cancel_reason),) if job.cancel_reason else ()
    return Step("cancelling", css, "Asked to stop", words.clock(job.cancel_requested_at, now), note)


def _end_without_start(job: Job, now: datetime) -> Step:
    at = words.clock(job.finished_at or now, now)
    return Step(str(job.state), "bad" if job.state is JobState.FAILED else "", str(job.state).capitalize(), at)
