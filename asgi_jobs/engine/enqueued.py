"""The `Job` that `enqueue` gives on a durable store: awaiting it waits until it is stored."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from asgi_jobs.job import Job, Record

if TYPE_CHECKING:
    from asgi_jobs.job import Engine


class Enqueued(Job):
    """Awaitable any number of times, each on its own. With `unique` it becomes the job that is stored instead.

    Collected without ever having been awaited it warns: nobody would have heard that it could not be stored.
    """

    __slots__ = ("_awaited",)

    def __init__(self, record: Record, engine: Engine) -> None:
        super().__init__(record, engine)
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Job]:
        """Wait until the job is stored; gives the job.

        Raises:
            NotStored: the store refused it.
            StoreLocked: the caller's own transaction kept the database locked.
        """
        self._awaited = True
        details = self._record.details
        if details is not None and (details.unwritten is not None or details.answer is not None):
            yield from self._engine.stored(self).__await__()
        return self

    def __del__(self) -> None:
        if not self._awaited:
            record = self._record
            warnings.warn(
                f"job {record.name!r} of {record.plan.key} was enqueued without await: it is stored all the same, but "
                "nobody would have heard of a failure; write `await jobs.enqueue(…)`",
                RuntimeWarning,
                stacklevel=2,  # where it was let go, which is mostly the line that enqueued it
            )
