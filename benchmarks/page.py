"""The overview page over many records: rendered anew after a change, and asked for again without one."""

import asyncio
import logging
import statistics
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from asgi_jobs import Jobs
from benchmarks.peers.ours import allow, noop
from benchmarks.scale import Scale
from benchmarks.table import Row, at_most

BATCH = 50_000
NAMES = 100
FAILING = 1_000
"""One job in so many fails, for there is always something to list among the failed."""


def rows(scale: Scale) -> list[Row]:
    """Median times of calls of the ASGI application in this process, no network in between."""
    logging.getLogger("asgi_jobs").addHandler(logging.NullHandler())
    logging.getLogger("asgi_jobs").propagate = False
    anew, unchanged, size = asyncio.run(_measured(scale))
    figure = f"overview page, {scale.listed:,} records"
    return [
        at_most(f"{figure}, anew ({size / 1024:.0f} KiB)", anew, 5, "ms"),
        at_most(f"{figure}, unchanged poll", unchanged, 1, "ms"),
    ]


async def fail(number: int) -> None:
    """A job that fails."""
    raise ValueError(number)


async def _measured(scale: Scale) -> tuple[float, float, int]:
    async with Jobs(authorize=allow, max_finished=scale.listed + 1_000) as jobs:
        for first in range(0, scale.listed, BATCH):
            for number in range(first, min(first + BATCH, scale.listed)):
                jobs.enqueue(fail if number % FAILING == 0 else noop, number, queue=f"q{number % NAMES}")
            await jobs.join()
        anew: list[float] = []
        unchanged: list[float] = []
        size = 0
        for number in range(scale.polls):
            jobs.enqueue(noop, number)
            await jobs.join()
            seconds, status, etag, size = await _get(jobs, None)
            assert status == 200, status
            anew.append(seconds * 1e3)
            seconds, status, _, _ = await _get(jobs, etag)
            assert status == 304, status
            unchanged.append(seconds * 1e3)
        return statistics.median(anew), statistics.median(unchanged), size


async def _get(app: Jobs, etag: bytes | None) -> tuple[float, int, bytes, int]:
    """One GET of the overview: seconds, status, ETag, bytes of the body."""
    begin = perf_counter()
    status, found, size = await fetched(app, "/", etag)
    return perf_counter() - begin, status, found, size


async def fetched(app: Jobs, path: str, etag: bytes | None = None) -> tuple[int, bytes, int]:
    """One GET of a page: status, ETag, bytes of the body."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(_scope(path, etag), receive, send)
    headers = dict(sent[0]["headers"])
    return sent[0]["status"], headers.get(b"etag", b""), sum(len(m.get("body", b"")) for m in sent)


def _scope(address: str, etag: bytes | None) -> MutableMapping[str, Any]:
    path, _, query = address.partition("?")
    headers = [(b"host", b"127.0.0.1:8000"), (b"accept", b"text/html")]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/jobs{path}",
        "raw_path": f"/jobs{path}".encode(),
        "root_path": "/jobs",
        "query_string": query.encode(),
        "headers": [*headers, (b"if-none-match", etag)] if etag else headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
