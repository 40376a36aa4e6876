"""The page of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgi_jobs.clock import in_words
from asgi_jobs.dashboard import as_json, jobview, words
from asgi_jobs.dashboard.fleet import nobody_runs
from asgi_jobs.dashboard.masking import shown
from asgi_jobs.dashboard.pages import Ask, Page, job_facts
from asgi_jobs.dashboard.pulse import alike, known
from asgi_jobs.dashboard.why import Around
from asgi_jobs.job import JobState

if TYPE_CHECKING:
    from asgi_jobs.stores.base import QueueInfo


class JobPage(Page):
    """One job."""

    template, name, lists = "job.html", "jobs", False

    def __init__(self, ask: Ask, id: str) -> None:
        super().__init__(ask)
        self.id = id
        self.around = Around()

    async def stamp(self) -> object:
        self.job = await self.ask.jobs.get(self.id)
        stack = self.job.stack() if self.job.state is JobState.RUNNING else None
        return self.job.waiting_for_session, [(frame.file, frame.line) for frame in stack or ()]

    async def load(self) -> None:
        ask, job = self.ask, self.job
        queue = await self._queue()
        in_line = job.state is JobState.QUEUED and job.queue is not None
        group = [harm for harm in ask.pulse.harms if harm.kind == "failed" and alike(harm.jobs[0]) == alike(job)]
        self.around = Around(
            queue=queue,
            blocks=ask.pulse.blocked(job),
            place=await ask.jobs.place(job.id) if in_line else None,
            holder=await known(ask.jobs, queue.current) if queue and in_line and not job.held else None,
            alike=sum(other.id != job.id for harm in group for other in harm.jobs) if job.error else 0,
            retention=in_words(ask.jobs.settings.retention),
            durable=ask.jobs.durable,
            nobody=nobody_runs(ask.jobs, ask.pulse.fleet),
            worker=ask.pulse.fleet.of(job),
            known=job.task not in ask.pulse.fleet.unknown,
            stuck_after=words.lasting(ask.jobs.settings.stuck_after),
        )

    async def _queue(self) -> QueueInfo | None:
        if self.job.queue is None:
            return None
        read = next((queue for queue in self.ask.pulse.queues if queue.name == self.job.queue), None)
        return read or next(iter(await self.ask.jobs.queues(names=[self.job.queue])), None)

    def title(self) -> str:
        return shown(self.job.name) or "Job"

    def json(self) -> Any:
        return as_json.one_job(self.job)

    def facts(self) -> object:
        around = self.around
        place = around.place and (around.place.position, around.place.behind and job_facts(around.place.behind))
        return (
            job_facts(self.job),
            self.job.log_count,
            around.queue and (around.queue.limit, around.queue.queued, around.queue.paused_since),
            around.holder and job_facts(around.holder),
            (place, around.alike, around.worker and around.worker.id),
        )

    def view(self) -> dict[str, Any]:
        ask = self.ask
        may_act = ask.visit.may_act
        return {"job": jobview.job_view(self.job, self.around, ask.visit.links, ask.jobs.now(), may_act=may_act)}
