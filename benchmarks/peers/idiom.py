"""No library: the idiom of asyncio's documentation, which records nothing.

https://docs.python.org/3/library/asyncio-task.html#asyncio.create_task
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers.contender import Burst


async def noop(number: int) -> None:
    """The job."""


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Keep a set of tasks, each of which takes itself out of it when it is done."""
    background_tasks: set[asyncio.Task[None]] = set()

    async def burst(names: Sequence[str | None]) -> None:
        for number, _ in enumerate(names):
            task = asyncio.create_task(noop(number))
            background_tasks.add(task)
            task.add_done_callback(background_tasks.discard)
        while background_tasks:
            await asyncio.sleep(0)

    yield burst
