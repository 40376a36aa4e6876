"""The store protocol: where jobs wait and are remembered.

Engine and store meet in one exchange: *here are the outcomes of what ended; give me up to n jobs that may
start now*. A store that needs no I/O answers at once; another answers with an awaitable, and the engine
behaves the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from asgi_jobs.job import JobError, JobState, Record

T = TypeVar("T")
Answer: TypeAlias = T | Awaitable[T]
"""At once, or after some I/O."""


class Verdict(Enum):
    """How an attempt ended, as the store is told."""

    SUCCEEDED = JobState.SUCCEEDED
    FAILED = JobState.FAILED
    CANCELLED = JobState.CANCELLED
    HELD = JobState.SCHEDULED
    """Not the end: another attempt follows. The job keeps its slot, so its order holds."""


class Outcome(Protocol):
    """How one attempt ended. Its store reads it, and may read it again after an error."""

    record: Record
    verdict: Verdict
    delay: float
    """Seconds until a held job may start again."""
    counted: bool
    """Whether the attempt counts; not one that a shutdown interrupted."""
    error: JobError | None

    @property
    def claim(self) -> int | None:
        """The number of the claim by which the attempt ran, where the store gives one: the fence of its outcome."""
        ...

    result: str | None
    """The value as JSON, of a task with `keep_result`."""
    settled: bool
    """Its success was stored by its session's own commit (`atomic`); only its slot is still to be freed."""


class Claimed(NamedTuple):
    """The answer of an exchange."""

    jobs: Sequence[Record]
    """Marked running, in the order in which they are to start."""
    more: bool = False
    """Ask again at once: something may be ready that this answer left out."""
    refused: Sequence[Outcome] = ()
    """Outcomes of jobs that are not this process's any more; they changed nothing."""


class Cancelled(NamedTuple):
    """The answer of a cancel."""

    ended: list[Record]
    """Were waiting, have ended."""
    asked: list[Record]
    """Are running, and marked; their owner is told."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which jobs are looked for; what is None does not matter."""

    state: JobState | None = None
    queue: str | None = None
    task: str | None = None
    text: str | None = None
    limit: int = 50
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """How one queue stands.

    Attributes:
        name: the queue's name.
        limit: how many of its jobs may run at once.
        running: how many run.
        queued: how many wait, the one between two attempts not counted.
        paused_since: when it was paused; None when it is not.
        oldest_wait: seconds that its first job in line has waited; None when none waits.
        current: the id of the job that holds the slot, running or between two attempts.
        blocked_by, blocked_since: the job that the first in line has waited for too long, and since when.
        waiting_at: where in the code that job waits, as `file:line in function`.
        last_error: one line: the last failure of a record still kept.
        head: the id of the first in line.
    """

    name: str
    limit: int
    running: int
    queued: int
    paused_since: datetime | None = None
    oldest_wait: float | None = None
    current: str | None = None
    blocked_by: str | None = None
    blocked_since: datetime | None = None
    waiting_at: str | None = None
    last_error: str | None = None
    head: str | None = None


MINUTES = 60
"""Minutes that `Store.hour` tells of."""


class Minute(NamedTuple):
    """What ended in one minute."""

    succeeded: int = 0
    failed: int = 0
    wait: float = 0.0
    """Seconds that one of them waited for its start at most; of those that were tried again it is not told."""


COUNTED = 1_000
"""Places in a queue that are counted out; who stands further behind is told just that."""


class Place(NamedTuple):
    """Where a queued job stands in its queue."""

    position: int
    """1 is the next. Not counted beyond `COUNTED`: one more than that stands for all that is further behind."""
    behind: Record | None
    """The job before it: the one just ahead in line, or the one that holds the slot; None where it is not counted."""


@dataclass(slots=True)
class Standing:
    """One queue as its store sees it; the engine makes a `QueueInfo` of it."""

    name: str
    limit: int
    queued: int
    paused: float | None
    holders: list[Record]
    head: Record | None
    last_failed: Record | None


