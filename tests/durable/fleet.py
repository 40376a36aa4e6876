"""Worker processes, as a test sees them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

from tests.durable.worker import Stage, main

PACE = {"grace": 0.5, "beat": 0.1}
DIED = "asgi_jobs.errors.ProcessDied"
PROCESSES = multiprocessing.get_context("forkserver")  # what all need is imported once
PROCESSES.set_forkserver_preload(["pytest", "asyncpg", "asgi_jobs.stores.sql", "tests.durable.worker"])


class Worker(Stage):
    """A process that runs jobs; what is said there is heard here."""

    def __init__(self, process: BaseProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._process = process
        self._writer = writer
        self._hearing = asyncio.create_task(self._hear(reader))

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while (line := await reader.readline()).endswith(b"\n"):
                self.say(*json.loads(line))

    async def up(self) -> None:
        await self.hears("up", self.pid)

    def tell(self, *words: str) -> None:
        """A line for it to read."""
        self._writer.write(f"{' '.join(words)}\n".encode())

    def open(self, text: str) -> None:
        """Let the job of this text go on."""
        self.tell("open", text)

    def enqueue(self, task: str, *args: Any, **options: Any) -> None:
        self.tell("enqueue", json.dumps({"task": task, "args": args, "options": options}))

    def kill(self) -> None:
        self._process.kill()

    def freeze(self) -> None:
        """It lives, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with suppress(ProcessLookupError):  # it may just have been killed
            os.kill(self.pid, signal.SIGCONT)

    @property
    def logged(self) -> list[str]:
        """Its warnings and errors."""
        return [f"{said[1]} {said[3]}" for said in self.said if said[0] == "log" and said[1] not in {"INFO", "DEBUG"}]

    async def end(self) -> None:
        """An orderly end, or else the other."""
        if self._process.is_alive():
            self.thaw()
            with suppress(OSError):
                self._writer.write_eof()
            await asyncio.to_thread(self._process.join, 10)
            self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._hearing.cancel()  # a child of it may still have the other end
        await asyncio.wait((self._hearing,))
        self._writer.transport.abort()


@asynccontextmanager
async def worker(
    store: Any, *, wait: bool = True, pace: dict[str, float] | None = None, **options: Any
) -> AsyncIterator[Worker]:
    """A worker process on a store; what it said is shown when the test fails.

    Args:
        store: the store's URL.
        wait: until it is up.
        pace: its grace and its beat.
        options: of its `Jobs`; `only`: the tasks that it declares.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = PROCESSES.Process(target=main, args=(theirs, str(store), {"pace": pace or PACE, **options}))
        await asyncio.to_thread(process.start)
    made = Worker(process, *await asyncio.open_connection(sock=ours))
    try:
        if wait:
            await made.up()
        yield made
    finally:
        await made.end()
        print(f"worker {made.pid}:", *made.said, sep="\n  ")
