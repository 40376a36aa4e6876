"""What the templates show: jobs and queues, turned into words. No template decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from markupsafe import escape

from asgi_jobs.dashboard import words
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.pulse import not_stopping
from asgi_jobs.dashboard.words import Moment
from asgi_jobs.job import Job, JobError, JobState

if TYPE_CHECKING:
    from asgi_jobs.frames import Frame
    from asgi_jobs.info import Place
    from asgi_jobs.stores.base import QueueInfo

COUNTED = 1_000
"""A place further behind than this is not counted out: see `Place`."""


@dataclass(frozen=True, slots=True)
class Link:
    """Words that lead somewhere."""

    text: str
    href: str
    css: str = "q"

    def __html__(self) -> str:
        return f'<a class="{self.css}" href="{escape(self.href)}"><bdi>{escape(self.text)}</bdi></a>'


@dataclass(frozen=True, slots=True)
class Code:
    """Words of a program."""

    code: str

    def __html__(self) -> str:
        return f"<code>{escape(self.code)}</code>"


@dataclass(frozen=True, slots=True)
class Strong:
    """Words that count."""

    strong: str | Moment
    css: str = ""

    def __html__(self) -> str:
        return f'<b class="{self.css}">{escape(self.strong)}</b>' if self.css else f"<b>{escape(self.strong)}</b>"


Part: TypeAlias = str | Moment | Link | Code | Strong
Parts: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """A state as it is seen: an icon, a word and a colour, so that colour is never alone."""

    css: str
    icon: str
    word: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a row has to say beyond its line."""

    parts: Parts
    css: str = ""
    icon: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """A button, and the question before it where what it does cannot be undone.

    Attributes:
        key: names the question in the address, for visitors without scripts.
        label: on the button; `button` is the one that answers the question.
        subject: what it is about, for those who hear the page.
    """

    label: str
    href: str
    fields: tuple[tuple[str, str], ...] = ()
    key: str = ""
    question: Parts = ()
    button: str = ""
    css: str = ""
    confirm_css: str = "del"
    subject: str = ""
    icon: str = ""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in a list."""

    id: str
    href: str
    name: str
    task: str
    short_task: str
    look: Look
    note: Note | None
    queue: Link | None
    waited: Part
    ran: Part
    when: Part


LOOKS = {
    "blocked": Look("blocked", "blocked", "Blocked"),
    "stuck": Look("stuck", "cancelling", "Not stopping"),
    "cancelling": Look("cancelling", "cancelling", "Cancelling…"),
    "retrying": Look("scheduled", "scheduled", "Retrying"),
    "interrupted": Look("scheduled", "retry", "Interrupted"),
    "paused": Look("paused", "paused", "Paused"),
    "unknown": Look("blocked", "warn", "Unknown task"),
    "nobody": Look("failed", "warn", "No worker"),
    "gone": Look("blocked", "warn", "Worker gone"),
    "loop": Look("blocked", "warn", "Loop blocked"),
    "alive": Look("succeeded", "succeeded", "Alive"),
    "dead": Look("paused", "warn", "Not alive"),
    **{str(state): Look(str(state), str(state), str(state).capitalize()) for state in JobState},
}

UNKNOWN = Note(("No worker knows its task",), "warn")


def look(job: Job, now: datetime) -> Look:
    """How a job's state is seen."""
    if job.cancelling:
        return LOOKS["stuck" if not_stopping(job, now) else "cancelling"]
    if job.held and not job.state.finished:
        return LOOKS["retrying" if job.error else "interrupted"]
    return LOOKS[str(job.state)]


def job_row(
    job: Job, links: Links, now: datetime, place: Place | None, blocks: QueueInfo | None, *, known: bool = True
) -> JobRow:
    """A job as a row of a list. `known`: whether a living worker knows its task."""
    waits = job.state in {JobState.QUEUED, JobState.SCHEDULED}
    return JobRow(
        id=job.id,
        href=links.job(job.id),
        name=shown(job.name) or "(no name)",
        task=shown(job.task),
        short_task=shown(words.short_task(job.task)),
        look=look(job, now),
        note=note(job, links, now, place, blocks) if known or not waits else UNKNOWN,
        queue=queue_link(job.queue, links),
        waited=waited(job, now),
        ran=ran(job, now),
        when=when(job, now),
    )


def queue_link(queue: str | None, links: Links) -> Link | None:
    """A queue's name, leading to its jobs."""
    return None if queue is None else Link(visible(queue), links.jobs(queue=queue))


def job_link(job: Job, links: Links, css: str = "q") -> Link:
    """A job's name, leading to its page."""
    return Link(shown(job.name) or "(no name)", links.job(job.id), css)


# Times


def first_start(job: Job) -> datetime | None:
    """When its first attempt began, as far as it is remembered."""
    return job.attempts[0].started_at if job.attempts else job.started_at


