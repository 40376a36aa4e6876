"""A Litestar application, wrapped."""

from __future__ import annotations

from litestar import Litestar, Request, get, post
from tests.servers.apps.work import jobs, short, tell

from asgi_jobs import JobsMiddleware


@get("/ready", sync_to_thread=False)
def ready() -> str:
    return "ready"


@post("/enqueue", status_code=200)
async def enqueue(request: Request[None, None, object]) -> dict[str, str]:  # type: ignore[type-var]
    return {"id": request.scope["state"]["jobs"].enqueue(short).id}


async def starts() -> None:
    tell("application starts")


async def stops() -> None:
    tell("application stops")


app = JobsMiddleware(
    Litestar(route_handlers=[ready, enqueue], on_startup=[starts], on_shutdown=[stops]),
    jobs=jobs,
    path="/jobs",
)
