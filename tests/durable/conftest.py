from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asgi_jobs import Jobs
from asgi_jobs.stores.sql import outage
from tests.durable.server import Server, own_server
from tests.durable.worker import Stage, declare, hurried, impatient


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that tests may stop, if they start it again."""
    with own_server() as made:
        yield made


@pytest.fixture
def stage() -> Stage:
    """Where the tasks of this process say what they do."""
    return Stage()


@pytest.fixture
async def start(stage: Stage) -> AsyncIterator[Callable[..., Any]]:
    """Starts a `Jobs` with the tasks of `worker.py` in this process; gives it and its tasks."""
    async with AsyncExitStack() as stack:

        async def started(store: Any, *, grace: float = 0.5, beat: float = 0.1, **options: Any) -> Any:
            jobs = hurried(Jobs(store=store, **options), grace, beat)
            tasks = declare(jobs, stage)
            await stack.enter_async_context(jobs)
            impatient(jobs)
            return jobs, tasks

        yield started


@pytest.fixture(autouse=True)
def soon_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is over, for the log, sooner than else."""
    monkeypatch.setattr(outage, "CALM", 0.3)


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged as a warning or worse so far, by whomever."""
    caplog.set_level(logging.INFO)
    return lambda: [f"{one.levelname} {one.message}" for one in caplog.records if one.levelno >= logging.WARNING]
