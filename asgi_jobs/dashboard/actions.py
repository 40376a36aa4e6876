"""What the buttons do: one job, many jobs, a queue, a task. Whether they may is decided at the door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from asgi_jobs.dashboard import as_json
from asgi_jobs.dashboard.listing import Filters, matching, one
from asgi_jobs.errors import ArgumentsGone, InvalidState, JobNotFound
from asgi_jobs.job import Job

if TYPE_CHECKING:
    from asgi_jobs import Jobs

MOST = 1_000
REASON = "from the jobs page"
IMPOSSIBLE = (ArgumentsGone, InvalidState)


@dataclass(frozen=True, slots=True)
class Done:
    """What an act has led to.

    Attributes:
        verb: what was done, as the redirect names it.
        data: the answer as JSON.
        job: the job to look at, where there is one.
        refused: why the job's state forbids it: 409 as JSON, a notice on the page.
    """

    verb: str
    data: Any = None
    done: int = 1
    skipped: int = 0
    job: Job | None = None
    refused: str = ""


async def cancel(jobs: Jobs, id: str, form: FormData) -> Done:
    """Ask one job to stop."""
    job = await jobs.get(id)
    if job.state.finished:
        return Done("cancel", done=0, skipped=1, job=job, refused=f"The job has ended already: {job.state}.")
    job = await jobs.cancel(id, one(form, "reason").strip() or REASON)
    return Done("cancel", as_json.one_job(job), job=job)


async def retry(jobs: Jobs, id: str, form: FormData) -> Done:
    """Run one job again, as a new one."""
    try:
        job = await jobs.retry(id)
    except IMPOSSIBLE as error:
        return Done("retry", done=0, skipped=1, job=await jobs.get(id), refused=str(error))
    return Done("retry", as_json.one_job(job), job=job)


async def release(jobs: Jobs, id: str, form: FormData) -> Done:
    """Give up a job whose owner hangs."""
    try:
        await jobs.release(id)
    except IMPOSSIBLE as error:
        return Done("release", done=0, skipped=1, job=await jobs.get(id), refused=str(error))
    job = await jobs.get(id)
    return Done("release", as_json.one_job(job), job=job)


async def cancel_many(jobs: Jobs, form: FormData) -> Done:
    """Ask all that were chosen to stop, at most 1,000; what has ended is skipped."""
    ids, ended = await _chosen(jobs, form, lambda job: not job.state.finished)
    done, skipped = await jobs.cancel_many(ids, one(form, "reason").strip() or REASON)
    return Done("cancel", {"done": done, "skipped": skipped + ended}, done, skipped + ended)


async def retry_many(jobs: Jobs, form: FormData) -> Done:
    """Run all that were chosen again, at most 1,000; what cannot be is skipped."""
    # In a list of a database's jobs nobody sees what they kept; only trying tells.
    ids, skipped = await _chosen(jobs, form, lambda job: job.repeatable or (jobs.durable and job.state.finished))
    done = 0
    for id in ids:
        try:
            await jobs.retry(id)
            done += 1
        except (*IMPOSSIBLE, JobNotFound):
            skipped += 1
        if done % 100 == 0:
            await asyncio.sleep(0)  # jobs and requests go on meanwhile
    return Done("retry", {"done": done, "skipped": skipped}, done, skipped)


async def _chosen(jobs: Jobs, form: FormData, fits: Callable[[Job], bool]) -> tuple[list[str], int]:
    """The jobs that a form names, or those that match its filters and can be acted on; and how many cannot."""
    ids = list(dict.fromkeys(id for id in form.getlist("id") if isinstance(id, str) and id))
    filters = Filters.read(form)
    if not ids and not filters.narrowed:
        raise HTTPException(400, "Say which jobs: id, or a filter.")
    if ids:
        return ids[:MOST], 0
    others = 0
    async for job in matching(jobs, filters):
        if fits(job):
            ids.append(job.id)
        else:
            others += 1
        if len(ids) == MOST:
            break
    return ids, others


async def pause(jobs: Jobs, form: FormData) -> Done:
    """Let nothing new start in a queue."""
    queue = _needed(form, "queue")
    await jobs.pause(queue)
    return Done("pause", {"queue": queue, "paused": True})


async def resume(jobs: Jobs, form: FormData) -> Done:
    """Let a queue go on."""
    queue = _needed(form, "queue")
    await jobs.resume(queue)
    return Done("resume", {"queue": queue, "paused": False})


async def cancel_queue(jobs: Jobs, form: FormData) -> Done:
    """Cancel what waits in a queue; what runs goes on."""
    done, skipped = await jobs.cancel_waiting(_needed(form, "queue"))
    return Done("cancel", {"done": done, "skipped": skipped}, done, skipped)


async def run_task(jobs: Jobs, form: FormData) -> Done:
    """Enqueue a declared task now."""
    job = await jobs.run_task(_needed(form, "task"))
    return Done("run", as_json.one_job(job), job=job)


def _needed(form: FormData, name: str) -> str:
    value = one(form, name)
    if not value:
        raise HTTPException(422, f"The form field {name} is missing or empty.")
    return value
