"""What one ``enqueue`` costs, and how soon an idle engine runs the first line of a job."""

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asgi_jobs import Jobs
from benchmarks.measure import percentile
from benchmarks.peers.ours import allow, noop
from benchmarks.scale import Scale
from benchmarks.table import Row, at_most

CHUNK = 100
BREATH = 1_000
"""After so many calls the loop gets its turn: a blocked one would be looked into by the watchdog."""


def enqueue_cost(scale: Scale) -> list[Row]:
    """The call itself while others wait, all without a queue or each in a queue of its own."""
    rows = []
    for depth in scale.depths:
        rows += _cost_row(f"enqueue, {depth:,} waiting", depth, scale.enqueues, lambda number: None)
    depth = scale.depths[-1]
    return rows + _cost_row(f"enqueue, {depth:,} queue names", depth, scale.enqueues, lambda n: f"q{n}")


def _cost_row(figure: str, depth: int, calls: int, name: Callable[[int], str | None]) -> list[Row]:
    filling, costs = asyncio.run(_cost_behind(depth, calls, name))
    row = at_most(f"{figure}, median", statistics.median(costs), 4, "µs")
    if depth == 1:
        return [row]
    return [row, Row(f"{figure}, mean of all, collector included", f"{filling:.3g} µs")]


async def _cost_behind(depth: int, calls: int, name: Callable[[int], str | None]) -> tuple[float, list[float]]:
    async with _occupied(depth + calls) as jobs:
        begin = time.perf_counter()
        for number in range(depth - 1):
            jobs.enqueue(noop, number, queue=name(number))
            if number % BREATH == 0:
                await asyncio.sleep(0)
        filling = (time.perf_counter() - begin) / max(depth - 1, 1) * 1e6
        gc.collect()
        return filling, [_chunk(jobs, depth + n, name) for n in range(0, calls, CHUNK)]


def _chunk(jobs: Jobs, first: int, name: Callable[[int], str | None]) -> float:
    names = [name(number) for number in range(first, first + CHUNK)]
    begin = time.perf_counter()
    for queue in names:
        jobs.enqueue(noop, first, queue=queue)
    return (time.perf_counter() - begin) / CHUNK * 1e6


@asynccontextmanager
async def _occupied(room: int) -> AsyncIterator[Jobs]:
    """An engine whose only place is taken, so that all that comes has to wait."""
    async with Jobs(authorize=allow, concurrency=1, max_queued=room + 1, max_finished=0) as jobs:
        started, released = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            started.set()
            await released.wait()

        jobs.enqueue(hold)
        await started.wait()
        yield jobs
        released.set()
        await jobs.join()


def wake(scale: Scale) -> list[Row]:
    """From the call of ``enqueue`` to the first line of the job, one by one; the idiom beside it."""
    ours, idiom = asyncio.run(_wakes(scale.wakes))
    row = at_most("idle engine: enqueue → first line, p99", percentile(ours, 0.99), 1, "ms")
    return [_beside(ours, idiom, 0.5, "idle engine: enqueue → first line, p50"), row]


def _beside(ours: list[float], idiom: list[float], share: float, figure: str) -> Row:
    mine, other = percentile(ours, share), percentile(idiom, share)
    return Row(figure, f"{mine:.3g} ms", "create_task", f"{other:.3g} ms", mine / other)


async def _wakes(count: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    idiom: list[float] = []

    async def first_line(begin: float, samples: list[float]) -> None:
        samples.append((time.perf_counter() - begin) * 1e3)

    async with Jobs(authorize=allow) as jobs:
        for _ in range(count):
            await asyncio.sleep(0.001)
            await jobs.enqueue(first_line, time.perf_counter(), ours).wait()
            await asyncio.sleep(0.001)
            await asyncio.create_task(first_line(time.perf_counter(), idiom))
    return ours, idiom
