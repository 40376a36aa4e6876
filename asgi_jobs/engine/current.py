"""What a running job can say and ask: `current_job()`."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgi_jobs.errors import NoCurrentJob
from asgi_jobs.job import LOG_LINES, Job, LogLine, Progress, Record, view_of

if TYPE_CHECKING:
    from asgi_jobs.engine.executor import Executor

TEXT_LIMIT = 500
current: ContextVar[CurrentJob] = ContextVar("asgi_jobs_current")


class CurrentJob:
    """The job that is running here, as its own code sees it."""

    __slots__ = ("_executor", "heard", "record", "stop", "thread")

    _executor: Executor
    record: Record
    stop: Any  # why it was asked to stop, if it was
    thread: Any  # the thread that the function runs in, if it needs one
    heard: bool  # the thread has read that it should stop

    @property
    def job(self) -> Job:
        """The job that runs."""
        return view_of(self.record, self._executor.engine)

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop; for threads, where no `CancelledError` is raised."""
        if self.stop is not None and self.thread is not None:
            self.heard = True
        return self.stop is not None

    @property
    def claim(self) -> int:
        """A number that grows with each attempt of this job, for fencing writes to other systems."""
        return self.record.attempt

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Say how far the job is; shown on the page. Callable from a thread.

        Args:
            done: how much is done.
            total: of how much; None when that is not known.
            text: what is counted, or what is being done; cut at 500 characters.
        """
        for name, number in (("done", done), ("total", total)):
            if isinstance(number, bool) or not (
                isinstance(number, (int, float)) or (name == "total" and number is None)
            ):
                raise TypeError(f"progress({name}=…) must be a number, not {number!r}")
        executor, details = self._executor, self.record.detail()
        details.moved = executor.clock.monotonic()
        details.progress = Progress(done, total, str(text)[:TEXT_LIMIT], self.record.epoch.date(details.moved))
        executor.touched()

    def log(self, text: str) -> None:
        """Add a line to the job's log: the last 200 are kept, of at most 1,000 characters. Callable from a thread."""
        executor, details = self._executor, self.record.detail()
        details.moved = executor.clock.monotonic()
        at = self.record.epoch.date(details.moved)
        if details.log is None:
            details.log = deque(maxlen=LOG_LINES)
        for line in str(text).splitlines() or [""]:
            details.log.append(LogLine(line, at))
            details.log_count += 1
        executor.touched()


def current_job() -> CurrentJob:
    """The job that is running here: `job`, `progress`, `log`, `cancelled`, `claim`.

    Works in async jobs, in thread jobs, and in the tasks and threads that a job starts with asyncio or anyio,
    which copy the context.

    Raises:
        NoCurrentJob: this is not inside a job.
    """
    run = current.get(None)
    if run is None:
        raise NoCurrentJob("current_job() works inside a job only")
    return run
