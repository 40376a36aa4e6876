"""The JSON of the dashboard: the names of the public API, ISO times in UTC, durations in seconds."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from asgi_jobs.dashboard.masking import masked
from asgi_jobs.dashboard.words import iso
from asgi_jobs.job import Attempt, Job, JobError, JobState, Progress, WaitingAt

if TYPE_CHECKING:
    from asgi_jobs import TaskInfo, WorkerInfo
    from asgi_jobs.stores.base import QueueInfo


def job_in_list(job: Job) -> dict[str, Any]:
    """A job without what is long: log, attempts, traceback."""
    return {
        "id": job.id,
        "name": masked(job.name),
        "task": job.task,
        "queue": job.queue,
        "state": str(job.state),
        "cancelling": job.cancelling,
        "source": job.source,
        "attempt": job.attempt,
        "enqueued_at": _time(job.enqueued_at),
        "run_at": _time(job.run_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "cancel_requested_at": _time(job.cancel_requested_at),
        "cancel_reason": None if job.cancel_reason is None else masked(job.cancel_reason),
        "retries": job.retries,
        "retry_of": job.retry_of,
        "error": job.error and error(job.error, traceback=False),
        "progress": job.progress and _progress(job.progress),
        "waiting_at": job.waiting_at and _waiting(job.waiting_at),
        "uncommitted": job.uncommitted,
    }


def one_job(job: Job) -> dict[str, Any]:
    """A job with everything that may be shown. Arguments may not."""
    return {
        **job_in_list(job),
        "error": job.error and error(job.error),
        "attempts": [_attempt(attempt) for attempt in job.attempts],
        "log": [masked(line) for line in job.log],
    }


def error(given: JobError, *, traceback: bool = True) -> dict[str, Any]:
    """An error: type, message and, where asked for, traceback."""
    said = {"type": given.type, "message": masked(given.message)}
    return {**said, "traceback": masked(given.traceback)} if traceback else said


def queue(info: QueueInfo) -> dict[str, Any]:
    """A queue."""
    return {
        "name": info.name,
        "limit": info.limit,
        "running": info.running,
        "queued": info.queued,
        "paused_since": _time(info.paused_since),
        "oldest_wait": None if info.oldest_wait is None else round(info.oldest_wait, 3),
        "current": info.current,
        "blocked_by": info.blocked_by,
        "blocked_since": _time(info.blocked_since),
        "waiting_at": info.waiting_at,
        "last_error": None if info.last_error is None else masked(info.last_error).partition("\n")[0],
    }


def task(info: TaskInfo) -> dict[str, Any]:
    """A declared task."""
    return {
        "task": info.task,
        "description": masked(info.description),
        "queue": info.queue,
        "schedule": info.schedule,
        "next_run": _time(info.next_run),
        "last_run": _time(info.last_run),
        "needs_arguments": info.needs_arguments,
    }


def worker(info: WorkerInfo) -> dict[str, Any]:
    """A process that has the store open."""
    return {
        "id": info.id,
        "host": masked(info.host),
        "pid": info.pid,
        "started_at": _time(info.started_at),
        "seen_at": _time(info.seen_at),
        "alive": info.alive,
        "concurrency": info.concurrency,
        "tasks": list(info.tasks),
        "running": [job.id for job in info.running],
    }


def counts(given: dict[JobState, int]) -> dict[str, int]:
    """Jobs by state, every state there."""
    return {str(state): given.get(state, 0) for state in JobState}


def encoded(data: Any) -> bytes:
    """The bytes to send. ASCII only: whatever characters a text has, it can be sent and read."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


def _attempt(given: Attempt) -> dict[str, Any]:
    return {
        "started_at": _time(given.started_at),
        "finished_at": _time(given.finished_at),
        "error": given.error and error(given.error),
    }


def _progress(given: Progress) -> dict[str, Any]:
    return {
        "done": _number(given.done),
        "total": _number(given.total),
        "text": masked(given.text),
        "at": _time(given.at),
    }


def _number(value: float | None) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if value is not None and abs(value) < float("inf") else None


def _waiting(given: WaitingAt) -> dict[str, Any]:
    frames = [
        {"file": frame.file, "line": frame.line, "function": frame.function, "code": masked(frame.code)}
        for frame in given.frames
    ]
    return {"frames": frames, "at": _time(given.at)}


def _time(at: datetime | None) -> str | None:
    return None if at is None else iso(at)
