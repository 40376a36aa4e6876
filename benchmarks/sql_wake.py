"""How soon a worker in another process runs the first line of a job."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from asgi_jobs import Jobs
from benchmarks.measure import percentile
from benchmarks.peers.ours_sql import store_of
from benchmarks.places import Places
from benchmarks.scale import SqlScale
from benchmarks.table import Row, at_most

COMMAND = (sys.executable, "-m", "asgi_jobs", "worker", "benchmarks.wake_app:jobs")
ROOT = Path(__file__).parents[1]
PAUSE = 0.02
"""Seconds between two jobs: the worker is idle when the next one comes."""


def in_another_process(scale: SqlScale, places: Places) -> list[Row]:
    """From the call of `enqueue` here to the first line there, one by one."""
    rows = []
    for database, place in {"PostgreSQL": places.postgresql, "SQLite": places.sqlite}.items():
        with place() as url:
            times = asyncio.run(_wakes(store_of(url), scale.wakes))
        figure = f"{database}: enqueue → first line in another process"
        half = percentile(times, 0.5)
        rows.append(
            at_most(f"{figure}, p50", half, 10, "ms") if database == "PostgreSQL" else _row(figure, "p50", half)
        )
        rows.append(_row(figure, "p99", percentile(times, 0.99)))
    return rows


def _row(figure: str, share: str, value: float) -> Row:
    return Row(f"{figure}, {share}", f"{value:.3g} ms")


async def _wakes(store: str, count: int) -> list[float]:
    jobs = Jobs(store=store, concurrency=0, authorize="local")

    @jobs.task(key="first line")
    async def first_line(sent: int) -> None:
        """Runs in the worker."""

    async with jobs, _worker(store) as said:
        times = []
        for _ in range(count + 1):
            await first_line.enqueue(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
            times.append(int(await said.readline()) / 1e6)
            await asyncio.sleep(PAUSE)
        return times[1:]  # the first one waited for the worker to start


@asynccontextmanager
async def _worker(store: str) -> AsyncIterator[asyncio.StreamReader]:
    environment = {**os.environ, "BENCHMARK_STORE": store}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env=environment
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()
