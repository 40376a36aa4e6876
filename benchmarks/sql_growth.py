"""Whether a store in a database stays as fast as it was: beside records of old jobs, and behind jobs that wait."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

from benchmarks.measure import in_turn, ratio
from benchmarks.peers.databases import OURS
from benchmarks.peers.ours_sql import OnSql
from benchmarks.places import Places
from benchmarks.scale import SqlScale
from benchmarks.sql_throughput import SHAPES, Place, ended
from benchmarks.table import Row, at_least, per_second

FLAT = 0.8
"""What "as fast as it was" allows for noise."""
CHUNK = 10_000

FILL = """
INSERT INTO asgi_jobs (id, seq, queue, task, name, args, state, attempt, source, enqueued_at, since_at, started_at,
                       finished_at)
SELECT to_char(n, 'FM000000000000'), n, 'name ' || n % 1000, 'noop', 'noop', '{"args": [0]}', 4, 1, 'code', t, t, t, t
FROM generate_series(1, $1::bigint) n CROSS JOIN (SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) t) now
"""


def beside_finished(scale: SqlScale, places: Places) -> list[Row]:
    """The same jobs in a new database, and in one that has kept a million finished ones."""
    rows = []
    with places.postgresql() as empty, places.postgresql() as full:
        asyncio.run(_filled(full, scale.finished))
        for shape, name in SHAPES.items():
            names = [name(number) for number in range(scale.named)]
            databases = {"none": partial(_same, empty), "many": partial(_same, full)}
            samples = {label: partial(ended, OURS, place, names) for label, place in databases.items()}
            rates = in_turn(samples, scale.rounds)
            figure = f"PostgreSQL, {shape}, {scale.finished:,} finished beside"
            rows.append(_compared(figure, rates["many"], "none finished", rates["none"]))
    return rows


def behind_waiting(scale: SqlScale, places: Places) -> list[Row]:
    """How fast jobs are taken in, and run, while so many wait in so many queues."""
    rows = []
    for database, place in {"SQLite": places.sqlite, "PostgreSQL": places.postgresql}.items():
        points = {depth: _point(place, *depth, scale.drained) for depth in scale.depths}
        first, base = next(iter(points.items()))
        for (depth, names), point in points.items():
            figure = f"{database}, {depth:,} waiting in {names:,} queues"
            against = f"{first[0]:,} in {first[1]:,}"
            rows.append(_compared(f"{figure}, enqueue", [point.enqueued], against, [base.enqueued], goal=False))
            rows.append(_compared(f"{figure}, run", [point.run], against, [base.run], goal=False))
    return rows


@dataclass(frozen=True, slots=True)
class _Point:
    """Of the curve: jobs a second."""

    enqueued: float
    run: float


def _compared(figure: str, ours: Sequence[float], against: str, other: Sequence[float], *, goal: bool = True) -> Row:
    if goal:
        return at_least(figure, per_second(ours), against, per_second(other), ratio(ours, other), FLAT)
    return Row(figure, per_second(ours), against, per_second(other), ratio(ours, other))


@contextmanager
def _same(url: str) -> Iterator[str]:
    yield url


async def _filled(url: str, count: int) -> None:
    async with OURS.open(url, [], False):
        connection = await asyncpg.connect(url)
        await connection.execute(FILL, count)
        await connection.execute("VACUUM ANALYZE asgi_jobs")  # as autovacuum would have done long ago
        await connection.close()


def _point(place: Place, depth: int, names: int, drained: int) -> _Point:
    with place() as url:
        return asyncio.run(_taken_in_and_run(url, depth, names, drained))


async def _taken_in_and_run(url: str, depth: int, names: int, drained: int) -> _Point:
    async with OURS.open(url, [], False) as driver:
        begin = time.perf_counter()
        for first in range(0, depth, CHUNK):
            await driver.enqueue_all([f"name {n % names}" for n in range(first, min(depth, first + CHUNK))])
        enqueued = depth / (time.perf_counter() - begin)
    async with OURS.open(url, [], True) as driver:
        assert isinstance(driver, OnSql)
        await driver.tally.reached(1)
        begin, before = time.perf_counter(), driver.tally.count
        await driver.tally.reached(min(depth, before + drained))
        return _Point(enqueued, (driver.tally.count - before) / (time.perf_counter() - begin))
