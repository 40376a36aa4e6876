"""The dashboard as an ASGI application: its addresses, and what answers each."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_jobs import errors
from asgi_jobs.dashboard import actions
from asgi_jobs.dashboard.access import Access
from asgi_jobs.dashboard.actions import Done
from asgi_jobs.dashboard.assets import FOREVER, load_assets
from asgi_jobs.dashboard.door import Door
from asgi_jobs.dashboard.etag import etag, unchanged
from asgi_jobs.dashboard.forms import form_of
from asgi_jobs.dashboard.frame import frame
from asgi_jobs.dashboard.headers import SecureHeaders
from asgi_jobs.dashboard.joblist import JobList
from asgi_jobs.dashboard.jobpage import JobPage
from asgi_jobs.dashboard.listing import remembered
from asgi_jobs.dashboard.lists import Queues, Tasks, Workers
from asgi_jobs.dashboard.masking import shown
from asgi_jobs.dashboard.overview import Overview
from asgi_jobs.dashboard.pages import Ask, Page
from asgi_jobs.dashboard.pulse import Pulse, Watch
from asgi_jobs.dashboard.refusing import AWAY, heading_of, said_of
from asgi_jobs.dashboard.render import Renderer
from asgi_jobs.dashboard.visit import KEY, Visit, visit_of

if TYPE_CHECKING:
    from asgi_jobs import Jobs

TICKING = {"oldest_wait", "seen_at"}
PATIENCE = 10
"""Seconds that a page waits for its database."""
BACK = {"overview": "/", "queues": "/queues", "tasks": "/tasks", "jobs": "/jobs"}
logger = logging.getLogger("asgi_jobs.dashboard")

OnJob = Callable[["Jobs", str, FormData], Awaitable[Done]]
OnForm = Callable[["Jobs", FormData], Awaitable[Done]]


def build(jobs: Jobs) -> ASGIApp:
    """The dashboard of a `Jobs`, to be mounted anywhere. Works before the engine has started."""
    return Dashboard(jobs).app


class Dashboard:
    """Handlers: each reads a request and answers it; who may ask was decided before."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.assets = load_assets()
        self.renderer = Renderer(jobs.settings, self.assets)
        self.watch = Watch(jobs)
        self.born = secrets.token_hex(8)  # two processes, or two lives of one, never share a tag
        access = getattr(jobs, "access", None) or Access(jobs.settings)
        handled = ExceptionMiddleware(
            Router(self.routes(), redirect_slashes=False),  # its redirects would follow Host
            handlers={HTTPException: self.refuse, errors.JobsError: self.refuse},
        )
        calm = Calm(handled, self.renderer)
        self.app: ASGIApp = SecureHeaders(Door(calm, access, tuple(jobs.settings.origins), self.renderer, jobs.now))

    def routes(self) -> list[Route]:
        """Every address below the mount."""
        show, on_job, on_form = self.show, self.act_on_job, self.act_on_form
        return [
            Route("/", partial(show, Overview)),
            Route("/jobs", partial(show, JobList)),
            Route("/jobs/cancel", partial(on_form, actions.cancel_many), methods=["POST"]),
            Route("/jobs/retry", partial(on_form, actions.retry_many), methods=["POST"]),
            Route("/jobs/{id}", self.show_job),
            Route("/jobs/{id}/cancel", partial(on_job, actions.cancel), methods=["POST"]),
            Route("/jobs/{id}/retry", partial(on_job, actions.retry), methods=["POST"]),
            Route("/jobs/{id}/release", partial(on_job, actions.release), methods=["POST"]),
            Route("/queues", partial(show, Queues)),
            Route("/queues/pause", partial(on_form, actions.pause), methods=["POST"]),
            Route("/queues/resume", partial(on_form, actions.resume), methods=["POST"]),
            Route("/queues/cancel", partial(on_form, actions.cancel_queue), methods=["POST"]),
            Route("/tasks", partial(show, Tasks)),
            Route("/tasks/run", partial(on_form, actions.run_task), methods=["POST"]),
            Route("/workers", partial(show, Workers)),
            Route("/assets/{name}", self.asset),
        ]

    # Looking

    async def show(self, make: Callable[[Ask], Page], request: Request) -> Response:
        """A page, or that it has not changed."""
        async with self.answering(PATIENCE if self.jobs.durable else None):
            return await self.look(make, request)

    async def look(self, make: Callable[[Ask], Page], request: Request) -> Response:
        """See `show`."""
        visit, pulse = visit_of(request), await self.watch.pulse()
        page = make(Ask(self.jobs, visit, pulse, request.query_params))
        stamp = await page.stamp()
        if self.jobs.durable:
            await page.load()
        data = (_steady(page.json()), page.facts()) if self.jobs.durable else self.jobs.revision
        tag = self.tag(request, visit, pulse.facts, stamp, data)
        if unchanged(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers={"etag": tag, "vary": "Accept, Cookie"})
        if not self.jobs.durable:
            await page.load()
        return await self.answer(request, visit, page, tag)

    @asynccontextmanager
    async def answering(self, patience: float | None = None) -> AsyncIterator[None]:
        """The database is there. Nobody is kept waiting for a page longer than `patience`."""
        jobs = self.jobs
        if jobs.durable and jobs.status in {"new", "stopped"}:
            raise errors.NotRunning("The engine has not started or has stopped, so its database is not open here.")
        try:
            async with asyncio.timeout(patience):
                yield
        except TimeoutError:
            raise errors.StoreAway(f"The database has not answered for {patience} s.") from None

    async def show_job(self, request: Request) -> Response:
        """One job's page."""
        id = request.path_params["id"]
        if id in {"cancel", "retry"}:  # their addresses take a POST only
            raise HTTPException(405, headers={"allow": "POST"})
        return await self.show(partial(JobPage, id=id), request)

    def tag(self, request: Request, visit: Visit, *data: object) -> str:
        """The tag of what this visitor would see."""
        jobs = self.jobs
        around = (jobs.status, jobs.processes, jobs.loop_blocked, jobs.trimmed)
        asked = (visit.links.base, request.scope["path"], request.url.query, visit.json, visit.rights)
        return etag(self.born, asked, around, data)

    async def answer(self, request: Request, visit: Visit, page: Page, tag: str) -> Response:
        """The page as HTML or JSON. Between its steps jobs and other requests go on, for a long list takes a while."""
        await asyncio.sleep(0)
        if visit.json:
            response = self.renderer.json(page.json())
        else:
            around = frame(
                self.jobs, visit, page.ask.pulse, page=page.name, title=page.title(),
                query=request.query_params, listed=page.listed, lists=page.lists, etag=tag,
            )  # fmt: skip
            view = page.view()
            await asyncio.sleep(0)
            response = await self.renderer.long_page(page.template, visit, {"frame": around, **view})
        response.headers["etag"] = tag
        return response

    async def asset(self, request: Request) -> Response:
        """A file of the fixed set, by the name that carries its hash."""
        wanted = request.path_params["name"]
        asset = next((asset for asset in self.assets.values() if asset.name == wanted), None)
        if asset is None:
            raise HTTPException(404, "There is no such file.")
        return Response(asset.content, headers={"cache-control": FOREVER}, media_type=asset.media_type)

    # Acting

    async def act_on_job(self, act: OnJob, request: Request) -> Response:
        """Do something to the job of the address."""
        form = await form_of(request)
        async with self.answering():
            return self.acted(request, form, await act(self.jobs, request.path_params["id"], form))

    async def act_on_form(self, act: OnForm, request: Request) -> Response:
        """Do what a form says."""
        form = await form_of(request)
        async with self.answering():
            return self.acted(request, form, await act(self.jobs, form))

    def acted(self, request: Request, form: FormData, done: Done) -> Response:
        """Say what was done: as JSON, or on the page that the visitor came from."""
        visit = visit_of(request)
        if visit.json:
            if done.refused:
                return self.renderer.json({"error": done.refused}, 409)
            return self.renderer.json(done.data)
        said = [("did", done.verb), ("n", str(done.done)), ("skipped", str(done.skipped or ""))]
        return Response(status_code=303, headers={"location": _back(visit, form, done, said)})

    # Refusing

    async def refuse(self, request: Request, error: Exception) -> Response:
        """An error that the visitor can understand, as a page or as JSON."""
        visit = visit_of(request)
        status, said, headers = said_of(error)
        if visit.json:
            response = self.renderer.json({"error": said}, status)
        else:
            response = await self.explained(request, visit, status, said, error)
        response.headers.update(headers)
        return response

    async def explained(self, request: Request, visit: Visit, status: int, said: str, error: Exception) -> Response:
        """The page of an error, with the way back to the others."""
        job, away = isinstance(error, errors.JobNotFound), isinstance(error, AWAY) and request.method == "GET"
        heading = heading_of(error, status)
        around = frame(
            self.jobs, visit, await self.pulse_if_any(error), page="jobs" if job else "", title=heading,
            query=request.query_params, lists=away,
        )  # fmt: skip
        context: dict[str, Any] = {"frame": around, "heading": heading, "said": shown(said), "job": job, "away": away}
        return self.renderer.page("error.html", visit, context, status)

    async def pulse_if_any(self, error: Exception) -> Pulse | None:
        """The pulse, unless the store does not answer."""
        if isinstance(error, errors.StoreError):
            return None
        try:
            async with self.answering(PATIENCE if self.jobs.durable else None):
                return await self.watch.pulse()
        except AWAY:
            return None


