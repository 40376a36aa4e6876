"""What all tests share: a running `Jobs`, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from asgi_jobs import Jobs


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    """A started `Jobs` on a store in memory."""
    async with Jobs(authorize="local") as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread of the engine may outlive a test."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("asgi_jobs")]
    for thread in left:
        thread.join(2)
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads left behind: {alive}"


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """No asyncio task may outlive a test."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()]
    assert not left, f"tasks left behind: {left}"
