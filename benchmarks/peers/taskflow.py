"""fastapi-taskflow without a database: the tasks of one response, run as Starlette runs them after it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi_taskflow import ManagedBackgroundTasks, TaskManager

from benchmarks.peers.contender import Burst


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Add the tasks to a request's BackgroundTasks, then call it."""
    manager = TaskManager()

    @manager.task()
    async def noop(number: int) -> None:
        """The job."""

    async def burst(names: Sequence[str | None]) -> None:
        tasks = ManagedBackgroundTasks(manager)
        for number, _ in enumerate(names):
            tasks.add_task(noop, number)
        await tasks()

    await manager.startup()
    yield burst
    await manager.shutdown()
