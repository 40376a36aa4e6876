"""What the contract suite needs of any store: jobs made by hand, time that stands still, and books that are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from asgi_jobs.call import Plan
from asgi_jobs.clock import Clock, Epoch
from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.job import ALLOWED, JobError, JobState, Record
from asgi_jobs.stores.base import Claimed, Outcome, Query, Standing, Store, Verdict
from asgi_jobs.stores.memory import MemoryStore
from asgi_jobs.stores.sql import SqlStore, metadata
from asgi_jobs.task import Policy, Task
from tests import postgres

NOBODY: Any = None
WALL = 1_750_000_000.0


def work(*_: Any) -> None:
    """What every job of the suite would run."""


@dataclass(eq=False)
class Ended:
    """The outcome of an attempt, as the engine hands it in."""

    record: Record
    verdict: Verdict = Verdict.SUCCEEDED
    delay: float = 0.0
    counted: bool = True
    error: JobError | None = None
    result: str | None = None
    settled: bool = False
    claim: int | None = None

    def __post_init__(self) -> None:
        self.claim = self.record.detail().claim


class Clockwork(Clock):
    """The bench's time as a clock."""

    def __init__(self, bench: Bench) -> None:
        self.monotonic = lambda: bench.now
        self.time = lambda: bench.now + WALL - 1_000.0


