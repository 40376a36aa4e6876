"""What a page asks of its database: every statement goes by an index, and none sorts or reads all jobs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs

from .fleet import opened
from .haunted import every_page

ROWS = 20_000
QUERIES = ("?state=failed", "?state=queued", "?queue=q7", "?queue=q7&state=failed", "?task=none", "?q=nowhere")
INSERT = """
INSERT INTO asgi_jobs (id, seq, queue, task, name, args, state, attempt, source, enqueued_at, since_at, started_at,
                       finished_at, error_type, error_message)
SELECT {id}, n, 'q' || n % 100, 'noop', 'noop', '{{}}', CASE n % 100 WHEN 0 THEN 5 ELSE 4 END, 1, 'code',
       1e9 + n, 1e9 + n, 1e9 + n, 1e9 + n, CASE n % 100 WHEN 0 THEN 'E' END, CASE n % 100 WHEN 0 THEN 'no' END
FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < :rows) SELECT n FROM c) AS numbers
"""
FILL = {
    "sqlite": INSERT.format(id="printf('%022d', n)"),
    "postgresql": INSERT.format(id="to_char(n, 'FM0000000000000000000000')"),
}
OF_UNFINISHED = ("turn", "waiting", "running", "held", "due", "free")
"""Indexes of what has not ended: what they find may be sorted."""
Statement = tuple[str, Any]


@contextmanager
def heard() -> Iterator[dict[str, Statement]]:
    """Every statement that is sent while this is open, each once."""
    said: dict[str, Statement] = {}

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        said.setdefault(statement, (statement, parameters))

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        yield said
    finally:
        event.remove(Engine, "before_cursor_execute", hear)


@asynccontextmanager
async def full(kind: str, directory: Path) -> AsyncIterator[tuple[str, Jobs, list[str]]]:
    """A process that shows many jobs that have ended and some that wait; gives the addresses of all pages."""
    async with opened(kind, directory) as shop:
        await shop.open_web(max_finished=10 * ROWS, retention=timedelta(days=100_000))
        engine = create_async_engine(shop.url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(FILL[kind]), {"rows": ROWS})
            await connection.execute(text("VACUUM ANALYZE asgi_jobs" if kind == "postgresql" else "ANALYZE"))
        await engine.dispose()
        for number in range(5):
            job = await shop.enqueue("fine", queue=f"q{number}")
        pages = [*every_page([job.id]), *(f"/jobs{query}" for query in QUERIES), f"/jobs?before={ROWS // 2:022d}"]
        yield shop.url, shop.web, [*pages, "/queues?q=q7", "/queues?start=1"]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
async def test_no_statement_behind_a_page_reads_or_sorts_all_jobs(kind: str, tmp_path: Path) -> None:
    async with full(kind, tmp_path) as (url, jobs, pages):
        transport = httpx.ASGITransport(Starlette(routes=[Mount("/jobs", jobs)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test/jobs") as client:
            with heard() as said:
                for page in pages:
                    assert (await client.get(page)).status_code == 200, page
        engine = create_async_engine(url)
        bad = {}
        async with engine.connect() as connection:
            if (
                kind == "postgresql"
            ):  # so few rows it would rather read all: is there an index to go by when they are many?
                await connection.execute(text("SET enable_seqscan = off"))
            for statement, parameters in said.values():
                if re.match(r"\s*(SELECT|WITH)", statement) and "asgi_jobs" in statement:
                    plan = await explained(connection, kind, statement, parameters)
                    if faults := FAULTS[kind](plan):
                        bad[statement] = faults
        await engine.dispose()
    assert len(said) > 10
    assert not bad, "\n\n".join(f"{statement}\n{faults}" for statement, faults in bad.items())


async def explained(connection: Any, kind: str, statement: str, parameters: Any) -> list[str]:
    how = "EXPLAIN QUERY PLAN " if kind == "sqlite" else "EXPLAIN "
    answer = await connection.exec_driver_sql(how + statement, parameters)
    return [row[-1] for row in answer]


def _on_sqlite(plan: list[str]) -> list[str]:
    walks = ("SCAN asgi_jobs", "USING COVERING INDEX asgi_jobs_by_queue", "asgi_jobs_by_queue (queue>?)")
    whole = [line for line in plan if line.endswith(walks)]
    few = any(f"INDEX asgi_jobs_{name} " in f"{line} " for name in OF_UNFINISHED for line in plan)
    return whole if few else whole + [line for line in plan if "USE TEMP B-TREE FOR ORDER BY" in line]


def _on_postgresql(plan: list[str]) -> list[str]:
    return [line for line in plan if re.search(r"Seq Scan on asgi_jobs\b(?!_)", line)]


FAULTS = {"sqlite": _on_sqlite, "postgresql": _on_postgresql}