def due(job: Job) -> datetime:
    """Since when it could have started: a wanted delay is no wait."""
    if job.run_at is None or job.attempt > 1 or job.held:
        return job.enqueued_at
    return max(job.enqueued_at, job.run_at)


def waited(job: Job, now: datetime) -> Part:
    """How long it waited for its first start, or waits for it."""
    start = first_start(job)
    if job.deaths and not job.attempts:  # a list does not read them, and the last start is not the first
        return ""
    if start is not None:
        return words.took(start - due(job))
    return words.since(due(job), now) if job.state is JobState.QUEUED else ""


def ran(job: Job, now: datetime) -> Part:
    """How long its last attempt took, or runs."""
    if job.state is JobState.RUNNING and job.started_at is not None:
        return words.since(job.started_at, now)
    if job.finished_at is not None and job.started_at is not None:
        return words.took(job.finished_at - job.started_at)
    return ""


def when(job: Job, now: datetime) -> Part:
    """The time that matters: of the end, the start, the next attempt, or the call."""
    if job.state is JobState.SCHEDULED and job.run_at is not None:
        return words.ahead(job.run_at, now)
    return words.ago(job.finished_at or job.started_at or job.enqueued_at, now)


# Notes


def note(job: Job, links: Links, now: datetime, place: Place | None, blocks: QueueInfo | None) -> Note | None:
    """The one thing that a row says beyond its line; a quiet row says nothing."""
    if job.state is JobState.FAILED and job.error:
        return Note((one_line(job.error),), "bad")
    if job.state is JobState.RUNNING:
        return _running_note(job, now, blocks)
    if job.held:
        return Note(
            (f"{tries(job)}; {one_line(job.error)}" if job.error else "Interrupted; it runs again at its place",)
        )
    if job.state is JobState.QUEUED and place is not None and job.queue is not None:
        return Note(standing(place, links))
    if job.state is JobState.CANCELLED and job.cancel_reason:
        return Note((f"Cancelled: {shown(job.cancel_reason)}",))
    if job.uncommitted:
        return Note(("Changes were left uncommitted and rolled back",), "warn", "warn")
    return None


def _running_note(job: Job, now: datetime, blocks: QueueInfo | None) -> Note | None:
    if not_stopping(job, now) and job.cancel_requested_at is not None:
        asked = words.since(job.cancel_requested_at, now)
        return Note(("Asked to stop ", asked, " ago", *_still(job)), "warn")
    if blocks is not None:
        at = f"; waiting at {shown(blocks.waiting_at)}" if blocks.waiting_at else ""
        return Note((f"Blocks {words.amount(blocks.queued, 'job')}{at}",), "warn")
    said = "Waits for a session" if job.waiting_for_session else progress_words(job)
    return Note((said,)) if said else None


def _still(job: Job) -> Parts:
    frame = top_frame(job)
    return (f"; still at {place_in_code(frame)}",) if frame else ()


def standing(place: Place, links: Links) -> Parts:
    """Where a job stands in its queue: "3rd, behind X"."""
    if place.position > COUNTED:
        return (f"More than {COUNTED:,} are before it",)
    position = "Next in line" if place.position == 1 else words.ordinal(place.position)
    if place.behind is None:
        return (position,)
    return (f"{position}, behind ", job_link(place.behind, links))


def tries(job: Job) -> str:
    """Which attempt comes next, of how many."""
    return f"{words.ordinal(job.attempt + 1)} try of {job.retries + 1}"


def progress_words(job: Job) -> str:
    """Progress in a few words: "69 %, orders of Globex"."""
    progress = job.progress
    if progress is None:
        return ""
    share = f"{int(100 * progress.done / progress.total)} %" if progress.total else words.figure(progress.done)
    return f"{share}, {shown(progress.text)}" if progress.text else share


def one_line(error: JobError) -> str:
    """An error in one line: its type and the first line of its message."""
    first = shown(error.message).strip().partition("\n")[0]
    name = shown(words.short_type(error.type))
    return f"{name}: {first.strip()[:300]}" if first else name


# Code


def top_frame(job: Job) -> Frame | None:
    """Where a running job is now: the application's innermost frame."""
    frames = frames_of(job)[0]
    return next((frame for frame in frames if frame.own), frames[0] if frames else None)


def frames_of(job: Job) -> tuple[Sequence[Frame], datetime | None]:
    """The frames of a running job, innermost first: now, or as its owner last wrote them, and when."""
    live = job.stack()
    if live:
        return live, None
    return (job.waiting_at.frames, job.waiting_at.at) if job.waiting_at else ((), None)


def place_in_code(frame: Frame) -> str:
    """`shop/mailer.py:42`."""
    return f"{visible(frame.file)}:{frame.line}"


def lasts(seconds: float, now: datetime) -> Moment:
    """A wait that goes on, from its length."""
    return words.since(now - timedelta(seconds=seconds), now)
