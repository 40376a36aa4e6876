"""Who waits for the end of which job, and the waits that could never end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asgi_jobs.errors import DeadlockError, NotStored

if TYPE_CHECKING:
    from asgi_jobs.engine.executor import Run
    from asgi_jobs.job import Record


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


def refuse_deadlock(run: Run, target: Record, holders: dict[str, tuple[int, list[Record]]]) -> None:
    """Raise DeadlockError where the target cannot end before the waiting job does.

    Args:
        run: the attempt that would wait.
        target: what it would wait for.
        holders: by queue, its limit and the jobs that hold its slots.
    """
    if _depends(target, run.record, holders, set()):
        why = "itself" if target is run.record else f"job {target.name!r} ({target.id})"
        raise DeadlockError(
            f"job {run.record.name!r} would wait for {why}, which cannot end before it does; "
            f"put one of them in another queue, or do not wait"
        )


def _depends(job: Record, on: Record, holders: dict[str, tuple[int, list[Record]]], seen: set[int]) -> bool:
    """Whether the job can end only after another one has."""
    if job is on:
        return True
    if job.number in seen:
        return False
    seen.add(job.number)
    if job.run is not None:
        return any(_depends(other, on, holders, seen) for other in job.run.waits or ())
    if job.queue is None or job.held or job.queue not in holders:
        return False
    limit, holding = holders[job.queue]
    return len(holding) >= limit and all(_depends(other, on, holders, set(seen)) for other in holding)
