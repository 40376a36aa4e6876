"""taskiq's InMemoryBroker: ``kiq`` makes an asyncio task, ``wait_all`` waits for all of them.

Like ours it keeps a record of each end (100 by default; as many as we keep here).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskiq import InMemoryBroker

from benchmarks.peers.contender import Burst


@asynccontextmanager
async def contender() -> AsyncIterator[Burst]:
    """Declare the job on a broker, kick it once a name."""
    broker = InMemoryBroker(max_stored_results=100_000)

    @broker.task
    async def noop(number: int) -> None:
        """The job."""

    async def burst(names: Sequence[str | None]) -> None:
        for number, _ in enumerate(names):
            await noop.kiq(number)
        await broker.wait_all()

    await broker.startup()
    yield burst
    await broker.shutdown()
