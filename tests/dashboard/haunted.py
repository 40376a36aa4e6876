"""Jobs whose every text is hostile, and every address of their page."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from asgi_jobs import Job, Jobs, Retry, current_job
from asgi_jobs.dashboard.assets import load_assets
from asgi_jobs.dashboard.routes import Dashboard

HOUR = timedelta(hours=1)
ROUTES = Dashboard(Jobs(authorize="local")).routes()
HOSTILE = [
    "<x-evil onload=alert(1)>",
    '"><x-evil>',
    "'><x-evil>",
    "</title></textarea></script><x-evil>",
    "{{7*7}}{% for x in y %}",
    "javascript:alert(1)//",
    "]]><x-evil/>",
    "\u202egnp.exe",
    "nul\x00nul",
    "half \ud800 pair",
    "/../..//evil.example",
]


def every_route(id: str = "x") -> Iterator[tuple[str, str]]:
    """Method and path of every address that the page has, with this job's id where one belongs."""
    asset = load_assets()["app.js"].name
    for route in ROUTES:
        for method in sorted(route.methods or ()):
            yield method, route.path.format(id=id, name=asset)


def every_page(ids: Iterable[str]) -> list[str]:
    """Every address that is looked at, the page of each of these jobs included."""
    paths = [path for id in ids for method, path in every_route(id) if method == "GET"]
    return [path for path in dict.fromkeys(paths) if not path.startswith("/assets/")]


def sendable(text: str) -> str:
    """The text as a name that is accepted: without the letters that no name can have."""
    return text.replace("\x00", "0").replace("\ud800", "8")


@asynccontextmanager
async def haunted(texts: list[str], url: str | None = None) -> AsyncIterator[tuple[Jobs, list[Job]]]:
    """Started jobs, in memory or in a database: of each text one that failed twice, one that runs, one that waits.

    The text is the name, queue, task, description, error, traceback, log, progress, reason and host.
    """
    go, running = asyncio.Event(), asyncio.Queue[None]()
    host = sendable(texts[0])
    with patch.object(socket, "gethostname", lambda: host):
        jobs = Jobs(
            store=url,
            authorize=lambda request: True,
            title=sendable(texts[0])[:200],
            badge=sendable(texts[0])[:40],
            stuck_after=timedelta(milliseconds=1),
        )
        kinds = [_declared(jobs, text, go, running) for text in texts]
        async with jobs:
            made = []
            try:
                for text, (fails, holds) in zip(texts, kinds, strict=True):
                    made += await _enqueued(jobs, text, fails, holds)
                for _ in texts:
                    await running.get()
                yield jobs, made
            finally:
                go.set()


def _declared(jobs: Jobs, text: str, go: asyncio.Event, running: asyncio.Queue[None]) -> tuple[Any, Any]:
    kind = type(f"E{sendable(text)}", (Exception,), {})

    async def fails() -> None:
        current_job().log(text)
        raise kind(text)

    async def holds() -> None:
        current_job().log(text)
        current_job().progress(1, 2, text)
        running.put_nowait(None)
        await go.wait()

    for function in (fails, holds):
        function.__doc__ = sendable(text)
    key = sendable(text)
    twice = Retry(1, base=timedelta(0), jitter=0)
    return jobs.task(key=f"{key} 1", retries=twice)(fails), jobs.task(key=f"{key} 2", every=HOUR)(holds)


async def _enqueued(jobs: Jobs, text: str, fails: Any, holds: Any) -> list[Job]:
    queue = sendable(text)
    failed = await fails.using(name=text, queue=queue).enqueue()
    await failed.wait()
    again = await jobs.retry(failed.id)
    await again.wait()
    runs = await holds.using(name=text, queue=queue).enqueue()
    waits = await fails.using(name=text, queue=queue).enqueue()
    later = await fails.using(name=text, queue=queue, delay=HOUR).enqueue()
    ended = await fails.using(name=text, queue=queue, delay=HOUR).enqueue()
    await ended.cancel(sendable(text))
    return [failed, again, runs, waits, later, ended]
