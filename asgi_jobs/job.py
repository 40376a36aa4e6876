"""What a job is: its states, its record, and the view of it that users hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    import asyncio

    from asgi_jobs.call import Plan
    from asgi_jobs.clock import Epoch
    from asgi_jobs.frames import Frame
    from asgi_jobs.task import Retry

ID_WIDTH = 6
LOG_LINES = 200
LOG_LINE_LIMIT = 1_000
ATTEMPTS_KEPT = 10


class JobState(StrEnum):
    """Where a job stands. A running job that was asked to stop is `running` with `cancelling=True`."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether the job has ended, one way or another."""
        return not ALLOWED[self]


ALLOWED: dict[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.SCHEDULED, JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""The transitions that can happen: from a state to those that may follow it."""
QUEUED = JobState.QUEUED


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt failed: the exception's dotted type (builtins bare), message and traceback, as text."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One ended attempt of a job."""

    started_at: datetime
    finished_at: datetime
    error: JobError | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job says it is."""

    done: float
    total: float | None
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class WaitingAt:
    """Where a long-running job was waiting when this was last looked at, innermost frame first."""

    frames: tuple[Frame, ...]
    at: datetime


class LogLine(str):
    """One line of a job's log: text that knows when it was written."""

    __slots__ = ("at",)
    at: datetime

    def __new__(cls, text: str, at: datetime) -> Self:
        """Make a line of at most 1,000 characters."""
        line = super().__new__(cls, text[:LOG_LINE_LIMIT])
        line.at = at
        return line


UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET", "__slots__": ()})()


class Details:
    """What few jobs have; made when the first of it is set, so that the others stay small."""

    __slots__ = (
        "answer",
        "attempts",
        "cancel_reason",
        "cancel_requested",
        "claim",
        "deaths",
        "due",
        "held",
        "log",
        "log_count",
        "moved",
        "payload",
        "progress",
        "retries",
        "retry_of",
        "run_at",
        "source",
        "stored",
        "timeout",
        "uncommitted",
        "unique",
        "unwritten",
        "value",
        "waiting_at",
        "worker",
    )

    def __init__(self) -> None:
        self.source = "code"
        self.retry_of: str | None = None
        self.unique: str | None = None
        self.timeout: timedelta | Literal[False] | None = None  # as `retries`
        self.retries: Retry | Literal[False] | None = None  # None: as the task says; False: none
        self.stored: bool | None = True  # None: hangs on a transaction that has not ended; False: never will be
        self.due: float | None = None  # monotonic; the end of a delay or of a back-off
        self.run_at: datetime | None = None  # the date asked for; `due` follows it when the clock is set
        self.held = False  # between two attempts: keeps its slot
        self.cancel_requested: float | None = None
        self.cancel_reason: str | None = None
        self.attempts: deque[Attempt] | None = None
        self.progress: Progress | None = None
        self.log: deque[LogLine] | None = None
        self.log_count = 0
        self.moved: float | None = None  # when it last reported progress or a log line
        self.waiting_at: WaitingAt | None = None
        self.uncommitted = False
        # Of durable stores only:
        self.payload: str | None = None  # the arguments, as JSON
        self.claim: int | None = None  # grows with each claim in the whole fleet; an outcome with an old one is refused
        self.worker: int | None = None  # the process that runs it, or ran it last
        self.deaths = 0  # how often its process died while it ran
        self.value: Any = UNSET  # what it returned; a durable record lives only as long as its views do
        self.unwritten: list[asyncio.Future[None]] | None = None  # who waits until it is stored; None: it is
        self.answer: Record | Exception | None = None  # what is stored instead of it, or why nothing is


class Record:
    """What a store keeps of a job. Internal, and the hottest object there is: users hold a `Job`."""

    __slots__ = (
        "__weakref__",
        "args",
        "attempt",
        "details",
        "enqueued",
        "epoch",
        "error",
        "finished",
        "func",
        "kwargs",
        "lane",
        "name",
        "number",
        "plan",
        "queue",
        "run",
        "since",
        "started",
        "state",
        "view",
    )

    started: float | None
    finished: float | None
    error: JobError | None
    details: Details | None
    lane: Any  # the memory store's: the queue it stands in
    run: Any  # the attempt under way in this process
    view: Job | None  # the one `Job` of an unfinished record; the end lets go of it, so no value stays here

    def __init__(
        self,
        number: int,
        epoch: Epoch,
        plan: Plan,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        queue: str | None,
        name: str,
        enqueued: float,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.plan = plan
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.queue = queue
        self.name = name
        self.enqueued = enqueued
        self.since = enqueued  # since when it waits: later than enqueued after a delay or an attempt
        self.state = QUEUED
        self.attempt = 0
        self.started = self.finished = self.error = self.details = self.lane = self.run = self.view = None

    @property
    def id(self) -> str:
        return f"{self.epoch.prefix}{self.number:0{ID_WIDTH}x}"

    def detail(self) -> Details:
        """The details, made now if there were none."""
        if self.details is None:
            self.details = Details()
        return self.details

    @property
    def cancelling(self) -> bool:
        details = self.details
        return details is not None and details.cancel_requested is not None and self.state is JobState.RUNNING

    @property
    def timeout(self) -> timedelta | None:
        own = self.details.timeout if self.details else None
        return self.plan.policy.timeout if own is None else own or None

    @property
    def retry(self) -> Retry | None:
        own = self.details.retries if self.details else None
        return self.plan.policy.retries if own is None else own or None

    @property
    def held(self) -> bool:
        return self.details is not None and self.details.held

    @property
    def stored(self) -> bool | None:
        return self.details is None or self.details.stored

    @property
    def value(self) -> Any:
        return UNSET if self.details is None else self.details.value


class Engine(Protocol):
    """What a `Job` needs of the engine that runs it."""

    @property
    def durable(self) -> bool: ...
    async def cancel(self, id: str, reason: str = ...) -> Job: ...
    async def stored(self, job: Job) -> None: ...
    async def wait(self, job: Job, timeout: timedelta | None) -> None: ...
    async def refresh(self, job: Job) -> None: ...
    async def result(self, job: Job) -> Any: ...
    def stack(self, record: Record) -> list[Frame] | None: ...
    def wait_time(self, record: Record) -> timedelta | None: ...
    def run_time(self, record: Record) -> timedelta | None: ...


class Job:
    """One enqueued run of a function. A view: always current in memory, on SQL as last read.

    Awaiting a job waits until it is stored (in memory it is already), not until it has run.
    """

    __slots__ = ("__weakref__", "_engine", "_record", "_value")

    def __init__(self, record: Record, engine: Engine) -> None:
        self._record = record
        self._engine = engine
        self._value: Any = UNSET

    def __await__(self) -> Generator[Any, None, Job]:
        """Wait until the job is stored; gives the job."""
        return self
        yield

    async def refresh(self) -> Job:
        """Read the job again from its store. Harmless in memory, where a view is always current."""
        await self._engine.refresh(self)
        return self

    async def wait(self, timeout: timedelta | None = None) -> Job:
        """Wait until the job has ended, however it ended.

        Args:
            timeout: how long to wait at most; none by default.

        Raises:
            TimeoutError: it had not ended by then; the job goes on.
            DeadlockError: called inside a job that this one has to wait for.
            NotStored: its transaction was rolled back, or the store refused it.
        """
        await self._engine.wait(self, timeout)
        return self

    async def result(self, timeout: timedelta | None = None) -> Any:
        """Wait for the end and give the function's value.

        Raises:
            JobFailed: the job failed; its message has the error's type and text.
            JobCancelled: the job was cancelled.
            ResultNotKept: it succeeded, but this view was not alive when it ended.
            TimeoutError, DeadlockError, NotStored: as `wait`.
        """
        await self._engine.wait(self, timeout)
        return await self._engine.result(self)

    async def cancel(self, reason: str = "") -> Job:
        """Ask the job to stop: at once while it waits, by `CancelledError` in its body while it runs.

        Returns once the stop is asked for; `wait` waits for the end. A finished job stays as it is.

        Args:
            reason: text for people, shown on the page.
        """
        await self
        await self._engine.cancel(self.id, reason)
        return self

    def stack(self) -> list[Frame] | None:
        """Where the job is waiting now, innermost frame first; None when it does not run in this process."""
        return self._engine.stack(self._record)

    # What it is

    @property
    def id(self) -> str:
        """Unique over restarts and processes."""
        return self._record.id

    @property
    def name(self) -> str:
        """What people call it."""
        return self._record.name

    @property
    def task(self) -> str:
        """The function: `module:qualname`, or the declared key."""
        return self._record.plan.key

    @property
    def queue(self) -> str | None:
        """Its queue; None when it stands alone."""
        return self._record.queue

    @property
    def source(self) -> str:
        """Who enqueued it: "code", "manual" (from the page or by `retry`) or "schedule"."""
        details = self._record.details
        return details.source if details else "code"

    @property
    def retry_of(self) -> str | None:
        """The id of the job that this one runs again."""
        details = self._record.details
        return details.retry_of if details else None

    @property
    def retries(self) -> int:
        """How many further attempts are allowed after the first."""
        retry = self._record.retry
        return retry.times if retry else 0

    @property
    def timeout(self) -> timedelta | None:
        """The time limit of one attempt."""
        return self._record.timeout

    @property
    def stored(self) -> bool:
        """Whether the store has accepted it."""
        return bool(self._record.stored)

    @property
    def repeatable(self) -> bool:
        """It has ended, and its function and arguments are still kept: it can be run again."""
        record = self._record
        kept = record.func is not None or (record.details is not None and record.details.payload is not None)
        return record.finished is not None and kept

    # How it stands

    @property
    def state(self) -> JobState:
        """Its state now."""
        return self._record.state

    @property
    def cancelling(self) -> bool:
        """It was asked to stop and its code has not ended yet."""
        return self._record.cancelling

    @property
    def held(self) -> bool:
        """It stands between two attempts and keeps its slot."""
        return self._record.held

    @property
    def waiting_for_session(self) -> bool:
        """It runs, and waits for one of `max_sessions`; its time limit has not begun."""
        scope = self._record.run.scope if self._record.run is not None else None
        return scope is not None and bool(scope.waiting_for_place)

    @property
    def attempt(self) -> int:
        """The number of the attempt under way, or of the last one; 1 is the first, 0: none yet."""
        return self._record.attempt

    @property
    def error(self) -> JobError | None:
        """The last attempt's error."""
        return self._record.error

    @property
    def attempts(self) -> list[Attempt]:
        """The ended attempts, at most the last ten."""
        record = self._record
        kept = list(record.details.attempts or ()) if record.details else []
        if record.finished is not None and record.started is not None:
            last = Attempt(record.epoch.date(record.started), record.epoch.date(record.finished), record.error)
            kept.append(last)
        return kept[-ATTEMPTS_KEPT:]

    @property
    def progress(self) -> Progress | None:
        """The progress last reported."""
        details = self._record.details
        return details.progress if details else None

    @property
    def log(self) -> list[LogLine]:
        """The last 200 lines that the job logged."""
        details = self._record.details
        return list(details.log or ()) if details else []

    @property
    def log_count(self) -> int:
        """How many lines the job has logged in all."""
        details = self._record.details
        return details.log_count if details else 0

    @property
    def waiting_at(self) -> WaitingAt | None:
        """Where it was waiting when its owner last looked; see `stack` for now."""
        details = self._record.details
        return details.waiting_at if details else None

    @property
    def deaths(self) -> int:
        """How often the process that ran it died; 0 in memory, where the job dies with it."""
        details = self._record.details
        return details.deaths if details else 0

    @property
    def worker(self) -> int | None:
        """The `WorkerInfo.id` of the process that runs it, or ran it last; None in memory."""
        details = self._record.details
        return details.worker if details else None

    @property
    def uncommitted(self) -> bool:
        """It succeeded, but left changes in its session that nobody committed; they were rolled back."""
        details = self._record.details
        return details.uncommitted if details else False

    @property
    def cancel_reason(self) -> str | None:
        """Why it was asked to stop."""
        details = self._record.details
        return details.cancel_reason if details else None

    # When

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued."""
        return self._record.epoch.date(self._record.enqueued)

    @property
    def run_at(self) -> datetime | None:
        """When its delay or back-off ends; None when it is not or was not delayed."""
        record = self._record
        if record.details is None or record.details.due is None:
            return None
        return record.details.run_at or record.epoch.date(record.details.due)

    @property
    def started_at(self) -> datetime | None:
        """When its last attempt started."""
        return _date(self._record, self._record.started)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended."""
        return _date(self._record, self._record.finished)

    @property
    def wait_time(self) -> timedelta | None:
        """How long it waited for its start, or has waited until now; None while it is delayed."""
        return self._engine.wait_time(self._record)

    @property
    def run_time(self) -> timedelta | None:
        """How long its last attempt took, or takes until now; None before it started."""
        return self._engine.run_time(self._record)

    @property
    def cancel_requested_at(self) -> datetime | None:
        """When it was asked to stop."""
        details = self._record.details
        return _date(self._record, details.cancel_requested) if details else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other._record is self._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __repr__(self) -> str:
        record = self._record
        if not self.stored:
            return f"<Job {record.name!r} of {record.plan.key}, not stored yet>"
        queue = f" in {record.queue!r}" if record.queue is not None else ""
        return f"<Job {record.id} {record.name!r}{queue}, {record.state}>"


def _date(record: Record, monotonic: float | None) -> datetime | None:
    return None if monotonic is None else record.epoch.date(monotonic)


def view_of(record: Record, engine: Engine) -> Job:
    """The view of a record: in memory one and the same while it is unfinished, then a new one each time."""
    job = record.view
    if job is None:
        job = Job(record, engine)
        if record.finished is None and not engine.durable:  # there a record lives only as long as its views
            record.view = job
    return job


def number_in(id: str, prefix: str) -> int | None:
    """The number in an id that begins with the prefix; None when it is none."""
    if len(id) > len(prefix) + 4 * ID_WIDTH or not id.startswith(prefix):
        return None
    try:
        number = int(id[len(prefix) :], 16)
    except ValueError:
        return None
    return number if f"{prefix}{number:0{ID_WIDTH}x}" == id else None
