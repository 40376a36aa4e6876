"""Daemon threads of the engine's own, so that sync jobs never take those of request handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any

Work = tuple[Callable[[], Any], asyncio.Future[Any]]


class WorkerThread(threading.Thread):
    """One thread, lent to one attempt at a time: opening, body and closing run in the same one."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"asgi_jobs-{number}", daemon=True)
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self.busy = False
        self.given_up = False

    async def call(self, context: Context, function: Callable[..., Any], *args: Any) -> Any:
        """Call the function in this thread, with a copy of the context; gives its value or raises its error.

        Code in a thread cannot be interrupted: a cancel is heard when it has ended, unless it was given up.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        inside = context.copy()  # the loop goes on in the original meanwhile, and a context is entered once
        self.busy = True
        self._work.put((lambda: inside.run(function, *args), future))
        await outlast(future, lambda: self.given_up)
        error, value = future.result()
        if error is not None:
            raise error
        return value

    def end(self) -> None:
        """Let the thread end after what it is doing."""
        self._work.put(None)

    def run(self) -> None:
        """Work until told to end."""
        while (work := self._work.get()) is not None:
            function, future = work
            answer = _attempt(function)
            self.busy = False
            try:
                future.get_loop().call_soon_threadsafe(_answer, future, answer)
            except RuntimeError:
                return  # the loop is closed: nobody waits for this any more
            del work, function, future, answer  # an idle thread must keep nothing alive


async def outlast(future: asyncio.Future[Any], given_up: Callable[[], bool]) -> None:
    """Wait for the future, and hear of a cancel only when it is done: what it stands for goes on all the same.

    Somebody may cancel every task there is; a queue must not go on while the code of its job still runs.
    """
    cut: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if given_up():
                raise
            cut = error
    if cut is not None:
        raise cut


class Threads:
    """Lends threads; made when first needed, kept until `close`."""

    def __init__(self) -> None:
        self._idle: list[WorkerThread] = []
        self._made = 0
        self._closed = False

    def lend(self) -> WorkerThread:
        """A thread for one attempt. How many may be out is the dispatcher's business."""
        self._closed = False
        if self._idle:
            return self._idle.pop()
        self._made += 1
        thread = WorkerThread(self._made)
        thread.start()
        return thread

    def take_back(self, thread: WorkerThread) -> None:
        """The attempt is over. A thread that still works at a scope that was given up is not lent again."""
        if thread.busy or thread.given_up or self._closed:
            thread.end()
        else:
            self._idle.append(thread)

    def close(self) -> None:
        """End the idle threads. One that is stuck in a job's code is a daemon, and ends with the process."""
        self._closed = True
        idle, self._idle = self._idle, []
        for thread in idle:
            thread.end()
        for thread in idle:
            thread.join()


def _attempt(function: Callable[[], Any]) -> tuple[BaseException | None, Any]:
    try:
        return None, function()
    except BaseException as error:  # SystemExit and its like fail the job, not the thread
        return error, None


def _answer(future: asyncio.Future[Any], answer: tuple[BaseException | None, Any]) -> None:
    if not future.done():
        future.set_result(answer)
