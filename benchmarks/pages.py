"""Every page over a million records, in each store: how long it takes, and how long it holds the event loop at most."""

import asyncio
import logging
import sqlite3
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any

import asyncpg

from asgi_jobs import Jobs, JobState
from benchmarks.page import fail, fetched
from benchmarks.peers.ours import allow, noop
from benchmarks.places import Places
from benchmarks.postgres import for_asyncpg
from benchmarks.scale import PageScale
from benchmarks.table import Row

DAY = timedelta(days=1)
FAILING = 1_000
"""One job in so many has failed."""
BATCH = 50_000
LATEST = 10.0
"""Milliseconds that nothing may hold the loop."""

FILL = """
INSERT INTO asgi_jobs (id, seq, queue, task, name, args, state, attempt, source, enqueued_at, since_at, started_at,
                       finished_at, error_type, error_message)
SELECT {id}, n, 'q' || n % 100, 'noop', 'noop', '{{}}', CASE n % 1000 WHEN 0 THEN 5 ELSE 4 END, 1, 'code', t, t, t, t,
       CASE n % 1000 WHEN 0 THEN 'ValueError' END, CASE n % 1000 WHEN 0 THEN 'no' END
FROM {numbers}
"""
IN_SQLITE = FILL.format(
    id="printf('%022d', n)",
    numbers="(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n FROM c), "
    "(SELECT (julianday('now') - 2440587.5) * 86400.0 AS t)",
)
IN_POSTGRESQL = FILL.format(
    id="to_char(n, 'FM0000000000000000000000')",
    numbers="generate_series(1, $1::bigint) n "
    "CROSS JOIN (SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) t) now",
)


def rows(scale: PageScale, stores: Sequence[str]) -> list[Row]:
    """Median time of each page, and the longest single step of any of its answers."""
    logging.getLogger("asgi_jobs").addHandler(logging.NullHandler())
    logging.getLogger("asgi_jobs").propagate = False
    with Places() as places:
        return [row for store in stores for row in asyncio.run(_measured(store, scale, places))]


async def _measured(store: str, scale: PageScale, places: Places) -> list[Row]:
    async with OPENED[store](scale, places) as (jobs, deep):
        newest = await jobs.find(limit=1)
        pages = {
            "overview": "/",
            "jobs": "/jobs",
            "jobs, failed": "/jobs?state=failed",
            "jobs of a queue": "/jobs?queue=rare",
            "jobs of a queue that has none": "/jobs?queue=none",
            "jobs of a task that has none": "/jobs?task=none",
            "jobs of a queue that have failed": "/jobs?queue=q1&state=failed",
            "jobs, a page in the middle": f"/jobs?before={deep}",
            "search in vain": "/jobs?q=nowhere",
            "a job": f"/jobs/{newest[0].id}",
            f"queues, {scale.queues:,} at work": "/queues",
            "queues, the third hundred": "/queues?start=200",
            "tasks": "/tasks",
        }
        about = f"{store}, {scale.listed:,} records: "
        return [await _page(jobs, about + name, path, scale.polls) for name, path in pages.items()]


async def _page(jobs: Jobs, figure: str, path: str, times: int) -> Row:
    took, held = [], []
    for _ in range(times):
        steps = Steps(fetched(jobs, path))
        begin = perf_counter()
        status = (await steps)[0]
        took.append((perf_counter() - begin) * 1e3)
        assert status == 200, (path, status)
        held.append(steps.longest * 1e3)
    longest = statistics.median(held)
    return Row(
        figure, f"{statistics.median(took):.3g} ms", "holds the loop", f"{longest:.3g} ms", None, f"≤ {LATEST:g} ms",
        longest <= LATEST,
    )  # fmt: skip


@asynccontextmanager
async def _in_memory(scale: PageScale, places: Places) -> AsyncIterator[tuple[Jobs, str]]:
    go, middle = asyncio.Event(), ""

    async def hold() -> None:
        await go.wait()

    async with Jobs(authorize=allow, max_finished=scale.listed + 1, concurrency=scale.queues + 1) as jobs:
        await jobs.enqueue(noop, 0, queue="rare").wait()
        for first in range(0, scale.listed, BATCH):
            for number in range(first, min(first + BATCH, scale.listed)):
                job = jobs.enqueue(fail if number % FAILING == 0 else noop, number, queue=f"q{number % 100}")
                middle = job.id if number == scale.listed // 2 else middle
            await jobs.join()
        for number in range(scale.queues):
            jobs.enqueue(hold, queue=f"busy {number}")
            jobs.enqueue(hold, queue=f"busy {number}")
        while (await jobs.counts())[JobState.RUNNING] < scale.queues:
            await asyncio.sleep(0)
        try:
            yield jobs, middle
        finally:
            go.set()


@asynccontextmanager
async def _on_sqlite(scale: PageScale, places: Places) -> AsyncIterator[tuple[Jobs, str]]:
    def fill(path: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(IN_SQLITE, (scale.listed,))
            connection.execute("ANALYZE")

    with places.sqlite() as path:
        async with _shown(f"sqlite+aiosqlite:///{path}", scale, partial(asyncio.to_thread, fill, path)) as opened:
            yield opened


@asynccontextmanager
async def _on_postgresql(scale: PageScale, places: Places) -> AsyncIterator[tuple[Jobs, str]]:
    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(IN_POSTGRESQL, scale.listed)
        await connection.execute("VACUUM ANALYZE asgi_jobs")
        await connection.close()

    with places.postgresql() as url:
        async with _shown(for_asyncpg(url), scale, partial(fill, url)) as opened:
            yield opened


@asynccontextmanager
async def _shown(url: str, scale: PageScale, fill: Callable[[], Awaitable[None]]) -> AsyncIterator[tuple[Jobs, str]]:
    """A process that shows the page and runs nothing, so that what is enqueued waits."""
    jobs = Jobs(store=url, authorize=allow, concurrency=0, max_finished=2 * scale.listed, cleanup_interval=DAY)
    waits = jobs.task(key="noop")(noop)
    async with jobs:
        await fill()
        for number in range(scale.queues):
            await waits.using(queue=f"busy {number}").enqueue(number)
        await waits.using(queue="rare").enqueue(0)
        yield jobs, f"{scale.listed // 2:022d}"


OPENED: dict[str, Callable[[PageScale, Places], AbstractAsyncContextManager[tuple[Jobs, str]]]] = {
    "memory": _in_memory,
    "sqlite": _on_sqlite,
    "postgresql": _on_postgresql,
}


class Steps:
    """Awaits something and notes how long its longest step took: for so long nothing else had its turn."""

    def __init__(self, awaited: Awaitable[Any]) -> None:
        self.longest = 0.0
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        """Step by step."""
        steps = self._awaited.__await__()
        while True:
            begin = perf_counter()
            try:
                waits_for = next(steps)
            except StopIteration as end:
                return end.value
            finally:
                self.longest = max(self.longest, perf_counter() - begin)
            yield waits_for
