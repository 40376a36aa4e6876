"""The background jobs of this application: how they are wired, and what each of them does."""

# ruff: noqa: ASYNC251 (that mistake is shown by the last job here)

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from asgi_jobs import Jobs, Retry, current_job
from sample_app import airports, map, reports
from sample_app.database import Airport, Person, Report, sessions, thread_sessions, uninterrupted
from sample_app.mail import EmailSender, MailProvider
from sample_app.settings import settings

jobs = Jobs(
    session_factory=sessions,
    providers=[MailProvider()],
    store=settings.store,
    concurrency=settings.concurrency,
    queues={"email": 4},
    title="Airfield jobs",
    badge="demo",
    home_url="/",
    # Short, so that a visitor of the demo need not wait; leave the defaults alone elsewhere.
    stuck_after=timedelta(seconds=10),
    shutdown_timeout=timedelta(seconds=8),
)

WELCOME = """\
Hello {name},

your account is ready: you may now import airports for any of our tenants,
and watch the map fill up.

This message was written by a background job, in its own database session,
after your sign-up had been committed. Had the sign-up been rolled back,
the job would never have existed.

Clear skies,
Airfield
"""


@jobs.task(queue="email", retries=Retry(3, base=timedelta(seconds=2)), timeout=timedelta(seconds=30))
async def send_welcome(person_id: UUID, session: AsyncSession, sender: EmailSender) -> None:
    """Greet somebody who has just signed up."""
    person = await session.get_one(Person, person_id)
    subject = f"Welcome to Airfield, {person.name}"
    await sender.send(name=person.name, to=person.email, subject=subject, text=WELCOME.format(name=person.name))
    current_job().log(f"Sent to {person.email}")


@jobs.task
async def import_airports(tenant: str, file: str, session: AsyncSession) -> None:
    """Replace the airports of a tenant by those of a file, or leave them as they are."""
    job, path = current_job(), Path(file)
    total = await asyncio.to_thread(airports.count_lines, path)
    job.log(f"{path.name} has {total:,} lines")
    rows: list[airports.AirportRow] = []
    for batch in airports.batches(airports.read(path)):
        rows += batch
        job.progress(len(rows), total, f"{len(rows):,} of {total:,} lines checked")
        await asyncio.sleep(settings.import_pause.total_seconds())
    job.log(f"All {len(rows):,} airports are in order; writing them in one transaction")
    await uninterrupted(airports.replace(session, tenant, rows))
    job.log(f"{len(rows):,} airports imported")


@jobs.task
def draw_map(tenant: str) -> None:
    """Draw the airports of a tenant. An ordinary function: it runs in a thread and blocks nobody."""
    job = current_job()
    with thread_sessions() as session:
        query = select(Airport.lat, Airport.lon).where(Airport.tenant == tenant)
        points = [(lat, lon) for lat, lon in session.execute(query)]
    job.log(f"{len(points):,} airports to draw")
    picture = map.draw(points, lambda done: job.progress(done, len(points), f"{done:,} dots drawn"))
    if not job.cancelled:
        map.save(picture, map.map_file(tenant))


@jobs.task(cron="0 3 * * *", timezone="UTC", queue="reports")
async def nightly_report(session: AsyncSession) -> None:
    """Count people and airports."""
    async with session.begin():
        figures = await reports.collect(session)
    # A transaction of its own: one that has read cannot begin to write once somebody else has written.
    async with session.begin():
        session.add(Report(figures=figures))


@jobs.task(every=timedelta(seconds=30), start_after=timedelta(seconds=1))
async def heartbeat(session: AsyncSession) -> None:
    """Note that the application is alive."""
    await reports.beat(session)
    await session.commit()


@jobs.task(every=timedelta(hours=1))
def tidy_up() -> None:
    """Delete uploads and messages older than a day."""
    for path in reports.old_files([settings.uploads, settings.mail], timedelta(days=1)):
        path.unlink(missing_ok=True)


# The jobs of the page "Trouble" go wrong on purpose.


@jobs.task
async def deliver_webhook(url: str) -> None:
    """Fail, as if the other side did not answer."""
    current_job().log(f"POST {url}")
    raise ConnectionError(f"{url} did not answer")


@jobs.task(queue="courier")
async def call_courier(parcel: str, *, answers: bool = True) -> None:
    """Call the courier. Who does not answer is waited for, and all calls behind wait too."""
    current_job().log(f"Calling the courier about {parcel}")
    if not answers:
        await asyncio.Event().wait()
    await asyncio.sleep(0.2)


@jobs.task
async def compress_archive(seconds: float) -> None:
    """Block the event loop: the mistake of calling something slow without awaiting it."""
    time.sleep(seconds)
