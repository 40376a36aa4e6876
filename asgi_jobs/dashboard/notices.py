"""What must be said loudly at the top of every page."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

from asgi_jobs.dashboard import words
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.pulse import WAITING, Pulse
from asgi_jobs.dashboard.views import Code, Link, Note, Parts, Strong
from asgi_jobs.dashboard.visit import Visit
from asgi_jobs.dashboard.workerview import START_ONE

if TYPE_CHECKING:
    from asgi_jobs import Jobs


def notices(jobs: Jobs, visit: Visit, pulse: Pulse | None, now: datetime, page: str) -> list[Note]:
    """What must be said loudly, worst first."""
    made = [_engine(jobs, pulse), _processes(jobs), _trimmed(jobs)]
    if page != "overview":  # which has these in its list
        made = [_nobody(pulse), _loop(jobs, visit.links, now), *made]
    if not visit.may_act:
        said: Parts = (
            Strong("You may look, not act."),
            " Cancelling, running and pausing are refused for you.",
        )
        made.append(Note(said, "info", "info"))
    return [notice for notice in made if notice]


def _nobody(pulse: Pulse | None) -> Note | None:
    harm = next((harm for harm in pulse.harms if harm.kind == "nobody"), None) if pulse else None
    if harm is None:
        return None
    waits = f" {words.waiting(harm.number, harm.later)}. "
    return Note((Strong("No worker runs, so no job starts."), waits, *START_ONE), "bad", "warn")


def _engine(jobs: Jobs, pulse: Pulse | None) -> Note | None:
    if jobs.status == "running":
        return None
    if jobs.status == "stopping":
        return Note((Strong("The engine is stopping."), " Jobs that run may end, then it ends."), "warn", "warn")
    said = words.waiting(*(pulse.counts.get(state, 0) for state in WAITING)) if pulse else ""
    waits = f" {said}." if said else ""
    here = " in this process" if jobs.durable else ""
    remedy: Parts = (" Add ", Code("JobsMiddleware"), ", or compose ", Code("jobs.lifespan"))
    return Note(
        (Strong(f"The engine is not running, so no job starts{here}."), waits, *remedy, " into the application."),
        "bad",
        "warn",
    )


def _processes(jobs: Jobs) -> Note | None:
    if jobs.durable or jobs.processes < 2:
        return None
    shared = f" The memory store is not shared: this page shows process {os.getpid()} only, and a queue runs once per"
    parts: Parts = (
        Strong(f"{jobs.processes} server processes, each with jobs of its own."),
        shared,
        " process. Run one process.",
    )
    return Note(parts, "warn", "warn")


def _loop(jobs: Jobs, links: Links, now: datetime) -> Note | None:
    blocked = jobs.loop_blocked
    if blocked is None:
        return None
    what = Strong(f"The event loop stood still for {blocked.seconds:.1f} s at {words.clock(blocked.since, now).text}.")
    name = shown(blocked.name)
    who = Link(name, links.job(blocked.job_id)) if blocked.job_id else name
    at = Code(f"{visible(blocked.file)}:{blocked.line}")
    called: Parts = (" ", who, " was in ", Code(visible(blocked.function)), " at ", at)
    return Note((what, *called, "; no request was answered meanwhile."), "warn", "warn")


def _trimmed(jobs: Jobs) -> Note | None:
    if not jobs.trimmed:
        return None
    return Note((Strong("Older logs and tracebacks were dropped"), ": they took more than 64 MiB."), "info", "info")