class Ticket(NamedTuple):
    """What is known of the runs of a scheduled task."""

    last: float | None
    """The last tick that led to a run, as a timestamp."""
    skipped: int
    """Ticks that were left out because the run before had not ended."""
    job: Record | None
    """The last run, while its record is kept."""
    since: float | None = None
    """When the schedule was first seen, where the store remembers that longer than a process lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that has a durable store open.

    Attributes:
        id: new at every start.
        host, pid: where it is.
        started: wall time, by the store's clock.
        seen: when it was last known to be alive, likewise.
        alive: whether it is known to live now.
        standby: it would run jobs, but another does (SQLite).
        concurrency: how many jobs it runs at once; 0: it only enqueues and shows.
        tasks: the keys that it declares.
        busy: how many jobs it runs.
        running: those jobs, where they were asked for.
    """

    id: int
    host: str
    pid: int
    started: float
    seen: float
    alive: bool
    standby: bool
    concurrency: int
    tasks: tuple[str, ...]
    busy: int
    running: tuple[Record, ...]


class Callbacks(Protocol):
    """What a store calls when something happens that the engine did not do itself. On the loop, but for `wake`."""

    def wake(self) -> None:
        """Jobs may be ready, or have ended elsewhere. Callable from any thread."""
        ...

    def asked_to_stop(self, id: str) -> None:
        """Somebody else has asked a job that runs here to stop."""
        ...

    def ended(self, ids: Sequence[str]) -> None:
        """Jobs ended elsewhere that were watched here; their records have been read again."""
        ...

    def lost(self, ids: Sequence[str] | None) -> None:
        """These jobs (None: all that run here) may not go on here: others may take them over, or have."""
        ...


class Store(Protocol):
    """Where jobs wait and are remembered. All stores pass the same contract suite, `tests/stores`."""

    durable: bool
    """Whether jobs outlive the process."""
    revision: int
    """Grows with every change."""

    @property
    def trimmed(self) -> bool:
        """Whether logs and tracebacks of kept records were dropped for their size."""
        ...

    def open(self, callbacks: Callbacks) -> Answer[None]:
        """Make ready to be used: tables, identity, listener. Called at each start."""
        ...

    def close(self) -> Answer[None]:
        """Give up what `open` took; records stay."""
        ...

    def add(self, records: Sequence[Record], *, bounded: bool = True) -> Answer[Sequence[Record]]:
        """Accept new jobs in the order given, all or nothing; from any thread.

        Gives what is stored now: where the key of `unique` belongs to an unfinished job, that job.

        Args:
            records: the jobs.
            bounded: whether `max_queued` holds; not for jobs whose transaction has been committed.

        Raises:
            QueueFull: more than `max_queued` would wait.
        """
        ...

    def refuse_full(self, n: int) -> None:
        """Raise QueueFull if `n` more jobs would be too many."""
        ...

    def exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Answer[Claimed]:
        """Take in outcomes, then hand out up to `n` jobs, of these up to `threads` that need a thread.

        Jobs of one queue come in order, never more at once than its limit. May be repeated after any error:
        a claim can never undo an outcome.
        """
        ...

    def due(self) -> Answer[float | None]:
        """Give delayed jobs whose time has come their place at the end; monotonic time of the next."""
        ...

    def reset_due(self, due_of: Callable[[Record], float]) -> Answer[None]:
        """The wall clock was set: delayed jobs are due when `due_of` says."""
        ...

    def cancel(self, ids: Sequence[str], reason: str) -> Answer[Cancelled]:
        """End what waits, mark what runs, pass over what has ended or is unknown."""
        ...

    def pause(self, queue: str) -> Answer[None]:
        """Let no job of the queue start once this has returned."""
        ...

    def resume(self, queue: str) -> Answer[None]:
        """Let the queue's jobs start again."""
        ...

    def get(self, id: str) -> Answer[Record | None]:
        """One job."""
        ...

    def find(self, query: Query) -> Answer[list[Record]]:
        """Jobs that match, newest first."""
        ...

    def counts(self) -> Answer[dict[JobState, int]]:
        """How many records are in each state."""
        ...

    def hour(self) -> Answer[Sequence[Minute | None]]:
        """What ended in each of the last 60 minutes, oldest first, the one under way last; None: not counted yet.

        Bounded work however much has ended; what it says of the minute under way may be some seconds old.
        """
        ...

    def pending(self) -> Answer[int]:
        """How many jobs are queued, running or between two attempts."""
        ...

    def drained(self, until: float) -> bool:
        """Whether a shutdown need not wait: nothing runs or may start here before the monotonic time."""
        ...

    def waiting_in(self, queue: str, limit: int) -> Answer[list[Record]]:
        """The queue's jobs that are queued, delayed or between attempts, at most `limit`."""
        ...

    def abandon(self, reason: str) -> Answer[list[Record]]:
        """End what waits and would be lost with the process; nothing where jobs are durable."""
        ...

    def standings(self, names: Sequence[str] | None = None, limit: int | None = None) -> Answer[list[Standing]]:
        """The queues with unfinished jobs, the paused ones and the configured ones.

        Args:
            names: only these.
            limit: of those that are neither paused nor configured nor at work, only so many: whose first job has
                waited longest. Of those at work so many are told at least, or 200 where that is more.
        """
        ...

    def queue_count(self) -> Answer[int]:
        """How many queues `standings` would tell of."""
        ...

    def holders(self, record: Record) -> Answer[Sequence[Record]]:
        """Who has the slots of the queue of a job that waits or is delayed; nobody when one of them is free."""
        ...

    def places(self, records: Sequence[Record]) -> Answer[dict[str, Place]]:
        """Where queued jobs stand in their queues, by id; those that stand in none are left out."""
        ...

    def propose(self, record: Record, tick: float) -> Answer[bool]:
        """Enqueue the run of a schedule: once per task and tick, and not while the last run is unfinished."""
        ...

    def ticket(self, task: str) -> Answer[Ticket]:
        """What is known of the runs of a scheduled task, for whoever proposes them: it is seen from now on."""
        ...

    def tickets(self, tasks: Sequence[str]) -> Answer[dict[str, Ticket]]:
        """The same of several tasks, each of them, for whoever only looks."""
        ...

    def prune(self, keep: float, limit: int) -> Answer[int]:
        """Drop records that ended more than `keep` seconds ago, at most `limit`; how many went."""
        ...


