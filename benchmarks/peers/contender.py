"""What every contender offers to the clock."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

Burst = Callable[[Sequence[str | None]], Awaitable[None]]
"""Enqueues one empty job for each queue name given and returns when the end of all is recorded.

A contender without named queues runs as many jobs and passes over the names.
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who runs jobs: what it is called, its distribution, and how it is set up and taken down."""

    name: str
    distribution: str | None
    open: Callable[[], AbstractAsyncContextManager[Burst]]