class Bench:
    """A store, and everything that is done to it. After each step the states of all jobs are looked at."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.woken = 0
        self.asked: list[str] = []
        self.heard_of: list[str] = []
        self.taken: list[Sequence[str] | None] = []
        self.store: Store
        self.moves: list[tuple[JobState | None, JobState]] = []
        self._seen: dict[str, JobState] = {}
        self._numbers = count(1)
        self._epoch = Epoch("0123456789", WALL - self.now)
        self.tasks: dict[str, Task[Any, Any]] = {}

    @property
    def pace(self) -> tuple[int, int]:
        """How many random steps are made, and after how many the books are checked: a look costs a database more."""
        return (100, 10) if self.store.durable else (300, 1)

    def monotonic(self) -> float:
        return self.now

    def wake(self) -> None:
        self.woken += 1

    def asked_to_stop(self, id: str) -> None:
        self.asked.append(id)

    def ended(self, ids: Sequence[str]) -> None:
        self.heard_of += ids

    def lost(self, ids: Sequence[str] | None) -> None:
        self.taken.append(ids)

    def job(
        self,
        name: str = "job",
        queue: str | None = None,
        *,
        task: str = "suite:work",
        threaded: bool = False,
        delay: float | None = None,
        unique: str | None = None,
        args: tuple[Any, ...] = (),
    ) -> Record:
        plan = self._plan(f"{task}_in_a_thread" if threaded else task, threaded)
        record = Record(next(self._numbers), self._epoch, plan, work, args, None, queue, name, self.now)
        if delay is not None:
            record.detail().due = self.now + delay
        if unique is not None:
            record.detail().unique = unique
        return record

    def _plan(self, key: str, threaded: bool) -> Plan:
        task = self.tasks.get(key)
        if task is None:
            plan = Plan(work, Policy(), key=key, label=key, threaded=threaded)
            task = self.tasks[key] = Task(work, plan, NOBODY)
        return task.plan

    async def add(self, *records: Record, bounded: bool = True) -> list[str]:
        stored = await resolve(self.store.add(records, bounded=bounded))
        await self._look()
        return [record.id for record in stored]

    async def queue(self, queue: str | None, *names: str, **options: Any) -> list[Record]:
        """Add jobs of these names to a queue."""
        records = [self.job(name, queue, **options) for name in names]
        await self.add(*records)
        return records

    async def exchange(self, outcomes: Sequence[Outcome] = (), n: int = 1_000, threads: int = 1_000) -> Claimed:
        claimed = await resolve(self.store.exchange(outcomes, n, threads))
        await self._look()
        return claimed

    async def claim(self, n: int = 1_000, threads: int = 1_000) -> list[Record]:
        return list((await self.exchange((), n, threads)).jobs)

    async def end(self, record: Record, verdict: Verdict = Verdict.SUCCEEDED, **rest: Any) -> None:
        """Hand in an outcome, and take nothing."""
        await self.exchange([Ended(record, verdict, **rest)], 0, 0)

    async def due(self) -> float | None:
        found = await resolve(self.store.due())
        await self._look()
        return found

    async def pass_time(self, seconds: float) -> float | None:
        self.now += seconds
        return await self.due()

    async def cancel(self, *ids: str, reason: str = "") -> tuple[list[str], list[str]]:
        answer = await resolve(self.store.cancel(ids, reason))
        await self._look()
        return [record.id for record in answer.ended], [record.id for record in answer.asked]

    async def get(self, record: Record) -> Record:
        found = await resolve(self.store.get(record.id))
        assert found is not None
        return found

    async def state(self, record: Record) -> JobState:
        return (await self.get(record)).state

    async def find(self, **query: Any) -> list[str]:
        return names(await resolve(self.store.find(Query(**query))))

    async def standing(self, queue: str) -> Standing | None:
        standings = await resolve(self.store.standings())
        return next((standing for standing in standings if standing.name == queue), None)

    async def place(self, record: Record) -> tuple[int, str | None] | None:
        place = (await resolve(self.store.places([await self.get(record)]))).get(record.id)
        return None if place is None else (place.position, place.behind.name if place.behind else None)

    async def counts(self) -> dict[JobState, int]:
        return await resolve(self.store.counts())

    async def _look(self) -> None:
        for record in await resolve(self.store.find(Query(limit=10_000))):
            before = self._seen.get(record.id)
            if record.state is not before:
                self._seen[record.id] = record.state
                self.moves.append((before, record.state))

    async def check_books(self) -> None:
        """Every move was allowed, and the counts are those of the records."""
        illegal = [(old, new) for old, new in self.moves if old is not None and new not in ALLOWED[old]]
        assert not illegal
        kept = await resolve(self.store.find(Query(limit=1_000_000)))
        assert await self.counts() == {state: sum(r.state is state for r in kept) for state in JobState}
        unfinished = sum(r.state in (JobState.QUEUED, JobState.RUNNING) or (r.held) for r in kept)
        assert await resolve(self.store.pending()) == unfinished


@asynccontextmanager
async def memory(bench: Bench, **settings: Any) -> AsyncIterator[Store]:
    """The store in memory."""
    yield MemoryStore(monotonic=bench.monotonic, **settings)


@asynccontextmanager
async def sqlite(bench: Bench, **settings: Any) -> AsyncIterator[Store]:
    """The store in a file."""
    with TemporaryDirectory() as directory:
        yield _sql(bench, f"sqlite+aiosqlite:///{directory}/jobs.db", settings)


@asynccontextmanager
async def postgresql(bench: Bench, **settings: Any) -> AsyncIterator[Store]:
    """The store in a PostgreSQL server."""
    url = postgres.database()
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for table in metadata.sorted_tables:
            await connection.execute(table.delete())
    await engine.dispose()
    yield _sql(bench, url.render_as_string(hide_password=False), settings)


def _sql(bench: Bench, url: str, settings: Mapping[str, Any]) -> SqlStore:
    store = SqlStore(
        url,
        tasks=lambda: bench.tasks,
        concurrency=1_000,
        direct_url=None,
        create_tables=True,
        clock=Clockwork(bench),
        **settings,
    )
    store.grace = 1e9  # the bench's clock leaps: after that it would take the server's silence for an outage
    return store


KINDS: dict[str, Callable[..., Any]] = {"memory": memory, "sqlite": sqlite, "postgresql": postgresql}
"""Each kind of store, and how one is opened for a test: a new, empty one. A further kind is a further entry."""


@asynccontextmanager
async def opened(
    kind: str,
    *,
    limits: Mapping[str, int] | None = None,
    max_queued: int = 100_000,
    max_finished: int = 100_000,
) -> AsyncIterator[Bench]:
    bench = Bench()
    async with KINDS[kind](bench, limits=limits or {}, max_queued=max_queued, max_finished=max_finished) as store:
        bench.store = store
        await resolve(store.open(bench))
        yield bench
        await bench.check_books()
        await resolve(store.close())


def names(records: Sequence[Record]) -> list[str]:
    return [record.name for record in records]
