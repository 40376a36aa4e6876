"""What every page needs to know: counts, queues, what needs a person. Made once a change, not a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from asgi_jobs.dashboard.fleet import Fleet, fleet_of
from asgi_jobs.dashboard.words import short_type
from asgi_jobs.errors import JobNotFound
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import Jobs, WorkerInfo
    from asgi_jobs.engine.watchdog import Blocked
    from asgi_jobs.stores.base import QueueInfo

STOPPING = timedelta(seconds=10)  # a job that has not ended by then is not stopping
TICK = timedelta(seconds=1)  # what is only a matter of time is looked at again after this
LOOKED_AT = 200  # running and failed jobs looked at, newest first: the work is bounded
NAMED = 50  # blocked queues of which the blocking job is read
UNKNOWN, OF_EACH = 5, 50  # tasks that nobody knows of which jobs are read, and how many
QUEUES = 200  # queues read, besides those at work, paused or configured: which have waited longest
HELD_UP = {"blocked", "stuck"}
WAITING = (JobState.QUEUED, JobState.SCHEDULED)


@dataclass(frozen=True, slots=True)
class Harm:
    """One thing that needs a person.

    Attributes:
        kind: "blocked", "stuck", "failed", "unknown" (a task that no worker knows), "nobody" (no worker lives),
            "gone" (one that is dead has left jobs) or "loop" (the event loop stood still).
        since: when it began; of failures the last one; None where nobody can say.
        jobs: the jobs concerned, newest first: the one that blocks or does not stop, those that failed alike.
        queue: the queue that is blocked.
        number: how many jobs there are of it, those not read included; of "nobody" those that are queued.
        later: of "nobody" those that are scheduled.
        worker, able: of "gone" the process, and whether there is one that takes its jobs over.
        loop: what kept the event loop.
    """

    kind: str
    since: datetime | None
    jobs: tuple[Job, ...] = ()
    queue: QueueInfo | None = None
    number: int = 0
    later: int = 0
    worker: WorkerInfo | None = None
    able: bool = True
    loop: Blocked | None = None

    @property
    def facts(self) -> tuple[object, ...]:
        """What is shown of it, but for what only the clock changes."""
        job, queue = next(iter(self.jobs), None), self.queue
        at = job.waiting_at.frames[:1] if job is not None and job.waiting_at is not None else ()
        return (
            (self.kind, self.since, len(self.jobs), self.number, self.later, self.able),
            job is not None and (job.id, job.state, job.held, job.attempt, job.cancelling, at),
            queue and (queue.queued, queue.waiting_at),
        )


@dataclass(frozen=True, slots=True)
class Pulse:
    """The state of all jobs, as far as every page shows it."""

    counts: dict[JobState, int]
    queues: list[QueueInfo]
    queue_count: int
    harms: list[Harm]
    fleet: Fleet
    taken: datetime
    until: datetime | None = field(compare=False)

    @property
    def facts(self) -> tuple[object, ...]:
        """What every page shows, and what the clock makes of the data: part of each ETag."""
        harms = [harm.facts for harm in self.harms]
        return tuple(self.counts.values()), harms, self.fleet.facts

    def holds(self, now: datetime) -> bool:
        """Whether the clock has changed nothing since."""
        return self.until is None or self.taken <= now < self.until

    def blocked(self, job: Job) -> QueueInfo | None:
        """The queue that this job blocks."""
        return next((harm.queue for harm in self.harms if harm.queue and harm.jobs[0].id == job.id), None)


class Watch:
    """Takes the pulse of a `Jobs`, and takes it again only when something may have changed."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._last: tuple[object, Pulse] | None = None

    async def pulse(self) -> Pulse:
        """The pulse now."""
        jobs, last = self._jobs, self._last
        changes = (jobs.revision, jobs.loop_blocked)
        if last and last[0] == changes and last[1].holds(jobs.now()):
            return last[1]
        pulse = await take(jobs)
        self._last = (changes, pulse)
        return pulse


async def take(jobs: Jobs) -> Pulse:
    """Look at everything once."""
    now = jobs.now()
    counts = await jobs.counts()
    queues = await jobs.queues(limit=QUEUES)
    fleet = await fleet_of(jobs)
    running = await _newest(jobs, counts, JobState.RUNNING)
    failed = await _newest(jobs, counts, JobState.FAILED)
    held_up = [*await _blocked(jobs, queues, running), *_stuck(running, now), *_gone(fleet), *_loop(jobs)]
    held_up.sort(key=lambda harm: harm.since or now)
    nobody = [*_nobody(jobs, fleet, counts), *await _unknown(jobs, fleet)]
    # What is held up comes first, the longest on top; of what failed the newest, not seen by anybody yet.
    harms = [*nobody, *held_up, *await _failures(jobs, failed)]
    number = len(queues) if len(queues) < QUEUES else await jobs.queue_count()
    turn = _next_turn(jobs, queues, running, now)
    return Pulse(counts, in_trouble_first(queues, harms), number, harms, fleet, now, turn)


