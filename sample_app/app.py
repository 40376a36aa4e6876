"""The ASGI application: routes, middleware, and what is opened and closed with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from asgi_jobs import JobsMiddleware, QueueFull, ShuttingDown
from sample_app import database, forms, pages
from sample_app.guard import BodyLimit, SameOrigin
from sample_app.jobs import jobs
from sample_app.settings import settings


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """What jobs need is opened here: they start after it, and have ended before it is closed."""
    settings.make_directories()
    await database.create_tables()
    try:
        yield
    finally:
        await database.close()


routes = [
    Route("/", pages.overview, name="overview"),
    Route("/people", pages.people, name="people"),
    Route("/people", forms.sign_up, name="sign_up", methods=["POST"]),
    Route("/inbox", pages.inbox, name="inbox"),
    Route("/tenants/{tenant}", pages.tenant, name="tenant"),
    Route("/tenants/{tenant}/import", forms.import_bundled, name="import_bundled", methods=["POST"]),
    Route("/tenants/{tenant}/upload", forms.import_upload, name="import_upload", methods=["POST"]),
    Route("/tenants/{tenant}/imports/{job}/cancel", forms.cancel_import, name="cancel_import", methods=["POST"]),
    Route("/tenants/{tenant}/map", forms.start_map, name="start_map", methods=["POST"]),
    Route("/tenants/{tenant}/map.png", pages.map_image, name="map_image"),
    Route("/reports", pages.report_list, name="reports"),
    Route("/reports", forms.start_report, name="start_report", methods=["POST"]),
    Route("/trouble", pages.trouble, name="trouble"),
    Route("/trouble/fail", forms.start_failing, name="start_failing", methods=["POST"]),
    Route("/trouble/hang", forms.start_hanging, name="start_hanging", methods=["POST"]),
    Route("/trouble/block", forms.start_blocking, name="start_blocking", methods=["POST"]),
    Route("/health", pages.health, name="health"),
    Mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static"),
]

app = Starlette(
    routes=[
        Mount("/jobs", jobs, name="jobs"),  # guards its own forms
        Mount(
            "/",
            routes=routes,
            middleware=[Middleware(SameOrigin), Middleware(BodyLimit, limit=settings.max_upload)],
        ),
    ],
    middleware=[Middleware(JobsMiddleware, jobs=jobs)],
    exception_handlers={
        HTTPException: pages.error_page,
        QueueFull: pages.busy_page,
        ShuttingDown: pages.busy_page,
    },
    lifespan=lifespan,
)
