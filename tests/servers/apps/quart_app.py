"""A Quart application, wrapped."""

from __future__ import annotations

from quart import Quart, request

from asgi_jobs import JobsMiddleware
from tests.servers.apps.work import jobs, short, tell

site = Quart(__name__)


@site.get("/ready")
async def ready() -> str:
    return "ready"


@site.post("/enqueue")
async def enqueue() -> dict[str, str]:
    return {"id": request.scope["state"]["jobs"].enqueue(short).id}


@site.before_serving
async def starts() -> None:
    tell("application starts")


@site.after_serving
async def stops() -> None:
    tell("application stops")


app = JobsMiddleware(site, jobs=jobs, path="/jobs")
