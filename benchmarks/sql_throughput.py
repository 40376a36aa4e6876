"""Jobs a second in a database, against those who do the same: empty jobs, enqueued, run and recorded.

Each sample has a database of its own, which is new. The workers of all run in the process that enqueues, as many
jobs at once as ours (100).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import asyncpg

from benchmarks.measure import in_turn, ratio
from benchmarks.peers.databases import (
    FLEXIQ,
    HUEY,
    OURS,
    PGQUEUER,
    PROCRASTINATE,
    PROCRASTINATE_ALONE,
    PROCRASTINATE_POLLING,
    SAQ,
    TINYJOBS,
)
from benchmarks.peers.sql import Contender, Driver, by_callers
from benchmarks.places import Places
from benchmarks.scale import SqlScale
from benchmarks.table import Row, at_least, per_second

Names = Sequence[str | None]
Place = Callable[[], AbstractContextManager[str]]
Work = Callable[[Driver, Names], Awaitable[None]]

COMMITS = "one-row commits of one connection"
EACH = "a name per job"
SHAPES: dict[str, Callable[[int], str]] = {
    EACH: lambda number: f"name {number}",
    "100 names": lambda number: f"name {number % 100}",
}


def on_sqlite(scale: SqlScale, places: Places) -> list[Row]:
    """A hundred callers, each of whom waits until its job is stored: without workers, and until all have ended."""
    names: Names = [None] * scale.on_sqlite
    rows = []
    for what, sample in {"enqueue": only_enqueued, "enqueue to recorded end": called_and_ended}.items():
        samples = {peer.name: partial(sample, peer, places.sqlite, names) for peer in (OURS, HUEY, TINYJOBS)}
        rates = in_turn(samples, scale.rounds)
        rows += [_row(f"SQLite, 100 callers, {what}", rates, peer, goal) for peer, goal in ((HUEY, 3), (TINYJOBS, 5))]
    return rows


def many_names(scale: SqlScale, places: Places) -> list[Row]:
    """Jobs that run one after another within a name, enqueued at once, in the way that each has for many."""
    rows = []
    for shape, name in SHAPES.items():
        names = [name(number) for number in range(scale.named)]
        peers = [OURS, PROCRASTINATE, PGQUEUER, SAQ]
        if shape == EACH:  # where a name comes again, flexiq puts the job off again and again
            peers.append(FLEXIQ)
        rates = in_turn({peer.name: partial(ended, peer, places.postgresql, names) for peer in peers}, scale.rounds)
        rows += [_row(f"PostgreSQL, {shape}", rates, peer, 20 if peer is PROCRASTINATE else None) for peer in peers[1:]]
    return rows


def one_name(scale: SqlScale, places: Places) -> list[Row]:
    """Jobs of one queue, one after another: each has to be on disk before the next starts, so a commit is the limit."""
    counts = {OURS: scale.single, PROCRASTINATE_ALONE: scale.single // 3}
    counts |= dict.fromkeys((PROCRASTINATE_POLLING, PGQUEUER), scale.single_slow)
    samples = {peer.name: partial(ended, peer, places.postgresql, ["name"] * n) for peer, n in counts.items()}
    rates = in_turn({COMMITS: partial(_commits, places.postgresql, scale.commits), **samples}, scale.rounds)
    figure, ours, limit = "PostgreSQL, one single queue", rates[OURS.name], rates[COMMITS]
    return [
        at_least(figure, per_second(ours), COMMITS, per_second(limit), ratio(ours, limit), 0.8),
        _row(figure, rates, PROCRASTINATE_POLLING, 30),
        _row(figure, rates, PGQUEUER, 30),
        _row(figure, rates, PROCRASTINATE_ALONE, None),
    ]


def _row(figure: str, rates: dict[str, list[float]], peer: Contender, goal: float | None) -> Row:
    ours, theirs = rates[OURS.name], rates[peer.name]
    if goal is None:
        return Row(figure, per_second(ours), peer.name, per_second(theirs), ratio(ours, theirs))
    return at_least(figure, per_second(ours), peer.name, per_second(theirs), ratio(ours, theirs), goal)


# Samples


def only_enqueued(peer: Contender, place: Place, names: Names) -> float:
    """Enqueues a second, nobody running jobs."""
    return _rate(peer, place, names, False, by_callers)


def called_and_ended(peer: Contender, place: Place, names: Names) -> float:
    """Jobs a second from the first call to the last recorded end, enqueued by a hundred callers."""

    async def work(driver: Driver, names: Names) -> None:
        await by_callers(driver, names)
        await driver.ended(len(names))

    return _rate(peer, place, names, True, work)


def ended(peer: Contender, place: Place, names: Names) -> float:
    """Jobs a second from the call that enqueues them all to the last recorded end."""

    async def work(driver: Driver, names: Names) -> None:
        await driver.enqueue_all(names)
        await driver.ended(len(names))

    return _rate(peer, place, names, True, work)


def _rate(peer: Contender, place: Place, names: Names, running: bool, work: Work) -> float:
    async def timed(url: str) -> float:
        async with peer.open(url, names, running) as driver:
            await asyncio.sleep(0.5)  # until the workers look for work
            begin = time.perf_counter()
            await work(driver, names)
            return time.perf_counter() - begin

    with place() as url:
        return len(names) / asyncio.run(timed(url))


def _commits(place: Place, count: int) -> float:
    """Commits a second of one row each."""

    async def timed(url: str) -> float:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE one (number int); INSERT INTO one VALUES (0)")
        begin = time.perf_counter()
        for _ in range(count):
            await connection.execute("UPDATE one SET number = number + 1")
        seconds = time.perf_counter() - begin
        await connection.close()
        return seconds

    with place() as url:
        return count / asyncio.run(timed(url))