def in_trouble_first(queues: Sequence[QueueInfo], harms: Sequence[Harm]) -> list[QueueInfo]:
    """Queues as they are listed: in trouble, paused, then by oldest wait."""
    troubled = {harm.jobs[0].queue for harm in harms if harm.kind in HELD_UP}
    return sorted(queues, key=lambda queue: (queue.name not in troubled, *_longest_wait_first(queue)))


def _longest_wait_first(queue: QueueInfo) -> tuple[bool, float, bool, str]:
    busy = bool(queue.running or queue.queued or queue.current)
    return (queue.paused_since is None, -(queue.oldest_wait or 0.0), not busy, queue.name)


async def known(jobs: Jobs, id: str | None) -> Job | None:
    """A job by its id; None when it has gone."""
    if id is None:
        return None
    try:
        return await jobs.get(id)
    except JobNotFound:
        return None


def not_stopping(job: Job, now: datetime) -> bool:
    """Whether it was asked to stop long enough ago to call it deaf."""
    return job.cancelling and job.cancel_requested_at is not None and now - job.cancel_requested_at > STOPPING


async def _newest(jobs: Jobs, counts: dict[JobState, int], state: JobState) -> list[Job]:
    number = counts.get(state, 0)  # not more than there are: a store need not look further for them
    return await jobs.find(state=state, limit=min(number, LOOKED_AT)) if number else []


async def _blocked(jobs: Jobs, queues: list[QueueInfo], running: list[Job]) -> list[Harm]:
    harms = []
    read = {job.id: job for job in running}
    for queue in [queue for queue in queues if queue.blocked_by][:NAMED]:
        job = read.get(queue.blocked_by or "") or await known(jobs, queue.blocked_by)
        if job is not None and queue.blocked_since is not None and not not_stopping(job, jobs.now()):
            harms.append(Harm("blocked", queue.blocked_since, (job,), queue))
    return harms


def _stuck(running: list[Job], now: datetime) -> list[Harm]:
    return [
        Harm("stuck", job.cancel_requested_at, (job,))
        for job in running
        if not_stopping(job, now) and job.cancel_requested_at is not None
    ]


def _nobody(jobs: Jobs, fleet: Fleet, counts: dict[JobState, int]) -> list[Harm]:
    """Jobs wait, and no worker lives that would run them."""
    queued, scheduled = (counts.get(state, 0) for state in WAITING)
    idle = jobs.durable and jobs.status == "running" and not fleet.able
    return [Harm("nobody", None, number=queued, later=scheduled)] if idle and queued + scheduled else []


def _gone(fleet: Fleet) -> list[Harm]:
    """Workers that are dead and whose jobs nobody has taken over."""
    return [
        Harm("gone", worker.seen_at, number=worker.busy, worker=worker, able=bool(fleet.able))
        for worker in fleet.workers
        if not worker.alive and worker.busy
    ]


def _loop(jobs: Jobs) -> list[Harm]:
    blocked = jobs.loop_blocked
    return [Harm("loop", blocked.since, loop=blocked)] if blocked else []


async def _unknown(jobs: Jobs, fleet: Fleet) -> list[Harm]:
    harms = []
    for task, number in list(fleet.unknown.items())[:UNKNOWN]:
        found = [job for state in WAITING for job in await jobs.find(state=state, task=task, limit=OF_EACH)]
        since = min(job.enqueued_at for job in found) if len(found) == number else None  # else there are older ones
        if found:  # or somebody has just run or cancelled them
            harms.append(Harm("unknown", since, tuple(found), number=number))
    return harms


async def _failures(jobs: Jobs, failed: list[Job]) -> list[Harm]:
    """Failures alike are one thing. What was run again is the new job's affair."""
    if not failed:
        return []
    again = {job.retry_of for job in await jobs.find(limit=LOOKED_AT)}
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in failed:
        if job.id not in again:
            groups.setdefault(alike(job), []).append(job)
    return [Harm("failed", group[0].finished_at or group[0].enqueued_at, tuple(group)) for group in groups.values()]


def alike(job: Job) -> tuple[str, str]:
    """What failures have in common: task and exception."""
    return job.task, short_type(job.error.type) if job.error else ""


def _next_turn(jobs: Jobs, queues: list[QueueInfo], running: list[Job], now: datetime) -> datetime | None:
    """When time alone may change the pulse next: a queue becomes blocked, a job is seen not to stop."""
    turns = [
        job.cancel_requested_at + STOPPING + timedelta(milliseconds=1)
        for job in running
        if job.cancelling and job.cancel_requested_at is not None and not not_stopping(job, now)
    ]
    # How long a job waits, and behind which line of code, moves on; in a database others may have changed anything.
    if jobs.durable or any(queue.oldest_wait is not None for queue in queues):
        turns.append(now + TICK)
    return min(turns, default=None)
