"""huey's MemoryHuey with a consumer in threads of this process; tasks are plain functions there.

``store_none`` makes it record the end of a job that returns nothing, as the others do.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from huey import MemoryHuey

from benchmarks.peers.contender import Burst


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Start the consumer's own threads: one worker, which is its default and its fastest under the GIL."""
    huey = MemoryHuey(store_none=True)

    @huey.task()
    def noop(number: int) -> None:
        """The job."""

    async def burst(names: Sequence[str | None]) -> None:
        expected = huey.result_count() + len(names)
        for number, _ in enumerate(names):
            noop(number)
        while huey.result_count() < expected:
            await asyncio.sleep(0.001)

    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.001, max_delay=0.001)
    consumer.start()
    for signum, handler in kept.items():
        signal.signal(signum, handler)
    yield burst
    consumer.stop(graceful=True)
