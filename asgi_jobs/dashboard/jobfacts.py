"""What is written beside a job: where it belongs, who runs it, how often it may be tried."""

from __future__ import annotations

from asgi_jobs.dashboard import views, words, workerview
from asgi_jobs.dashboard.fleet import is_here
from asgi_jobs.dashboard.jobactions import LIVES
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.views import Code, Link, Parts
from asgi_jobs.dashboard.why import Around
from asgi_jobs.job import Job, JobState

Facts = list[tuple[str, Parts]]


def facts_of(job: Job, around: Around, links: Links) -> Facts:
    """Terms and what is to be said to them."""
    return [
        *_relatives(job, around, links),
        ("Task", (Link(shown(job.task), links.jobs(task=job.task)),)),
        *_queue(job, around, links),
        *_process(job, around, links),
        *_limits(job),
        *([("Kept for", (f"{around.retention} after its end",))] if job.finished_at is not None else ()),
        ("Id", (Code(visible(job.id)),)),
    ]


def _relatives(job: Job, around: Around, links: Links) -> Facts:
    facts: Facts = []
    if around.alike:
        others = words.amount(around.alike, "other job")
        facts.append(("Same error", (Link(others, links.jobs(state="failed", task=job.task)),)))
    if job.retry_of:
        facts.append(("Runs again", (Link(job.retry_of, links.job(job.retry_of)),)))
    return facts


def _queue(job: Job, around: Around, links: Links) -> Facts:
    queue = views.queue_link(job.queue, links)
    if queue is None:
        return [("Queue", ("none: it stands alone",))]
    limit = around.queue.limit if around.queue else 1
    facts: Facts = [("Queue", (queue, ", one at a time" if limit == 1 else f", {limit} at once"))]
    if around.place is not None and around.queue is not None:
        behind = around.queue.queued - around.place.position
        if behind > 0 and around.place.position <= views.COUNTED:
            facts.append(("Behind it", (words.amount(behind, "job"),)))
    return facts


def _process(job: Job, around: Around, links: Links) -> Facts:
    facts: Facts = []
    if around.worker is not None:
        here = ", this process" if is_here(around.worker) else ""
        runs = "Runs in" if job.state is JobState.RUNNING else "Last ran in"
        facts.append((runs, (workerview.worker_link(around.worker, links), here)))
    if job.deaths:
        left = "" if job.state.finished else f"; after {words.times(LIVES)} it is failed"
        facts.append(("Deaths", (f"its process died {words.times(job.deaths)} while it ran{left}",)))
    return facts


def _limits(job: Job) -> Facts:
    facts: Facts = []
    if job.timeout is not None or job.state is JobState.RUNNING:
        facts.append(("Time limit", (words.took(job.timeout) if job.timeout else "none",)))
    if job.retries or job.attempt > 1:
        facts.append(("Tries", (f"{max(job.attempt, 0)} of {job.retries + 1}",)))
    return facts
