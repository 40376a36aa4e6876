"""The overview: what needs a person, queues in trouble, the latest jobs, tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgi_jobs.dashboard import as_json, attention, hourview, siteview, views, words, workerview
from asgi_jobs.dashboard.pages import (
    Ask,
    Page,
    job_facts,
    job_rows,
    place_facts,
    places_of,
    queue_rows,
    queues_said,
    task_facts,
    with_holders,
)
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import TaskInfo

LATEST = 25
QUEUES_SHOWN = 8
TASKS_SHOWN = 4


class Overview(Page):
    """What needs a person, queues in trouble, the latest jobs, tasks."""

    template, name, lists = "overview.html", "overview", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.latest: list[Job] = []
        self.tasks: list[TaskInfo] = []
        self.queues = ask.pulse.queues

    async def stamp(self) -> object:
        """The last hour moves on by the minute, also when nothing happens."""
        self.hour = await self.ask.jobs.hour()
        return hourview.facts(self.hour, self.ask.pulse, self.ask.jobs.now())

    async def load(self) -> None:
        self.latest = await self.ask.jobs.find(limit=LATEST)
        self.tasks = await self.ask.jobs.tasks()
        self.shown = await with_holders(self.ask, self.queues[:QUEUES_SHOWN])
        self.places = await places_of(self.ask, self.latest)

    def title(self) -> str:
        harms = len(self.ask.pulse.harms)
        if harms:
            return f"{harms} {'needs' if harms == 1 else 'need'} attention"
        return "Nothing needs attention" if self.latest else "Overview"

    def json(self) -> Any:
        return {
            "counts": as_json.counts(self.ask.pulse.counts),
            "queues": [as_json.queue(queue) for queue in self.queues],
            "tasks": [as_json.task(task) for task in self.tasks],
            "jobs": [as_json.job_in_list(job) for job in self.latest],
        }

    def facts(self) -> object:
        return (
            [job_facts(job) for job in self.latest],
            [queue.facts for queue in self.shown],
            self.ask.pulse.queue_count,
            [place_facts(place) for place in self.places.values()],
            [task_facts(task) for task in self.tasks],
        )

    def view(self) -> dict[str, Any]:
        ask, harms = self.ask, self.ask.pulse.harms
        links, now, may_act = ask.visit.links, ask.jobs.now(), ask.visit.may_act
        tasks = sorted(self.tasks, key=lambda task: (task.schedule is None, task.needs_arguments))
        return {
            "heading": attention.heading(harms),
            "attention": [attention.attention(harm, links, now, may_act=may_act) for harm in harms[: attention.ROWS]],
            "more": max(len(harms) - attention.ROWS, 0),
            "calm": _calm(ask),
            "empty": not self.latest and not harms,
            "hour": hourview.hour_view(self.hour, hourview.longest_wait(ask.pulse, now), now),
            "queues": queue_rows(ask, self.shown, "overview"),
            "queues_more": words.all_of(queues_said(self.queues, ask.pulse.queue_count)),
            "rows": job_rows(ask, self.latest, self.places),
            "tasks": [
                siteview.task_row(task, links, now, back="overview", may_act=may_act) for task in tasks[:TASKS_SHOWN]
            ],
            "task_count": words.all_of(words.amount(len(tasks), "task")),
            "workers": workerview.fleet_said(ask.pulse.fleet) if ask.jobs.durable else "",
            "processes": words.all_of(words.amount(len(ask.pulse.fleet.workers), "process", "processes")),
        }


def _calm(ask: Ask) -> str:
    oldest = max((queue.oldest_wait or 0.0 for queue in ask.pulse.queues), default=0.0)
    running = f"{ask.pulse.counts.get(JobState.RUNNING, 0):,} running"
    waits = f"the oldest wait is {views.lasts(oldest, ask.jobs.now()).text}" if oldest else "no job waits in a queue"
    return f"{running}. No queue is blocked, {waits}."
