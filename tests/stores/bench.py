"""What the contract suite needs of any store: jobs made by hand, time that stands still, and books that are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from asgi_jobs.call import Plan
from asgi_jobs.clock import Epoch
from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.job import ALLOWED, JobError, JobState, Record
from asgi_jobs.stores.base import Claimed, Outcome, Query, Standing, Store, Verdict
from asgi_jobs.stores.memory import MemoryStore
from asgi_jobs.task import Policy

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


class Bench:
    """A store, and everything that is done to it. After each step the states of all jobs are looked at."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.woken = 0
        self.store: Store
        self.moves: list[tuple[JobState | None, JobState]] = []
        self._seen: dict[str, JobState] = {}
        self._numbers = count(1)
        self._epoch = Epoch("0123456789", WALL - self.now)
        self._plans: dict[tuple[str, bool], Plan] = {}

    def monotonic(self) -> float:
        return self.now

    def wake(self) -> None:
        self.woken += 1

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
        plan = self._plans.get((task, threaded))
        if plan is None:
            plan = self._plans[task, threaded] = Plan(work, Policy(), key=task, label=task, threaded=threaded)
        record = Record(next(self._numbers), self._epoch, plan, work, args, None, queue, name, self.now)
        if delay is not None:
            record.detail().due = self.now + delay
        if unique is not None:
            record.detail().unique = unique
        return record

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
        place = await resolve(self.store.place(await self.get(record)))
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


KINDS: dict[str, Callable[..., Any]] = {"memory": memory}
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
