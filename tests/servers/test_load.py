"""Ten thousand requests against one real server, the page polled all the while."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Self

import pytest

from tests.servers.process import Server, until, uvicorn

pytestmark = pytest.mark.processes

REQUESTS, CLIENTS = 10_000, 20
PAUSE = 0.02
BOUND = 40.0
"""Seconds, on two cores that others use too."""


class Connection:
    """One kept-alive HTTP connection, without a client library's own costs."""

    def __init__(self, server: Server) -> None:
        self._port = int(server.address.rpartition(":")[2])

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        with closing(self._writer):
            pass
        await self._writer.wait_closed()

    async def ask(self, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send a request; gives status, headers and body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 0", *headers]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), found, await self._reader.readexactly(int(found.get("content-length", 0)))


async def enqueue(server: Server, n: int, queue: str) -> int:
    """So many requests, one after another; gives how many were answered with a job."""
    good = 0
    async with Connection(server) as connection:
        for _ in range(n):
            status, _, body = await connection.ask("POST", f"/enqueue/noop?queue={queue}")
            good += status == 200 and b'"id"' in body
    return good


async def poll(server: Server, done: asyncio.Event) -> list[int]:
    """What a browser with the page open does, a hundred times as often; gives the answers' codes."""
    codes, tag = [], ""
    async with Connection(server) as connection:
        while not done.is_set():
            status, headers, _ = await connection.ask("GET", "/jobs/", *([f"If-None-Match: {tag}"] if tag else []))
            codes.append(status)
            tag = headers.get("etag", "")
            await asyncio.sleep(PAUSE)
    return codes


async def storm(server: Server) -> tuple[int, list[int]]:
    done = asyncio.Event()
    polling = asyncio.create_task(poll(server, done))
    async with asyncio.timeout(BOUND):
        share = REQUESTS // CLIENTS
        good = await asyncio.gather(*(enqueue(server, share, f"q{client % 7}") for client in range(CLIENTS)))
        done.set()
        codes = await polling
    return sum(good), codes


def idle(counts: dict[str, int]) -> bool:
    return not counts["queued"] and not counts["running"]


def test_ten_thousand_requests_that_each_enqueue_lose_no_job_while_the_page_is_polled() -> None:
    with uvicorn("tests.servers.apps.site:app", "--no-access-log") as server:
        began = time.monotonic()
        good, codes = asyncio.run(storm(server))
        counts = until(lambda: found if idle(found := server.page()["counts"]) else None)
        took = time.monotonic() - began
        server.stop()

    assert good == REQUESTS
    assert counts["succeeded"] == REQUESTS
    assert set(codes) <= {200, 304}
    assert len(codes) > 20
    assert took < BOUND
    assert "lost at shutdown" not in server.output
    assert "ERROR" not in server.output
    assert "Traceback" not in server.output
