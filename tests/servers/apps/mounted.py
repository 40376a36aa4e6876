"""The page under every mounting: factories of applications, each with jobs in every state from the start."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from asgi_jobs import Jobs, JobsMiddleware, current_job

HOUR = timedelta(hours=1)
ODD = "a/b?c=d#e &ü%2f"
"""A queue's name in which every letter that means something in an address has to be taken for itself."""


def full() -> Jobs:
    """A `Jobs` whose first task fills the page as soon as it runs. It opens with the key, as by default."""
    origins = [origin for origin in [os.environ.get("ORIGIN")] if origin]
    jobs = Jobs(
        title="Shop jobs",
        badge="testing",
        home_url="/elsewhere",
        origins=origins,
        stuck_after=timedelta(milliseconds=1),
    )

    @jobs.task(key="shop:report")
    async def report() -> None:
        """Needs nothing."""

    @jobs.task(key="shop:letter")
    async def letter(to: str) -> None:
        """Needs an argument."""

    async def broken() -> None:
        current_job().log("began")
        raise ValueError("out of paper")

    async def hold() -> None:
        current_job().progress(1, 4, "letters")
        await asyncio.Event().wait()

    @jobs.task(every=HOUR, start_after=timedelta(0), key="shop:fill")
    async def fill() -> None:
        await jobs.using(queue=ODD, name=ODD).enqueue(broken).wait()
        await letter.enqueue("Ada").wait()
        await jobs.pause("paused")
        jobs.using(queue="paused").enqueue(letter, "Bob")
        jobs.using(delay=HOUR).enqueue(letter, "Cleo")
        await jobs.using(delay=HOUR).enqueue(letter, "Dora").cancel()
        jobs.using(queue=ODD).enqueue(hold)
        for name in ("behind", "last"):
            jobs.using(queue=ODD, name=name).enqueue(letter, "Eve")

    return jobs


def _inside(jobs: Jobs, *mounts: Mount) -> Starlette:
    return Starlette(routes=mounts, middleware=[Middleware(JobsMiddleware, jobs=jobs)])


def deep() -> ASGIApp:
    """Mounted three names deep."""
    jobs = full()
    return _inside(jobs, Mount("/a/b/jobs", jobs))


def nested() -> ASGIApp:
    """Mounted in an application that is mounted itself."""
    jobs = full()
    return _inside(jobs, Mount("/a", Starlette(routes=[Mount("/b", routes=[Mount("/jobs", jobs)])])))


def shop() -> ASGIApp:
    """Mounted below the prefix that a proxy leaves in place."""
    jobs = full()
    return _inside(jobs, Mount("/shop/jobs", jobs))


def twice() -> ASGIApp:
    """Two in one application, one below the other."""
    jobs, mail = full(), full()
    app = _inside(jobs, Mount("/jobs/mail", mail), Mount("/jobs", jobs))
    return JobsMiddleware(app, jobs=mail, state="mail_jobs")


def outermost() -> ASGIApp:
    """Nothing but the page."""
    jobs = full()
    return _inside(jobs, Mount("/", jobs))


def fastapi() -> ASGIApp:
    """In FastAPI; ROOT is its own root_path."""
    jobs = full()
    app = FastAPI(root_path=os.environ.get("ROOT", ""))
    app.mount("/a/b/jobs", jobs)
    app.add_middleware(JobsMiddleware, jobs=jobs)
    return app


def litestar() -> ASGIApp:
    from litestar import Litestar

    return JobsMiddleware(Litestar([]), jobs=full(), path="/a/b/jobs")


def quart() -> ASGIApp:
    from quart import Quart

    return JobsMiddleware(Quart(__name__), jobs=full(), path="/a/b/jobs")


def django() -> ASGIApp:
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test")
    return JobsMiddleware(get_asgi_application(), jobs=full(), path="/a/b/jobs")


urlpatterns: list[object] = []
"""Django's addresses: none of its own."""
