"""What is to be said of a queue: above all whether something blocks it, and since when."""

from __future__ import annotations

from asgi_jobs.clock import Epoch
from asgi_jobs.job import Record
from asgi_jobs.stores.base import QueueInfo, Standing


def describe(standing: Standing, now: float, stuck_after: float, epoch: Epoch) -> QueueInfo:
    """A store's standing as people are told of it.

    Args:
        standing: the queue as its store sees it.
        now: monotonic.
        stuck_after: seconds that the first in line waits, behind a job without a sign of life, before it is said.
        epoch: turns monotonic times into dates.
    """
    holder = standing.holders[0] if standing.holders else None
    blocked_since = _blocked_since(standing, now, stuck_after)
    blocking = holder if blocked_since is not None else None
    return QueueInfo(
        name=standing.name,
        limit=standing.limit,
        running=sum(record.started is not None for record in standing.holders),
        queued=standing.queued,
        paused_since=None if standing.paused is None else epoch.date(standing.paused),
        oldest_wait=None if standing.head is None else max(now - standing.head.since, 0.0),
        current=holder.id if holder else None,
        blocked_by=blocking.id if blocking else None,
        blocked_since=None if blocked_since is None else epoch.date(blocked_since),
        waiting_at=_waiting_at(blocking) if blocking else None,
        last_error=_one_line(standing.last_failed),
        head=standing.head.id if standing.head is not None else None,
    )


def _blocked_since(standing: Standing, now: float, stuck_after: float) -> float | None:
    """Since when the first in line has waited behind jobs that gave no sign of life; None: not for long."""
    if standing.head is None or standing.paused is not None or len(standing.holders) < standing.limit:
        return None
    alive = max(_last_sign(holder) for holder in standing.holders)
    since = max(standing.head.since, alive)
    return since if now - since >= stuck_after else None


def _last_sign(holder: Record) -> float:
    """When a job last started, was held, reported progress or wrote a log line."""
    moved = holder.details.moved if holder.details else None
    return max(holder.started or holder.since, moved or 0.0)


def _waiting_at(record: Record) -> str | None:
    kept = record.details.waiting_at if record.details else None  # what the process that runs it last wrote
    frames = record.run.stack() if record.run is not None else kept and kept.frames
    if not frames:
        return None
    frame = next((frame for frame in frames if frame.own), frames[0])
    return f"{frame.file}:{frame.line} in {frame.function}"


def _one_line(failed: Record | None) -> str | None:
    if failed is None or failed.error is None:
        return None
    return f"{failed.error.type}: {failed.error.message.partition(chr(10))[0]}"
