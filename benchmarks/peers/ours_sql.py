"""asgi_jobs on a database, with its default settings but for records, which are all kept."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from asgi_jobs import Jobs, Task
from benchmarks.peers.ours import allow
from benchmarks.peers.sql import Driver, Tally
from benchmarks.postgres import for_asyncpg


class OnSql:
    """An engine that runs, or, with `concurrency=0`, only enqueues."""

    def __init__(self, jobs: Jobs, noop: Task[[int], Coroutine[Any, Any, None]], tally: Tally) -> None:
        self.jobs = jobs
        self.noop = noop
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await self.noop.using(queue=name).enqueue(0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        for job in [self.noop.using(queue=name).enqueue(0) for name in names]:
            await job

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        await self.jobs.join()


def store_of(url: str) -> str:
    """The same place as `Jobs(store=…)` wants it."""
    return for_asyncpg(url) if url.startswith("postgresql:") else f"sqlite+aiosqlite:///{url}"


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """The database is a file of SQLite, or a URL of PostgreSQL."""
    jobs = Jobs(
        store=store_of(url),
        concurrency=100 if running else 0,
        max_queued=10_000_000,
        max_finished=10_000_000,
        retention=timedelta(days=1),
        authorize=allow,
    )
    tally = Tally()

    @jobs.task(key="noop")
    async def noop(number: int) -> None:
        """The job."""
        tally.add()

    async with jobs:
        yield OnSql(jobs, noop, tally)
