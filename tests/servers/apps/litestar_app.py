"""A Litestar application, wrapped."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, get, post

from asgi_jobs import JobsMiddleware
from tests.servers.apps.work import jobs, short, tell


@get("/ready", sync_to_thread=False)
def ready() -> str:
    return "ready"


@post("/enqueue", status_code=200)
async def enqueue(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {"id": request.state.jobs.enqueue(short).id}


async def starts() -> None:
    tell("application starts")


async def stops() -> None:
    tell("application stops")


app = JobsMiddleware(
    Litestar(route_handlers=[ready, enqueue], on_startup=[starts], on_shutdown=[stops]),
    jobs=jobs,
    path="/jobs",
)
