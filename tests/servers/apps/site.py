"""A Starlette application with jobs of every temper, served by the tests in processes of their own."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from asgi_jobs import Jobs, JobsMiddleware

AUTHORIZE: Any = {"local": "local", "key": None}[os.environ.get("AUTHORIZE", "local")]
SECONDS = float(os.environ.get("SHUTDOWN_SECONDS", "25"))
jobs = Jobs(authorize=AUTHORIZE, shutdown_timeout=timedelta(seconds=SECONDS))
LIFE = secrets.token_hex(8)
"""Another one after each reload."""


def tell(text: str) -> None:
    print(f"[{text}]", flush=True)


async def noop() -> None:
    pass


async def forever() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        tell("forever cleans up")


async def short() -> None:
    tell("short begins")
    await asyncio.sleep(0.5)
    tell("short ends")


async def stubborn() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            tell("stubborn goes on")


def thread() -> None:
    tell("thread begins")
    time.sleep(600)


KINDS: dict[str, Any] = {work.__name__: work for work in (noop, forever, short, stubborn, thread)}


async def enqueue(request: Request) -> Response:
    name = request.path_params["kind"]
    job = request.state.jobs.enqueue(KINDS[name], name=name, queue=request.query_params.get("queue"))
    return JSONResponse({"id": job.id})


async def wait(request: Request) -> Response:
    job = await request.state.jobs.enqueue(short).wait()
    return JSONResponse({"state": job.state})


async def ready(request: Request) -> Response:
    return PlainTextResponse("ready")


async def health(request: Request) -> Response:
    health = await request.state.jobs.health()
    return JSONResponse({"reasons": health.reasons}, 200 if health.ok else 503)


async def process(request: Request) -> Response:
    return JSONResponse({"pid": os.getpid(), "processes": jobs.processes, "life": LIFE})


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    tell("application starts")
    yield
    tell("application stops")


app = Starlette(
    routes=[
        Route("/ready", ready),
        Route("/health", health),
        Route("/process", process),
        Route("/enqueue/{kind}", enqueue, methods=["POST"]),
        Route("/wait", wait, methods=["POST"]),
        Mount("/jobs", jobs),
    ],
    middleware=[Middleware(JobsMiddleware, jobs=jobs)],
    lifespan=lifespan,
)
