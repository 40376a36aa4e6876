"""The buttons of a job, and the questions before what cannot be undone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import words
from asgi_jobs.dashboard.fleet import is_here
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown
from asgi_jobs.dashboard.pulse import not_stopping
from asgi_jobs.dashboard.views import Action, Strong
from asgi_jobs.dashboard.why import Around
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs.stores.base import QueueInfo

LIVES = 3
"""So often the process of a job may die; then it is failed."""
RISK = " Code of it that still runs goes on meanwhile, beside what comes next; only its outcome is refused."


def actions_on(job: Job, around: Around, links: Links, now: datetime) -> Sequence[Action]:
    """What can be done to a job now."""
    if job.state.finished and not job.repeatable:
        return ()
    if job.state.finished:
        return (Action("Run again", links.job(job.id, "retry"), css="pri", icon="retry"),)
    cancel = () if job.cancelling else (cancel_action(job, links, around.blocks),)
    if not around.durable or job.state is not JobState.RUNNING:
        return cancel
    # A healthy job of our own is only to be cancelled: to take it away would gain nothing.
    ours = around.worker is not None and is_here(around.worker)
    return cancel if ours and not not_stopping(job, now) else (release_action(job, links), *cancel)


def release_action(job: Job, links: Links, back: str = "") -> Action:
    """The button that gives up a running job of a durable store, and what is to be known before."""
    if job.cancelling:
        then = " It ends as cancelled, and its queue goes on."
    elif job.deaths + 1 >= LIVES:
        then = f" It has been given up or lost {words.times(job.deaths)} before, so it ends as failed."
    else:
        then = " It goes back to its place and runs again."
    return Action(
        "Release…",
        links.job(job.id, "release"),
        fields=(("back", back),) if back else (),
        key=f"release-{job.id}",
        question=("Give up ", Strong(shown(job.name)), f" as if its process had died?{then}", RISK),
        button="Release job",
        css="" if job.cancelling else "bare",
        subject=shown(job.name),
    )


def cancel_action(job: Job, links: Links, blocks: QueueInfo | None = None, back: str = "") -> Action:
    """The button that cancels a job, and the question before it."""
    if job.state is JobState.RUNNING:
        says = "? It is asked to stop."
        if blocks is not None and blocks.queued:
            says += f" The {words.amount(blocks.queued, 'job')} behind it go on when its code has ended."
    else:
        says = "? It is between two attempts." if job.held else "? It has not started."
    return Action(
        "Cancel job…",
        links.job(job.id, "cancel"),
        fields=(("back", back),) if back else (),
        key=f"cancel-{job.id}",
        question=("Cancel ", Strong(shown(job.name)), says),
        button="Cancel job",
        subject=shown(job.name),
    )