class Calm:
    """Pure ASGI: an error of the dashboard's own is logged and shown as a page, never as somebody else's."""

    def __init__(self, app: ASGIApp, renderer: Renderer) -> None:
        self.app = app
        self.renderer = renderer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or say that it broke."""
        try:
            # With an app in the scope Starlette raises its 404 and 405 instead of answering in plain text.
            await self.app({"app": self.app, **scope}, receive, send)
        except Exception:
            logger.exception("The jobs page failed")
            await self.renderer.broken(scope[KEY])(scope, receive, send)


def _back(visit: Visit, form: FormData, done: Done, said: list[tuple[str, str]]) -> str:
    """Where to go on: a page of ours by its name, never an address that somebody sent."""
    given = form.get("back")
    name, _, query = (given if isinstance(given, str) else "").partition("?")
    if name in BACK:
        kept = remembered(query).pairs() if name == "jobs" else []
        return visit.links.to(BACK[name], [*kept, *said])
    if done.job is not None:
        return visit.links.job(done.job.id) + visit.links.to("", said).removeprefix(visit.links.base)
    return visit.links.to("/queues" if done.verb in {"pause", "resume"} else "/jobs", said)


def _steady(data: Any) -> Any:
    """The data without what the clock alone changes, so that nothing happening stays unchanged."""
    if isinstance(data, dict):
        return {name: _steady(value) for name, value in data.items() if name not in TICKING}
    return [_steady(value) for value in data] if isinstance(data, list) else data
