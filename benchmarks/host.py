"""The host application's own requests: a real server, idle and while 10,000 jobs a second run in it."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, perf_counter

from benchmarks.measure import percentile
from benchmarks.scale import Scale
from benchmarks.table import Row

PHASES = ("idle", "asgi_jobs", "create_task")
ROUNDS = 3


class Client:
    """One kept-alive connection, on which requests go one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def get(self, path: str) -> bytes:
        """Ask for a path; the body."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return await self.reader.readexactly(length)


def rows(scale: Scale) -> list[Row]:
    """The p99 of each phase, in rounds that follow each other; ratios within a round."""
    times, rates = asyncio.run(_measured(scale.requests))
    idle, ours, idiom = (times[phase] for phase in PHASES)
    ratio = statistics.median(mine / quiet for mine, quiet in zip(ours, idle, strict=True))
    bare = statistics.median(mine / quiet for mine, quiet in zip(idiom, idle, strict=True))
    figure = "host requests while {:,.0f} jobs/s run, p99"
    return [
        Row(figure.format(rates["asgi_jobs"]), _ms(ours), "idle", _ms(idle), ratio, "≤ 2", ratio <= 2),
        Row(figure.format(rates["create_task"]) + ", create_task", _ms(idiom), "idle", _ms(idle), bare),
    ]


def _ms(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ms"


async def _measured(requests: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    rates: dict[str, list[float]] = {phase: [] for phase in PHASES}
    async with _server() as client:
        await _phase(client, requests)
        for _ in range(ROUNDS):
            for phase in PHASES:
                before, begin = await _ended(client, phase), monotonic()
                times[phase].append(percentile(await _phase(client, requests), 0.99))
                seconds = monotonic() - begin
                rates[phase].append((await _ended(client, "idle") - before) / seconds)
    return times, {phase: statistics.median(values) for phase, values in rates.items()}


async def _phase(client: Client, requests: int) -> list[float]:
    times = []
    for _ in range(requests):
        begin = perf_counter()
        await client.get("/")
        times.append((perf_counter() - begin) * 1e3)
        await asyncio.sleep(0.002)
    return times


async def _ended(client: Client, phase: str) -> int:
    answer: dict[str, int] = json.loads(await client.get(f"/load?kind={phase}"))
    return answer["ended"]


@asynccontextmanager
async def _server() -> AsyncIterator[Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.host_app", str(port)])
    try:
        reader, writer = await _connected(port)
        yield Client(reader, writer)
        writer.close()
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    limit = monotonic() + 30
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if monotonic() > limit:
                raise
            await asyncio.sleep(0.05)
