"""Jobs of a store in a database, for workers. `python -m tests.servers.apps.crew NAME …` enqueues some and ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta

from asgi_jobs import Jobs, current_job

SECONDS = float(os.environ.get("SHUTDOWN_SECONDS", "25"))
jobs = Jobs(store=os.environ["STORE"], concurrency=0, shutdown_timeout=timedelta(seconds=SECONDS))
in_memory = Jobs()
nothing_to_do = Jobs(store=os.environ["STORE"])


def tell(text: str) -> None:
    print(f"[{text}]", flush=True)


@jobs.task
async def short() -> None:
    tell("short begins")
    await asyncio.sleep(0.5)
    tell("short ends")


@jobs.task(queue="forever")
async def forever() -> None:
    tell(f"forever begins, attempt {current_job().job.attempt}")
    try:
        await asyncio.Event().wait()
    finally:
        tell("forever cleans up")


@jobs.task
async def in_a_thread() -> None:
    await asyncio.to_thread(sleep)


def sleep() -> None:
    tell("thread begins")
    time.sleep(600)


@jobs.task
async def failing() -> None:
    raise ConnectionError("nobody answers")


async def main(names: list[str]) -> None:
    tasks = {task.function.__name__: task for task in (short, forever, in_a_thread, failing)}
    async with jobs:
        for name in names:
            job = await tasks[name].enqueue()
            tell(f"enqueued {job.id}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
