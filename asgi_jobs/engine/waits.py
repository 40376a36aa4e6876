"""Who waits for the end of which job, and the waits that could never end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import DeadlockError, NotStored

if TYPE_CHECKING:
    from asgi_jobs.engine.executor import Run
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import Store


class Waiters:
    """Futures of those who wait for a job's end, by id."""

    def __init__(self) -> None:
        self.futures: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, id: str) -> None:
        """Wait until `settle` or `fail` is called for the job."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures.setdefault(id, []).append(future)
        try:
            await future
        finally:
            waiting = self.futures.get(id)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self.futures[id]

    def settle(self, id: str) -> None:
        """The job has ended."""
        for future in self.futures.pop(id, ()):
            if not future.done():
                future.set_result(None)

    def fail(self, id: str) -> None:
        """The job will never exist."""
        for future in self.futures.pop(id, ()):
            if not future.done():
                future.set_exception(NotStored("its transaction was rolled back, so the job does not exist"))


async def refuse_deadlock(run: Run, target: Record, store: Store) -> None:
    """Raise DeadlockError where the target cannot end before the waiting job does.

    Args:
        run: the attempt that would wait.
        target: what it would wait for.
        store: knows who holds the slots of a queue.
    """
    if await _depends(target, run.record, store, frozenset()):
        why = "itself" if target is run.record else f"job {target.name!r} ({target.id})"
        raise DeadlockError(
            f"job {run.record.name!r} would wait for {why}, which cannot end before it does; "
            f"put one of them in another queue, or do not wait"
        )


async def _depends(job: Record, on: Record, store: Store, seen: frozenset[int]) -> bool:
    """Whether the job can end only after another one has: it waits for it, or for a slot that it holds."""
    if job is on:
        return True
    if job.number in seen:
        return False
    seen |= {job.number}
    if job.run is not None:
        return await _any_depends(job.run.waits or (), on, store, seen)
    if job.queue is None or job.held:
        return False
    holders = await resolve(store.holders(job))
    for holder in holders:
        if not await _depends(holder, on, store, seen):
            return False
    return bool(holders)


async def _any_depends(jobs: Sequence[Record], on: Record, store: Store, seen: frozenset[int]) -> bool:
    for job in jobs:
        if await _depends(job, on, store, seen):
            return True
    return False
