"""Starts attempts, and keeps those that are under way."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

from asgi_jobs.engine.run import Phase, Run, Task

if TYPE_CHECKING:
    import asyncio

    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.scope import Scopes
    from asgi_jobs.engine.threads import Threads
    from asgi_jobs.job import Engine, Record


class Executor:
    """Starts attempts, and hands in how they ended."""

    def __init__(
        self,
        *,
        engine: Engine,
        scopes: Scopes,
        threads: Threads,
        clock: Clock,
        touched: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.scopes = scopes
        self.clock = clock
        self.touched = touched
        self.threads = threads
        self.ended: Callable[[Run], None] = lambda _run: None  # the dispatcher's, once there is one
        self.running: set[Run] = set()  # strong references: the loop keeps only weak ones
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self, record: Record, make: type[Run] = Run) -> None:
        """Start an attempt; its first step is the loop's next turn, never part of the caller's."""
        run = record.run = make(self, record)
        context = Context()
        if record.plan.plain:
            body = run.body()
            body.send(None)
            run.task = Task(body, loop=self.loop, context=context, name=record.name)
        else:
            run.phase = Phase.OPENING
            if record.plan.threaded:
                run.thread = self.threads.lend()
            drive = run.drive(context)
            drive.send(None)
            run.driver = Task(drive, loop=self.loop, context=context, name=record.name)
        self.running.add(run)
