"""A durable store as the engine sees it: it answers later, when told to, and fails when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import patch

from asgi_jobs import Jobs
from asgi_jobs.clock import Clock, Epoch
from asgi_jobs.errors import StoreAway
from asgi_jobs.job import JobState, Record
from asgi_jobs.settings import Settings
from asgi_jobs.stores.base import Callbacks, Claimed, Outcome, Ticket, Worker
from asgi_jobs.stores.memory import MemoryStore
from asgi_jobs.task import Task
from tests.stores.bench import Ended

PREFIX = "durable000"


def slow(verb: str) -> Any:
    """The verb of the memory store, answered later."""

    async def method(self: LaterStore, *args: Any, **rest: Any) -> Any:
        return await self.later(verb, *args, **rest)

    return method


class LaterStore(MemoryStore):
    """The memory store behind a wire.

    `hold(verb)` keeps the answers to a verb back until the event that it gives is set; `fail(verb, error, …)` lets
    the next ones fail; while `away` is true every verb does. `calls` has what was asked, in order.
    """

    durable = True

    def __init__(self, tasks: Callable[[], Mapping[str, Task[Any, Any]]], settings: Settings, clock: Clock) -> None:
        super().__init__(
            limits=settings.queues,
            max_queued=settings.max_queued,
            max_finished=settings.max_finished,
            monotonic=clock.monotonic,
        )
        self._tasks = tasks
        self.concurrency = settings.concurrency
        self._clock = clock
        self._claims = count(1)
        self.calls: list[str] = []
        self.batches: list[list[str]] = []
        self.away = False
        self.taken: set[str] = set()  # ids of jobs that another process has taken over
        self.own_binds: list[Any] = []
        self.rows: list[Record] = []  # of a transaction that has not ended
        self.watched: list[str] = []
        self.reports: list[list[str]] = []
        self.released: list[str] = []
        self.since: float | None = None
        self.settles = True
        self.settled: list[tuple[str, str | None]] = []
        self.people: list[Worker] = []
        self.closed = False
        self.late: list[str] = []  # outcomes that came after that
        self.elsewhere = ""  # jobs of this name are claimed by another process
        self.callbacks: Callbacks
        self._gates: dict[str, asyncio.Event] = {}
        self._errors: dict[str, list[BaseException]] = {}

    # What a test does with it

    def hold(self, verb: str) -> asyncio.Event:
        gate = self._gates[verb] = asyncio.Event()
        return gate

    def fail(self, verb: str, *errors: BaseException) -> None:
        self._errors.setdefault(verb, []).extend(errors)

    def end_elsewhere(self, record: Record) -> None:
        """Another process runs the job, and tells of its end."""
        self.claim_elsewhere(record)
        self.end(record)
        self.callbacks.ended([record.id])

    def claim_elsewhere(self, record: Record) -> None:
        """Another process runs the job."""
        claimed = MemoryStore.exchange(self, (), 1, 1)
        assert list(claimed.jobs) == [record]

    def end(self, record: Record) -> None:
        """The end of a job is stored, whoever ran it."""
        MemoryStore.exchange(self, [Ended(record)], 0, 0)

    async def later(self, verb: str, *args: Any, **rest: Any) -> Any:
        self.calls.append(verb)
        await asyncio.sleep(0)
        await self._gate(verb)
        return getattr(super(), verb)(*args, **rest)

    async def _gate(self, verb: str) -> None:
        if verb in self._gates:
            await self._gates[verb].wait()
        if self._errors.get(verb):
            raise self._errors[verb].pop(0)
        if self.away:
            raise StoreAway("the database does not answer")

    # Store

    def open(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self.closed = False

    async def close(self) -> None:  # type: ignore[override]
        await self._gate("close")
        self.closed = True

    due = slow("due")
    cancel = slow("cancel")
    pause = slow("pause")
    resume = slow("resume")
    get = slow("get")
    find = slow("find")
    counts = slow("counts")
    pending = slow("pending")
    waiting_in = slow("waiting_in")
    standings = slow("standings")
    holders = slow("holders")
    place = slow("place")
    prune = slow("prune")

    async def add(self, records: Sequence[Record], *, bounded: bool = True) -> Sequence[Record]:  # type: ignore[override]
        self.batches.append([record.name for record in records])
        await asyncio.sleep(0)
        await self._gate("add")
        return super().add(records, bounded=bounded)

    def exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Any:
        if self.closed:
            self.late += [outcome.record.name for outcome in outcomes]
        return self._exchange(outcomes, n, threads) if outcomes or n else Claimed(())

    async def _exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Claimed:
        refused = [outcome for outcome in outcomes if outcome.record.id in self.taken]
        accepted = [outcome for outcome in outcomes if outcome not in refused]
        await self._gate("exchange")
        claimed = super().exchange(accepted, n, threads)
        await self._gate("answer")
        claimed = claimed._replace(jobs=[one for one in claimed.jobs if one.name != self.elsewhere])
        for record in claimed.jobs:
            task = self._tasks()[record.plan.key]
            details = record.detail()
            assert details.payload is not None
            details.claim = next(self._claims)
            record.func = task.function
            record.args, record.kwargs = task.codec.decode(details.payload)
        return claimed._replace(refused=refused)

    def drained(self, until: float) -> bool:
        return not self._running

    def abandon(self, reason: str) -> list[Record]:
        return []

    async def propose(self, record: Record, tick: float) -> bool:  # type: ignore[override]
        await self._gate("propose")
        key = record.plan.key
        ticket = MemoryStore.ticket(self, key)
        if ticket.last is not None and ticket.last >= tick:
            return False
        MemoryStore.add(self, (record,))
        self._tickets[key] = Ticket(tick, ticket.skipped, record)
        return True

    async def ticket(self, task: str) -> Ticket:  # type: ignore[override]
        await self._gate("ticket")
        return MemoryStore.ticket(self, task)._replace(since=self.since)

    async def tickets(self, tasks: Sequence[str]) -> dict[str, Ticket]:  # type: ignore[override]
        self.calls.append("tickets")
        return {task: await self.ticket(task) for task in tasks}

    # DurableStore

    def stamp(self, record: Record) -> None:
        record.epoch = Epoch(PREFIX, self.time() - self._clock.monotonic())

    def time(self) -> float:
        return self._clock.time()

    def owns(self, bind: Any) -> bool:
        return bind in self.own_binds

    def write(self, session: Any, records: Sequence[Record]) -> None:
        assert session.in_transaction()
        if self._errors.get("write"):
            raise self._errors["write"].pop(0)
        self.rows = [*self.rows, *records]

    def written(self, records: Sequence[Record]) -> None:
        assert self.rows == list(records)
        self.rows = []
        super().add(records, bounded=False)

    def settle(self, session: Any, record: Record, result: str | None) -> bool:
        assert session.in_transaction()
        self.settled.append((record.name, result))
        return self.settles

    async def read(self, record: Record) -> bool:
        await self._gate("read")
        return record.number in self._records

    async def watch(self, record: Record) -> None:
        self.watched.append(record.name)
        await self._gate("watch")

    async def report(self, records: Sequence[Record]) -> None:
        await self._gate("report")
        self.reports.append([record.name for record in records])

    async def release(self, id: str) -> Record | None:
        record = self._find(id)
        if record is None or record.state is not JobState.RUNNING:
            return None
        self.released.append(record.name)
        return record

    async def workers(self, *, running: bool = True) -> list[Worker]:
        return self.people if running else [replace(one, running=()) for one in self.people]

    async def unknown_tasks(self) -> dict[str, int]:
        return {"gone:task": 3}

    async def trouble(self) -> str | None:
        return "the database does not answer" if self.away else None


def durable_jobs(**options: Any) -> tuple[Jobs, LaterStore]:
    """A `Jobs` on such a store, and the store."""
    made: list[LaterStore] = []

    def open_store(_: Any, settings: Settings, clock: Clock, tasks: Any) -> LaterStore:
        made.append(LaterStore(tasks, settings, clock))
        return made[0]

    with patch("asgi_jobs.app.open_store", open_store):
        jobs = Jobs(authorize="local", **options)
    return jobs, made[0]
