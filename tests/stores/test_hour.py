"""How a store in a database counts its last hour without looking at all of it each time."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, text
from sqlalchemy.dialects import sqlite

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.stores.base import Minute
from asgi_jobs.stores.sql import SqlStore, hour
from asgi_jobs.stores.sql.tables import jobs
from tests.stores.bench import Bench, opened


async def ended(bench: Bench, number: int = 1) -> None:
    """Have jobs end now."""
    for job in await bench.queue(None, *"x" * number):
        await bench.claim()
        await bench.end(job)


async def last(bench: Bench, number: int) -> list[Minute | None]:
    return list(await resolve(bench.store.hour()))[-number:]


async def forget(bench: Bench) -> None:
    """Take all rows away, so that whoever counts again finds nothing."""
    assert isinstance(bench.store, SqlStore)
    await bench.store._write(lambda connection: connection.execute(delete(jobs)))


async def test_a_minute_that_is_over_is_counted_once_after_nothing_can_come_to_it() -> None:
    async with opened("sqlite") as bench:  # 1,000 s: the minute has 20 s to go
        await ended(bench)
        await bench.pass_time(20 + hour.SETTLED)
        assert await last(bench, 2) == [Minute(1), Minute()]
        await forget(bench)
        await bench.pass_time(60)
        assert await last(bench, 3) == [Minute(1), Minute(), Minute()]


async def test_what_was_committed_late_is_counted_all_the_same() -> None:
    async with opened("sqlite") as bench:
        await bench.pass_time(25)
        assert await last(bench, 2) == [Minute(), Minute()]
        bench.now -= 10
        await ended(bench)
        bench.now += 25
        assert await last(bench, 2) == [Minute(1), Minute()]


async def test_the_minute_under_way_is_not_counted_again_while_the_count_is_fresh() -> None:
    async with opened("sqlite") as bench:
        await ended(bench)
        assert await last(bench, 1) == [Minute(1)]
        await ended(bench)
        await bench.pass_time(hour.FRESH - 1)
        assert await last(bench, 1) == [Minute(1)]
        await bench.pass_time(1)
        assert await last(bench, 1) == [Minute(2)]


async def test_of_very_many_the_newest_are_counted_first_and_the_others_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hour, "MOST", 2)
    async with opened("sqlite") as bench:
        for _ in range(3):
            await ended(bench, 3)
            await bench.pass_time(60)
        assert await last(bench, 4) == [None, None, Minute(3), Minute()]
        assert await last(bench, 4) == [None, Minute(3), Minute(3), Minute()]


async def test_the_count_goes_by_the_index_of_what_has_ended() -> None:
    async with opened("sqlite") as bench:
        assert isinstance(bench.store, SqlStore)
        counting = hour._ended.compile(dialect=sqlite.dialect(paramstyle="named"))
        explain, values = text(f"EXPLAIN QUERY PLAN {counting}"), {**counting.params, "begin": 0, "end": 60}
        plan = await bench.store._read(lambda connection: connection.execute(explain, values).all())
        assert "USING INDEX asgi_jobs_finished (finished_at>? AND finished_at<?)" in str(plan)
