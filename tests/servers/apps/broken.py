"""Applications that cannot start, and one that knows no lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from asgi_jobs import Jobs, JobsMiddleware
from tests.servers.apps.work import jobs, short


@asynccontextmanager
async def no_database(_: Starlette) -> AsyncIterator[None]:
    jobs.enqueue(short)
    raise RuntimeError("no database")
    yield


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse("ready")(scope, receive, send)


failing = JobsMiddleware(Starlette(lifespan=no_database), jobs=jobs)
taken = JobsMiddleware(JobsMiddleware(silent, jobs=Jobs(authorize="local")), jobs=jobs)
without_lifespan = JobsMiddleware(silent, jobs=jobs, path="/jobs")
