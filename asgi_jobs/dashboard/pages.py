"""What every page is made of, and the rows that several of them show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import QueryParams

from asgi_jobs.dashboard import siteview, views, words
from asgi_jobs.dashboard.pulse import Pulse, known
from asgi_jobs.dashboard.views import JobRow
from asgi_jobs.dashboard.visit import Visit
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import Jobs
    from asgi_jobs.stores.base import QueueInfo


@dataclass(frozen=True, slots=True)
class Ask:
    """What a page is made from."""

    jobs: Jobs
    visit: Visit
    pulse: Pulse
    query: QueryParams


class Page:
    """One page: `stamp` and `load` read, the others only turn what was read into something."""

    template = ""
    name = ""
    lists = True
    listed: str | None = None

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    async def stamp(self) -> object:
        """What of it changes without a record changing; cheap, asked at every poll."""
        return ()

    async def load(self) -> None:
        """Read what is shown."""
        raise NotImplementedError

    def title(self) -> str:
        """The browser's title."""
        raise NotImplementedError

    def json(self) -> Any:
        """The same data for programs."""
        raise NotImplementedError

    def view(self) -> dict[str, Any]:
        """What the template shows."""
        raise NotImplementedError


async def queue_rows(ask: Ask, queues: Sequence[QueueInfo], back: str) -> list[siteview.QueueRow]:
    """Queues as rows, each with the job that holds its slot."""
    links, now, may_act = ask.visit.links, ask.jobs.now(), ask.visit.may_act
    return [
        siteview.queue_row(queue, await known(ask.jobs, queue.current), links, now, back=back, may_act=may_act)
        for queue in queues
    ]


async def job_rows(ask: Ask, jobs: Sequence[Job]) -> list[JobRow]:
    """Jobs as rows, those in line with their place."""
    links, now = ask.visit.links, ask.jobs.now()
    rows = []
    for job in jobs:
        in_line = job.state is JobState.QUEUED and job.queue is not None
        place = await ask.jobs.place(job.id) if in_line else None
        rows.append(views.job_row(job, links, now, place, ask.pulse.blocked(job)))
    return rows


def queues_said(queues: Sequence[QueueInfo]) -> str:
    """How many queues there are."""
    idle = sum(1 for queue in queues if not (queue.running or queue.queued or queue.current or queue.paused_since))
    said = f"All {words.amount(len(queues), 'queue')}"
    return f"{said}, {idle:,} of them idle" if idle else said
