"""Who waits for the end of which job, and the waits that could never end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import DeadlockError, NotStored

if TYPE_CHECKING:
    from asgi_jobs.engine.run import Run
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
    if await _cannot_end(target, run.record, store):
        why = "itself" if target is run.record else f"job {target.name!r} ({target.id})"
        raise DeadlockError(
            f"job {run.record.name!r} would wait for {why}, which cannot end before it does; "
            f"put one of them in another queue, or do not wait"
        )


class Need(NamedTuple):
    """What one job needs before it can end."""

    jobs: Sequence[Record] = ()
    any_of: bool = False  # the end of one is enough: each would free a slot

    def unmet(self, stuck: set[str]) -> bool:
        """Whether it cannot be had, because these jobs cannot end."""
        jobs = [job.id in stuck for job in self.jobs]
        return (all(jobs) and bool(jobs)) if self.any_of else any(jobs)


async def _cannot_end(target: Record, on: Record, store: Store) -> bool:
    """Whether the target can end only after another job has.

    All that it needs, and they need, is taken to be stuck; then whatever can go on is taken out again, until
    nothing changes. Those that are left need each other in a circle.
    """
    needs: dict[str, Need] = {on.id: Need()}
    unseen = [target]
    while unseen:
        job = unseen.pop()
        if job.id not in needs:
            needs[job.id] = await _need(job, store)
            unseen += needs[job.id].jobs
    stuck, free = set(needs), {""}
    while free:
        free = {id for id in stuck if id != on.id and not needs[id].unmet(stuck)}
        stuck -= free
    return target.id in stuck


async def _need(job: Record, store: Store) -> Need:
    if job.run is not None:
        return Need(job.run.waits or ())
    if job.queue is None or job.held:
        return Need()
    holders = await resolve(store.holders(job))
    return Need() if job in holders else Need(holders, any_of=True)  # else it runs, in another process
