"""SAQ on PostgreSQL with `group_key`: one job of a group is active at a time (in which order is not promised)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from saq import Worker
from saq.queue.postgres import PostgresQueue

from benchmarks.peers.sql import Driver, Tally, by_callers


class _Saq:
    def __init__(self, queue: PostgresQueue, tally: Tally) -> None:
        self.queue = queue
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await self.queue.enqueue("noop", number=0, group_key=name, ttl=0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        await by_callers(self, names)

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        while await self.queue.count("incomplete"):
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """A new schema; as many jobs at once as ours, and its own pool of 4 to 20 connections."""
    logging.getLogger("saq").setLevel(logging.ERROR)  # it warns that it cancels callers that wait for jobs
    queue, tally = PostgresQueue.from_url(url), Tally()

    async def noop(ctx: Any, *, number: int) -> None:
        tally.add()

    await queue.connect()
    worker = Worker(queue, functions=[("noop", noop)], concurrency=100)
    worker.SIGNALS = []
    task = asyncio.create_task(worker.start()) if running else None
    yield _Saq(queue, tally)
    if task is not None:
        await worker.stop()
        await task
    await queue.disconnect()
