"""PgQueuer, which runs jobs one after another per entrypoint: each name is an entrypoint with a limit of 1.

Entrypoints are declared before the worker starts, so names that come up later are not possible there.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.sql import Driver, Tally

COUNT = "SELECT count(*) FROM pgqueuer"
"""What has ended is moved to a log."""


class _PgQueuer:
    def __init__(self, pool: asyncpg.Pool, queries: Queries, tally: Tally) -> None:
        self.pool = pool
        self.queries = queries
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await self.queries.enqueue(name or "noop", b"0")

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        await self.queries.enqueue([name or "noop" for name in names], [b"0"] * len(names), [0] * len(names))

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        while await self.pool.fetchval(COUNT):
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """A new schema; batches of 100, and as many jobs at once as that allows."""
    async with asyncpg.create_pool(url, min_size=4, max_size=20) as pool:
        pgq, tally = PgQueuer.from_asyncpg_pool(pool), Tally()
        queries = Queries.from_asyncpg_pool(pool)
        await queries.install()

        async def noop(job: Job) -> None:
            tally.add()

        for name in dict.fromkeys(name or "noop" for name in names):
            pgq.entrypoint(name, concurrency_limit=1 if any(names) else 0)(noop)
        if running:
            worker = asyncio.create_task(pgq.run(batch_size=100, dequeue_timeout=timedelta(seconds=5)))
        yield _PgQueuer(pool, queries, tally)
        if running:
            pgq.shutdown.set()
            await worker
