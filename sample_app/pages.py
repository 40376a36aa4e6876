"""The pages that are looked at: each asks the database and the jobs, and fills a template."""

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import func, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.templating import Jinja2Templates

from asgi_jobs import Job, JobNotFound, JobState
from sample_app import airports, reports
from sample_app.database import Heartbeat, Person, sessions
from sample_app.jobs import call_courier, compress_archive, deliver_webhook, jobs, nightly_report
from sample_app.mail import mail_server
from sample_app.map import map_file
from sample_app.settings import settings
from sample_app.tenants import TENANTS, Tenant

HERE = Path(__file__).parent
UNFINISHED = {JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING}


def everywhere(request: Request) -> dict[str, object]:
    """What every page shows."""
    return {"tenants": TENANTS.values(), "store": settings.store_name, "workers": settings.concurrency == 0}


templates = Jinja2Templates(HERE / "templates", context_processors=[everywhere])
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def working(found: Iterable[Job | None]) -> bool:
    """Whether a page that shows these jobs should ask for itself again.

    Ask before the page reads what they write: one that ends in between has its page asked for once more.
    """
    return any(job is not None and job.state in UNFINISHED for job in found)


def tenant_of(request: Request) -> Tenant:
    try:
        return TENANTS[request.path_params["tenant"]]
    except KeyError:
        raise HTTPException(404, "There is no such tenant.") from None


async def job_or_none(job_id: str | None) -> Job | None:
    """A job by its id, unless its record is gone."""
    try:
        return await jobs.get(job_id) if job_id else None
    except JobNotFound:
        return None


async def latest_of(queue: str) -> Job | None:
    return next(iter(await jobs.find(queue=queue, limit=1)), None)


async def overview(request: Request) -> Response:
    imports = {slug: await latest_of(tenant.import_queue) for slug, tenant in TENANTS.items()}
    latest = await jobs.find(limit=10)
    again = working(latest)
    async with sessions() as session:
        counts = await airports.counts(session)
        people = await session.scalar(select(func.count()).select_from(Person))
        heartbeat = await session.get(Heartbeat, 1)
    context = {
        "counts": counts,
        "people": people,
        "heartbeat": heartbeat,
        "imports": imports,
        "latest": latest,
    }
    return templates.TemplateResponse(request, "overview.html", context | {"working": again})


async def people(request: Request, error: str = "", status: int = 200, **typed: str) -> Response:
    """The people, and the form to join them; with what was wrong with it, and what was typed."""
    async with sessions() as session:
        newest = (await session.scalars(select(Person).order_by(Person.joined_at.desc()).limit(20))).all()
    welcomes = {person.id: await job_or_none(person.welcome_job) for person in newest}
    context = {"people": newest, "welcomes": welcomes, "working": working(welcomes.values())}
    form = {"error": error, "typed": typed}
    return templates.TemplateResponse(request, "people.html", context | form, status_code=status)


async def inbox(request: Request) -> Response:
    context = {"messages": await mail_server.inbox()}
    return templates.TemplateResponse(request, "inbox.html", context)


async def tenant(request: Request) -> Response:
    this = tenant_of(request)
    imports = await jobs.find(queue=this.import_queue, limit=5)
    maps = await jobs.find(queue=this.map_queue, limit=1)
    again = working([*imports, *maps])
    async with sessions() as session:
        count = (await airports.counts(session)).get(this.slug, 0)
        highest = await airports.highest(session, this.slug)
        countries = await airports.by_country(session, this.slug)
    context = {
        "tenant": this,
        "count": count,
        "highest": highest,
        "countries": countries,
        "imports": imports,
        "maps": maps,
        "map_version": version_of(map_file(this.slug)),
        "working": again,
    }
    return templates.TemplateResponse(request, "tenant.html", context)


def version_of(file: Path) -> int | None:
    """What changes when the file does; None when there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


async def map_image(request: Request) -> Response:
    file = map_file(tenant_of(request).slug)
    if version_of(file) is None:
        raise HTTPException(404, "No map has been drawn yet.")
    return FileResponse(file, media_type="image/png", headers={"Cache-Control": "no-cache"})


async def report_list(request: Request) -> Response:
    runs = await jobs.find(task=nightly_report.key, limit=3)
    again = working(runs)
    async with sessions() as session:
        made = await reports.latest(session)
        heartbeat = await session.get(Heartbeat, 1)
    context = {"reports": made, "heartbeat": heartbeat, "runs": runs, "working": again}
    return templates.TemplateResponse(request, "reports.html", context)


async def trouble(request: Request) -> Response:
    found = {
        "fail": await jobs.find(task=deliver_webhook.key, limit=3),
        "hang": await jobs.find(task=call_courier.key, limit=4),
        "block": await jobs.find(task=compress_archive.key, limit=3),
    }
    context = {"found": found, "working": any(map(working, found.values()))}
    return templates.TemplateResponse(request, "trouble.html", context)


async def health(request: Request) -> Response:
    """For a load balancer: 503 once the jobs' engine, its store or the event loop is in trouble."""
    found = await jobs.health()
    return JSONResponse({"ok": found.ok, "reasons": found.reasons}, 200 if found.ok else 503)


async def busy_page(request: Request, error: Exception) -> Response:
    """When no further job is taken, the request is refused: nothing is dropped silently."""
    context = {"status": 503, "reason": "This is too much at once. Please try again in a moment."}
    return templates.TemplateResponse(request, "error.html", context, status_code=503)


async def error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = "There is no such page." if error.detail == "Not Found" else error.detail
    context = {"status": error.status_code, "reason": reason}
    return templates.TemplateResponse(request, "error.html", context, status_code=error.status_code)
