"""Which store `Jobs(store=…)` means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from asgi_jobs.errors import InvalidOption
from asgi_jobs.stores.memory import MemoryStore

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock
    from asgi_jobs.settings import Settings
    from asgi_jobs.stores.base import Store
    from asgi_jobs.task import Task


def open_store(
    store: Any, settings: Settings, clock: Clock, tasks: Callable[[], Mapping[str, Task[Any, Any]]]
) -> Store:
    """The store in memory for None, else that in a database.

    Raises:
        InvalidOption, InvalidOptionType: there is no such store, or a setting does not go with it.
    """
    if store is not None:
        from asgi_jobs.stores.sql import SqlStore

        return SqlStore(
            store,
            tasks=tasks,
            limits=settings.queues,
            max_queued=settings.max_queued,
            max_finished=settings.max_finished,
            concurrency=settings.concurrency,
            direct_url=settings.direct_url,
            create_tables=settings.create_tables,
            clock=clock,
        )
    if settings.direct_url is not None or settings.create_tables is not True:
        raise InvalidOption("direct_url and create_tables are of stores in a database; leave them out")
    if settings.concurrency == 0:
        raise InvalidOption("concurrency=0 leaves the jobs to workers, and a store in memory has none")
    return MemoryStore(
        limits=settings.queues,
        max_queued=settings.max_queued,
        max_finished=settings.max_finished,
        monotonic=clock.monotonic,
    )
