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

    def facts(self) -> object:
        """What is shown and is not in the JSON: of a durable store the data itself makes the tag."""
        return ()

    def title(self) -> str:
        """The browser's title."""
        raise NotImplementedError

    def json(self) -> Any:
        """The same data for programs."""
        raise NotImplementedError

    def view(self) -> dict[str, Any]:
        """What the template shows."""
        raise NotImplementedError


def job_facts(job: Job) -> tuple[object, ...]:
    """What is shown of a job wherever it is named, and what is not in its JSON."""
    told = job.progress and (job.progress.done, job.progress.total, job.progress.text)
    stands = (job.state, job.held, job.attempt, job.run_at, job.started_at, job.finished_at)
    return job.id, stands, job.cancelling, told, job.waiting_for_session, job.repeatable, job.worker, job.deaths


async def places(ask: Ask, found: Sequence[Job]) -> dict[str, Place]:
    """Where the queued jobs of a list stand in their queues. Of a database not more is asked than it answers at once."""
    in_line = [job for job in found if job.state is JobState.QUEUED and job.queue is not None]
    if ask.jobs.durable:
        deep = {queue.name for queue in ask.pulse.queues if queue.queued > COUNTED}
        in_line = [job for job in in_line if job.queue not in deep][:PLACED]
    asked = {job.id: await ask.jobs.place(job.id) for job in in_line}
    return {id: place for id, place in asked.items() if place is not None}


async def queue_rows(ask: Ask, queues: Sequence[QueueInfo], back: str) -> list[siteview.QueueRow]:
    """Queues as rows, each with the job that holds its slot."""
    links, now, may_act = ask.visit.links, ask.jobs.now(), ask.visit.may_act
    return [
        siteview.queue_row(queue, holders.get(queue.name), links, now, back=back, may_act=may_act)
        for queue in queues
    ]


def queues_said(queues: Sequence[QueueInfo]) -> str:
    """How many queues there are."""
    idle = sum(1 for queue in queues if not (queue.running or queue.queued or queue.current or queue.paused_since))
    said = f"All {words.amount(len(queues), 'queue')}"
    return f"{said}, {idle:,} of them idle" if idle else said
