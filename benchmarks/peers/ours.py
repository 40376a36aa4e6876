"""asgi_jobs with its default settings, and with a record list that is full."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asgi_jobs import Jobs
from benchmarks.peers.contender import Burst


async def noop(number: int) -> None:
    """The job."""


def allow(request: object) -> bool:
    """Let everybody in, so that no key file is written."""
    return True


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Enqueue from the loop, then wait until nothing is queued or running."""
    async with Jobs(authorize=allow) as jobs:
        yield burst_of(jobs)


@asynccontextmanager
async def full() -> AsyncIterator[Burst]:
    """The steady state of a busy application: each further end drops the oldest record kept."""
    async with Jobs(authorize=allow, max_finished=20_000) as jobs:
        burst = burst_of(jobs)
        await burst([None] * 20_000)
        yield burst


def burst_of(jobs: Jobs) -> Burst:
    """A burst on an engine that runs."""

    async def burst(names: Sequence[str | None]) -> None:
        for number, name in enumerate(names):
            jobs.enqueue(noop, number, queue=name)
        await jobs.join()

    return burst
