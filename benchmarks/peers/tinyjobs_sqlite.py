"""tinyjobs with its worker inside the server's process, as its documentation shows it for FastAPI.

It opens SQLite with `synchronous=NORMAL`, which in WAL mode does not wait for the disk at a commit; here it has to,
as the others do.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tinyjobs import TinyJobs
from tinyjobs.backends.sqlite import connection

from benchmarks.peers.sql import Driver, Tally, by_callers

DURABLE = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")


class _TinyJobs:
    def __init__(self, app: TinyJobs, noop: Any, tally: Tally) -> None:
        self.app = app
        self.noop = noop
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await self.noop.aenqueue(0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        await by_callers(self, names)

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        while (await self.app.acounts()).get("success", 0) < count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """The database is a file; queue names are passed over, for each would be one worker's list of queues."""
    connection.FILE_PRAGMAS = DURABLE
    app, tally = TinyJobs(f"sqlite:///{url}"), Tally()

    @app.task
    async def noop(number: int) -> None:
        """The job."""
        tally.add()

    async with app.serve(worker=True, concurrency=100) if running else app.serve():
        yield _TinyJobs(app, noop, tally)
