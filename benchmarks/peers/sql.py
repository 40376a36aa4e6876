"""What every contender with a database offers to the clock."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

CALLERS = 100
"""How many callers enqueue at once where one call after another would be no fair picture."""


class Driver(Protocol):
    """A contender that is open on a database of its own."""

    async def enqueue(self, name: str | None) -> None:
        """Enqueue one job, and return when it would survive a crash."""
        ...

    async def enqueue_all(self, names: Sequence[str | None]) -> None:
        """Enqueue many, in the way that the contender has for that."""
        ...

    async def ended(self, count: int) -> None:
        """Return when the end of so many jobs in all has been recorded in the database."""
        ...


Open = Callable[[str, Sequence[str | None], bool], AbstractAsyncContextManager[Driver]]
"""Opens a contender: the database's URL, every name that will be used, and whether jobs are run."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who keeps jobs in a database: what it is called, its distribution, how it is opened."""

    name: str
    distribution: str
    open: Open


class Tally:
    """How many jobs have run, counted by the jobs themselves, on the loop or in any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._awaited = 0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()

    def add(self) -> None:
        """One more has run."""
        with self._lock:
            self.count += 1
            reached = self.count == self._awaited
        if reached:
            self._loop.call_soon_threadsafe(self._reached.set)

    async def reached(self, count: int) -> None:
        """Wait until so many have run."""
        with self._lock:
            self._awaited = count
            self._reached.clear()
            if self.count >= count:
                return
        await self._reached.wait()


async def by_callers(driver: Driver, names: Sequence[str | None]) -> None:
    """Enqueue one by one, by a hundred callers of whom each waits until its job is stored before the next."""
    left = iter(names)

    async def caller() -> None:
        for name in left:
            await driver.enqueue(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
