"""flexiq, whose engine is in Rust. It limits how often a task runs at once: each name is a task with a limit of 1.

Tasks are declared before the worker starts, so names that come up later are not possible there.
"""

import asyncio
import io
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from typing import Any

from flexiq import Queue

from benchmarks.peers.sql import Driver, Tally


class _Flexiq:
    def __init__(self, queue: Queue, tasks: dict[str, Any], tally: Tally) -> None:
        self.queue = queue
        self.tasks = tasks
        self.tally = tally

    async def enqueue(self, name: str | None) -> None:
        await asyncio.to_thread(self.tasks[name or "noop"].delay, 0)

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        for name, count in Counter(name or "noop" for name in names).items():
            await asyncio.to_thread(self.queue.enqueue_many, name, [(0,)] * count)

    async def ended(self, count: int) -> None:
        await self.tally.reached(count)
        while (await asyncio.to_thread(self.queue.stats))["completed"] < count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def contender(url: str, names: Sequence[str | None], running: bool) -> AsyncIterator[Driver]:
    """A new schema, the worker in a thread; as many jobs at once, and claimed at once, as ours."""
    os.environ["FLEXIQ_LOG_LEVEL"] = "WARNING"
    queue = Queue(backend="postgres", db_url=url, workers=100, async_concurrency=100, scheduler_batch_size=100)
    tally = Tally()

    def declare(name: str) -> Any:
        @queue.task(name=name, max_concurrent=1 if any(names) else None)
        async def noop(number: int) -> None:
            tally.add()

        return noop

    tasks = {name: declare(name) for name in dict.fromkeys(name or "noop" for name in names)}
    worker = threading.Thread(target=queue.run_worker)
    with redirect_stdout(io.StringIO()):  # it prints a banner
        if running:
            worker.start()
        yield _Flexiq(queue, tasks, tally)
        if running:
            queue.shutdown()
            await asyncio.to_thread(worker.join)
    queue.close()
