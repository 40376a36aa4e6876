"""Tasks whose doings can be followed, and a process that runs them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

from asgi_jobs import Jobs, current_job
from asgi_jobs.task import Task

STOPPED_WITHIN = timedelta(seconds=2)


class Stage:
    """What the tasks of one application do to the world: they say so, and wait until they are let go."""

    def __init__(self) -> None:
        self.said: list[list[Any]] = []
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.news = asyncio.Event()

    def say(self, *words: Any) -> None:
        self.said.append(list(words))
        self.news.set()

    async def hears(self, *words: Any, times: int = 1, seconds: float = 20.0) -> None:
        """Wait until this was said, so often."""
        async with asyncio.timeout(seconds):
            while self.said.count(list(words)) < times:
                self.news.clear()
                await self.news.wait()

    def texts(self, kind: str) -> list[str]:
        """What was said with this word, in order."""
        return [said[1] for said in self.said if said[0] == kind]


class Told(Stage):
    """The same, for who listens in another process."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener

    def say(self, *words: Any) -> None:
        self._listener.sendall(json.dumps(words).encode() + b"\n")


def declare(jobs: Jobs, stage: Stage, only: Sequence[str] = ()) -> dict[str, Task[Any, Any]]:
    """Declare the tasks; of those named in `only` no others."""

    async def note(text: str) -> None:
        stage.say("ran", text)

    async def hold(text: str) -> None:
        stage.say("began", text)
        try:
            await stage.gates[text].wait()
        except asyncio.CancelledError:
            stage.say("cancelled", text)
            raise
        stage.say("ended", text)

    async def stubborn(text: str) -> None:
        """Goes on to its end whoever wants it to stop."""
        stage.say("began", text)
        waiting = asyncio.ensure_future(stage.gates[text].wait())
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                stage.say("asked", text)
        claim = current_job().claim
        stage.say("ended", text, claim)

    harmless = (note, hold, stubborn)
    wanted = [task for task in (*harmless, *_harmful(stage, hold)) if not only or task.__name__ in only]
    return {task.__name__: jobs.task(key=task.__name__)(task) for task in wanted}


def _harmful(stage: Stage, hold: Callable[[str], Coroutine[Any, Any, None]]) -> Sequence[Callable[..., Any]]:
    """What applications should not do, and do."""

    async def block(text: str, seconds: float) -> None:
        stage.say("began", text)
        time.sleep(seconds)  # the loop's own time: nothing else runs meanwhile
        stage.say("ended", text)

    async def fork(text: str) -> None:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        stage.say("forked", child)
        await hold(text)

    async def die(text: str) -> None:
        stage.say("began", text)
        os.kill(os.getpid(), 9)

    return block, fork, die


def hurried(jobs: Jobs, grace: float = 1.0, beat: float = 0.1) -> Jobs:
    """The same with shorter waits than an application has."""
    store: Any = jobs._store
    store.grace, store.beat = grace, beat
    return jobs


def impatient(jobs: Jobs, seconds: float = 1.0) -> None:
    """From now on its transactions may take no longer."""
    store: Any = jobs._store
    store._patience = store._patience and seconds


class LogTold(logging.Handler):
    """What is logged is said, too."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.INFO)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.say("log", record.levelname, record.name, record.getMessage())


async def serve(stage: Stage, jobs: Jobs, tasks: dict[str, Task[Any, Any]], wire: socket.socket) -> None:
    """Run jobs, open the gates that are named and enqueue what is asked for, until there is nobody to ask."""
    reader, writer = await asyncio.open_connection(sock=wire.dup())
    async with jobs:
        stage.say("up", os.getpid())
        while line := await reader.readline():
            command, _, rest = line.decode().strip().partition(" ")
            if command == "open":
                stage.gates[rest].set()
            elif command == "enqueue":
                given = json.loads(rest)
                job = await jobs.using(**given["options"]).enqueue(tasks[given["task"]], *given["args"])
                stage.say("enqueued", job.id)
    stage.say("down")
    writer.close()


def main(wire: socket.socket, store: str, options: dict[str, Any]) -> None:
    """The process: with a `Jobs` of these options, and `pace` and `only`."""
    stage = Told(wire)
    logging.basicConfig(level=logging.INFO, handlers=[LogTold(stage)])
    pace, only = options.pop("pace", {}), options.pop("only", ())
    jobs = hurried(Jobs(store=store, shutdown_timeout=STOPPED_WITHIN, **options), **pace)
    asyncio.run(serve(stage, jobs, declare(jobs, stage, only), wire))
