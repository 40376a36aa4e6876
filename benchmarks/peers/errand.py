"""errand-jobs with its in-memory store and its four workers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from errand_jobs import Errand, Job

from benchmarks.peers.contender import Burst


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Enqueue from the loop, then wait until the store has the end of the last job, which ends last."""
    tasks = Errand()

    @tasks.task
    async def noop(number: int) -> None:
        """The job."""

    async def burst(names: Sequence[str | None]) -> None:
        for number, _ in enumerate(names):
            last = tasks.enqueue(noop, number=number)
        while not await ended(last):
            await asyncio.sleep(0.001)

    async def ended(job: Job) -> bool:
        record = await tasks.get_job(job.id)
        return record is not None and record.finished_at is not None

    await tasks.startup()
    yield burst
    await tasks.shutdown()
