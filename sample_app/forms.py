"""What the buttons do: each changes something or enqueues a job, and sends the browser to a page."""

import asyncio
import shutil
from email.headerregistry import Address
from pathlib import Path
from uuid import uuid4

from sqlalchemy.exc import IntegrityError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sample_app import airports, pages
from sample_app.database import Person, sessions
from sample_app.jobs import (
    call_courier,
    compress_archive,
    deliver_webhook,
    draw_map,
    import_airports,
    nightly_report,
    send_welcome,
)
from sample_app.settings import settings
from sample_app.tenants import Tenant


def see(request: Request, page: str, **params: str) -> Response:
    return RedirectResponse(request.url_for(page, **params), status_code=303)


async def sign_up(request: Request) -> Response:
    async with request.form(max_files=0, max_fields=5) as form:
        name, email = str(form.get("name", "")).strip(), str(form.get("email", "")).strip().lower()
    if reason := wrong_with(name, email):
        return await pages.people(request, reason, 422, name=name, email=email)
    async with sessions() as session:
        person = Person(id=uuid4(), name=name, email=email)
        session.add(person)
        # The job comes into being with the commit. When that fails, nobody is written to.
        welcome = send_welcome.using(on_commit=session, name=f"Welcome {email}").enqueue(person.id)
        person.welcome_job = welcome.id
        try:
            await session.commit()
        except IntegrityError:
            return await pages.people(request, f"{email} has signed up already.", 409, name=name)
    return see(request, "people")


def wrong_with(name: str, email: str) -> str | None:
    """What is wrong with a sign-up, for the person who has typed it."""
    if not name or len(name) > 80 or not name.isprintable():
        return "Please give a name of at most 80 letters."
    try:
        address = Address(addr_spec=email)
    except ValueError:
        address = Address()
    if not address.username or "." not in address.domain or len(email) > 200 or not email.isascii():
        return "Please give an e-mail address like ana@example.com."
    return None


async def import_bundled(request: Request) -> Response:
    tenant = pages.tenant_of(request)
    await start_import(tenant, airports.bundled_file(), "airportsdata")
    return see(request, "tenant", tenant=tenant.slug)


async def import_upload(request: Request) -> Response:
    tenant = pages.tenant_of(request)
    async with request.form(max_files=1, max_fields=1) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise HTTPException(422, "Please choose a CSV file.")
        # The upload ends with the request, and the job comes later: it is given a file of its own.
        path = settings.uploads / f"{uuid4().hex}.csv"
        await asyncio.to_thread(keep, upload, path)
        await start_import(tenant, path, Path(upload.filename).name)
    return see(request, "tenant", tenant=tenant.slug)


def keep(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target)


async def start_import(tenant: Tenant, path: Path, source: str) -> None:
    options = import_airports.using(queue=tenant.import_queue, name=f"Import {source}, {tenant.name}")
    await options.enqueue(tenant.slug, str(path))


async def cancel_import(request: Request) -> Response:
    tenant = pages.tenant_of(request)
    job = await pages.job_or_none(request.path_params["job"])
    if job is None or job.queue != tenant.import_queue:
        raise HTTPException(404, f"{tenant.name} has no such import.")
    await job.cancel(reason="Cancelled on the tenant's page")
    return see(request, "tenant", tenant=tenant.slug)


async def start_map(request: Request) -> Response:
    tenant = pages.tenant_of(request)
    # Who asks twice gets one map: `unique` answers with the job that is there already.
    options = draw_map.using(queue=tenant.map_queue, unique=tenant.map_queue, name=f"Map, {tenant.name}")
    await options.enqueue(tenant.slug)
    return see(request, "tenant", tenant=tenant.slug)


async def start_report(request: Request) -> Response:
    await nightly_report.using(name="Report, on demand").enqueue()
    return see(request, "reports")


async def start_failing(request: Request) -> Response:
    await deliver_webhook.using(name="Order shipped → Initech").enqueue("https://hooks.initech.example/orders")
    return see(request, "trouble")


async def start_hanging(request: Request) -> Response:
    await call_courier.using(name="Parcel 1, no answer").enqueue("parcel 1", answers=False)
    for number in range(2, 5):
        await call_courier.using(name=f"Parcel {number}").enqueue(f"parcel {number}")
    return see(request, "trouble")


async def start_blocking(request: Request) -> Response:
    await compress_archive.using(name="Compress the archive").enqueue(4.0)
    return see(request, "trouble")
