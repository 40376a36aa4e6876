from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.stores.bench import KINDS, Bench, opened


@pytest.fixture(params=KINDS)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    """Opens a store of the kind with settings of one's own; its books are checked at the end."""
    async with AsyncExitStack() as stack:

        async def enter(**settings: Any) -> Bench:
            return await stack.enter_async_context(opened(request.param, **settings))

        yield enter


@pytest.fixture
async def store(make: Callable[..., Awaitable[Bench]]) -> Bench:
    """An empty store of the kind, with the usual settings."""
    return await make()
