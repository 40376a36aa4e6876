"""Worker processes, as a test sees them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.durable.worker import Stage

ROOT = Path(__file__).parents[2]
PACE = {"grace": 0.5, "beat": 0.1}


class Worker(Stage):
    """A process that runs jobs; what is said there is heard here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process
        self._hearing = asyncio.create_task(self._hear())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                self.say(*json.loads(line))
            except ValueError:
                self.say("printed", line.decode().rstrip())

    async def up(self) -> None:
        await self.hears("up", self.pid)

    def tell(self, *words: str) -> None:
        """A line for it to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{' '.join(words)}\n".encode())

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
        os.kill(self.pid, signal.SIGCONT)

    @property
    def logged(self) -> list[str]:
        """Its warnings and errors."""
        return [f"{said[1]} {said[3]}" for said in self.said if said[0] == "log" and said[1] not in {"INFO", "DEBUG"}]

    async def end(self) -> None:
        """An orderly end, or else the other."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self.thaw()
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self.kill()
        await self._process.wait()
        self._hearing.cancel()  # a child of it may still have the other end
        await asyncio.wait((self._hearing,))
        self._process._transport.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def worker(store: Any, *, wait: bool = True, pace: dict[str, float] | None = None, **options: Any) -> AsyncIterator[Worker]:
    """A worker process on a store; its output is shown when the test fails.

    Args:
        store: the store's URL.
        wait: until it is up.
        pace: its grace and its beat.
        options: of its `Jobs`; `only`: the tasks that it declares.
    """
    given = json.dumps({"pace": pace or PACE, **options})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.durable.worker", str(store), given,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    made = Worker(process)
    try:
        if wait:
            await made.up()
        yield made
    finally:
        await made.end()
        print(f"worker {made.pid}:", *made.said, sep="\n  ")
