"""A shop on one database: a web process that only enqueues and shows, and workers that seem to be elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Job, Jobs, Task, current_job
from asgi_jobs.stores.sql import metadata
from tests import postgres

HERE = socket.gethostname()
JSON = {"accept": "application/json"}


class Shop:
    """One database, the processes on it, and what its tasks wait for."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.web: Jobs
        self.client: httpx.AsyncClient
        self.tasks: dict[str, Task[Any, Any]] = {}  # of the first process
        self._stack = stack

    def make(self, **settings: Any) -> Jobs:
        """A process that has not started."""
        jobs = Jobs(store=self.url, authorize=lambda request: True, **settings)
        tasks = self._declare(jobs)
        self.tasks = self.tasks or tasks
        return jobs

    async def open(self, host: str | None = None, **settings: Any) -> Jobs:
        """A process that has; of another machine where a host is named."""
        jobs = self.make(**settings)
        with patch.object(socket, "gethostname", lambda: host or HERE):
            await self._stack.enter_async_context(jobs)
        return jobs

    async def open_web(self, **settings: Any) -> None:
        """The process that shows the page. It runs nothing."""
        self.web = await self.open(concurrency=0, **settings)
        app = Starlette(routes=[Mount("/jobs", self.web)])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/jobs")
        await self._stack.enter_async_context(self.client)

    async def enqueue(self, task: str, **options: Any) -> Job:
        """Have the first process enqueue a job."""
        return await self.tasks[task].using(**options).enqueue()

    async def running(self, task: str, **options: Any) -> Job:
        """The same, and wait until a worker runs it."""
        job = await self.enqueue(task, **options)
        await self.started.wait()
        return job

    async def page(self, path: str) -> str:
        """A page as a browser sees it."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, path
        return answer.text

    async def data(self, path: str) -> Any:
        """The same as JSON."""
        answer = await self.client.get(path, headers=JSON)
        assert answer.status_code == 200, path
        return answer.json()

    def _declare(self, jobs: Jobs) -> dict[str, Task[Any, Any]]:
        async def fine(word: str = "") -> None:
            """Does what it should."""

        async def broken() -> None:
            current_job().log("began")
            raise ValueError("out of paper")

        async def hold() -> None:
            """Runs until the test lets it go."""
            current_job().progress(1, 4, "letters")
            self.started.set()
            await self.go.wait()

        async def deaf() -> None:
            self.started.set()
            while not self.go.is_set():
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    continue

        functions = [fine, broken, hold, deaf]
        return {function.__name__: jobs.task(key=f"shop:{function.__name__}")(function) for function in functions}


@asynccontextmanager
async def opened(kind: str, directory: Path) -> AsyncIterator[Shop]:
    """A shop on a new, empty database of the kind, without a process."""
    url = f"sqlite+aiosqlite:///{directory}/jobs.db" if kind == "sqlite" else await _empty_postgresql()
    async with AsyncExitStack() as stack:
        shop = Shop(url, stack)
        try:
            yield shop
        finally:
            shop.go.set()


async def _empty_postgresql() -> str:
    url = postgres.database()
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    await engine.dispose()
    return url.render_as_string(hide_password=False)
