"""What every page is made of, and the rows that several of them show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import QueryParams

from asgi_jobs.dashboard import siteview, views, words
from asgi_jobs.dashboard.fleet import nobody_runs
from asgi_jobs.dashboard.pulse import Pulse, known
from asgi_jobs.dashboard.views import JobRow
from asgi_jobs.dashboard.visit import Visit
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import Jobs, TaskInfo
    from asgi_jobs.info import Place
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


def task_facts(info: TaskInfo) -> tuple[object, ...]:
    """What is shown of a task and is not in its JSON."""
    return info.task, info.last_job and job_facts(info.last_job)


async def places_of(ask: Ask, found: Sequence[Job]) -> dict[str, Place]:
    """Where the queued jobs of a list stand in their queues."""
    in_line = [job for job in found if job.state is JobState.QUEUED and job.queue is not None]
    return await ask.jobs.places(in_line) if in_line else {}


def place_facts(place: Place | None) -> object:
    """What is shown of a place."""
    return place and (place.position, place.behind and (place.behind.id, place.behind.state))


def job_rows(ask: Ask, jobs: Sequence[Job], places: Mapping[str, Place]) -> list[JobRow]:
    """Jobs as rows, those in line with their place."""
    links, now = ask.visit.links, ask.jobs.now()
    unknown = ask.pulse.fleet.unknown
    return [
        views.job_row(job, links, now, places.get(job.id), ask.pulse.blocked(job), known=job.task not in unknown)
        for job in jobs
    ]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue and what is shown with it: who holds its slot, and the task of its first job if no worker knows that."""

    info: QueueInfo
    holder: Job | None
    lacks: str = ""

    @property
    def facts(self) -> object:
        """What is shown and is not in the JSON."""
        return self.lacks, self.holder and job_facts(self.holder)


async def with_holders(ask: Ask, queues: Sequence[QueueInfo]) -> list[Queue]:
    """Queues, each with the job that holds it up."""
    return [Queue(info, await known(ask.jobs, info.current), await _lack(ask, info)) for info in queues]


async def _lack(ask: Ask, info: QueueInfo) -> str:
    unknown = ask.pulse.fleet.unknown
    if not unknown or info.current is not None or info.paused_since is not None:
        return ""
    head = await known(ask.jobs, info.head)
    return head.task if head is not None and head.task in unknown else ""


def queue_rows(ask: Ask, queues: Sequence[Queue], back: str) -> list[siteview.QueueRow]:
    """Queues as rows."""
    links, now, may_act = ask.visit.links, ask.jobs.now(), ask.visit.may_act
    waits = nobody_runs(ask.jobs, ask.pulse.fleet) or siteview.FOR_A_PLACE
    return [
        siteview.queue_row(one.info, one.holder, links, now, back=back, may_act=may_act, lacks=one.lacks, waits=waits)
        for one in queues
    ]


def queues_said(queues: Sequence[QueueInfo], number: int) -> str:
    """How many queues there are; all that are idle are among those given."""
    idle = sum(1 for queue in queues if not (queue.running or queue.queued or queue.current or queue.paused_since))
    said = words.amount(number, "queue")
    return f"{said}, {idle:,} of them idle" if idle else said
