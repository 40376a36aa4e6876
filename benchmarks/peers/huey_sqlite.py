"""huey's SqliteHuey with fsync, and a consumer in threads; tasks are plain functions there.

Callers of an ASGI application reach it through threads. `store_none` makes it record the end of a job that
returns nothing, as the others do.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from huey import SqliteHuey

from benchmarks.peers.sql import Driver, by_callers

WORKERS = 4
"""Threads of the consumer. More are slower: they contend for the one write lock."""


class _Huey:
    def __init__(self, huey: Any, noop: Any) -> None:
        self.huey = huey
        self.noop = noop

    async def enqueue(self, name: str | None) -> None:
        await asyncio.to_thread(self.noop, 0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        await by_callers(self, names)

    async def ended(self, count: int) -> None:
        while self.huey.result_count() < count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """The database is a file; queue names are passed over."""
    huey = SqliteHuey(filename=url, fsync=True, timeout=60, store_none=True)

    @huey.task()
    def noop(number: int) -> None:
        """The job."""

    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    consumer = huey.create_consumer(workers=WORKERS, periodic=False, initial_delay=0.01, max_delay=0.01)
    if running:
        consumer.start()
        for signum, handler in kept.items():
            signal.signal(signum, handler)
    yield _Huey(huey, noop)
    if running:
        await asyncio.to_thread(consumer.stop, graceful=True)
