"""Procrastinate with `lock`, its way of running jobs of one name one after another; the worker in this process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.peers.sql import Driver, Tally

COUNT = "SELECT count(*) AS ended FROM procrastinate_jobs WHERE status = 'succeeded'"


class _Procrastinate:
    def __init__(self, app: App, noop: Any, tally: Tally) -> None:
        self.app = app
        self.noop = noop
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await self.noop.configure(lock=name).defer_async(number=0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        jobs = [self.noop.configure(lock=name, task_kwargs={"number": 0}).job for name in names]
        await self.app.job_manager.batch_defer_jobs_async(jobs)

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        while (await self.app.connector.execute_query_one_async(COUNT))["ended"] < count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(
    url: str, names: Sequence[str | None], running: bool, *, concurrency: int = 100, polling: float = 5.0
) -> AsyncIterator[Driver]:
    """A new schema; as many jobs at once as ours, a pool as large, and its default pause between two looks."""
    app, tally = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20)), Tally()

    @app.task(name="noop")
    async def noop(number: int) -> None:
        """The job."""
        tally.add()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        if not running:
            yield _Procrastinate(app, noop, tally)
            return
        work = app.run_worker_async(
            concurrency=concurrency, fetch_job_polling_interval=polling, install_signal_handlers=False
        )
        worker = asyncio.create_task(work)
        yield _Procrastinate(app, noop, tally)
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