class DurableStore(Store, Protocol):
    """What a store in a database has besides. Its methods but `write`, `settle` and the sync ones are coroutines.

    Every method that needs the database raises StoreAway while it does not answer, after the store has logged that
    once.
    """

    concurrency: int
    """How many jobs this process runs at once; read when it is opened."""

    def stamp(self, record: Record) -> None:
        """Give a new record its id, which sorts by time, and the store's clock."""
        ...

    def time(self) -> float:
        """Wall time by the store's clock."""
        ...

    def owns(self, bind: Any) -> bool:
        """Whether this SQLAlchemy engine or connection leads to the store's own database."""
        ...

    def write(self, session: Any, records: Sequence[Record]) -> None:
        """Insert jobs in the transaction of a sync Session, which is about to commit."""
        ...

    def written(self, records: Sequence[Record]) -> None:
        """That transaction has committed."""
        ...

    def settle(self, session: Any, record: Record, result: str | None) -> bool:
        """Store a job's success in the transaction of its sync Session; False: the job is not ours any more."""
        ...

    async def read(self, record: Record) -> bool:
        """Read a record again; False: it is gone."""
        ...

    async def watch(self, record: Record) -> None:
        """Have `Callbacks.ended` called when it has ended, wherever; reads it first, for it may have."""
        ...

    async def report(self, records: Sequence[Record]) -> None:
        """Store progress, log and place in the code of jobs that run here."""
        ...

    async def release(self, id: str) -> Record | None:
        """Take a running job away from its process, as if that had died; None: it does not run."""
        ...

    async def workers(self, *, running: bool = True) -> list[Worker]:
        """The processes that have the store open, with what they run."""
        ...

    async def unknown_tasks(self) -> dict[str, int]:
        """Tasks that no living worker declares, and how many unfinished jobs they have."""
        ...

    async def trouble(self) -> str | None:
        """Why the store does not answer; None when it does."""
        ...
