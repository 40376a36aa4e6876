"""What happens in a job's life, and the log's wording of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from asgi_jobs.job import Job

logger = logging.getLogger("asgi_jobs")

ENQUEUED, STARTED, RETRYING = "enqueued", "started", "retrying"
SUCCEEDED, FAILED, CANCELLED, INTERRUPTED = "succeeded", "failed", "cancelled", "interrupted"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job in this process.

    Attributes:
        kind: enqueued, started, retrying, succeeded, failed, cancelled or interrupted (by a shutdown).
        job: the job, as it is now.
        at: when, aware UTC.
    """

    kind: str
    job: Job
    at: datetime


Listener: TypeAlias = Callable[[Event], None]


class Listeners:
    """Who is told, in the order of subscription."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self.active = False  # whether anybody wants to hear of every event
        self.look()

    def look(self) -> None:
        """See whether there are listeners, or a log that wants everything; asked too often to be worked out."""
        self.active = bool(self._listeners) or logger.isEnabledFor(logging.DEBUG)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; gives a function that takes it away again."""
        self._listeners.append(listener)
        self.look()

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
                self.look()

        return unsubscribe

    def tell(self, event: Event) -> None:
        """Tell everybody. A listener that raises is logged and changes nothing."""
        log(event)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except BaseException:  # also a cancel or SystemExit of its own: it runs in the middle of the engine
                logger.exception("A listener failed on %r of %s", event.kind, label(event.job))


def label(job: Job) -> str:
    """The job for a log line; control characters are escaped, so that a name cannot forge lines."""
    return f"'{printable(job.name)}' ({job.id})"


def printable(text: str) -> str:
    """The text on one line, as it can be written anywhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(event: Event) -> None:
    """Write the log line of an event: failures aloud, the rest for those who debug."""
    job = event.job
    if event.kind == FAILED and job.error is not None:
        error = job.error
        logger.error("Job %s failed: %s: %s\n%s", label(job), error.type, printable(error.message), error.traceback)
    elif event.kind == RETRYING and job.error is not None:
        logger.warning(
            "Job %s failed (attempt %d of %d) and is tried again: %s: %s",
            *(label(job), job.attempt, job.retries + 1, job.error.type, printable(job.error.message)),
        )
    elif event.kind == SUCCEEDED and job.uncommitted:
        logger.warning(
            "Job %s succeeded, but its session had changes that nobody committed; they were rolled back",
            label(job),
        )
    elif event.kind == CANCELLED and logger.isEnabledFor(logging.INFO):  # a stop may cancel 100,000
        logger.info(
            "Job %s was cancelled%s",
            label(job),
            f": {printable(job.cancel_reason)}" if job.cancel_reason else "",
        )
    elif logger.isEnabledFor(logging.DEBUG):
        logger.debug("Job %s %s", label(job), event.kind)
