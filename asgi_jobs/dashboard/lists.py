"""The lists of queues, of tasks and of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from asgi_jobs.dashboard import as_json, siteview, workerview
from asgi_jobs.dashboard.listing import one
from asgi_jobs.dashboard.masking import visible
from asgi_jobs.dashboard.pages import Ask, Page, holders_of, job_facts, queue_rows, queues_said, task_facts

if TYPE_CHECKING:
    from asgi_jobs import TaskInfo

QUEUES_A_PAGE = 100


class Queues(Page):
    """All queues, those in trouble first."""

    template, name, lists = "queues.html", "queues", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.q = one(ask.query, "q").strip()
        self.start = _start(one(ask.query, "start"))
        text = self.q.casefold()
        self.matching = [queue for queue in ask.pulse.queues if text in queue.name.casefold()]

    async def load(self) -> None:
        self.page = self.matching[self.start : self.start + QUEUES_A_PAGE]
        self.holders = await holders_of(self.ask, self.page)

    def title(self) -> str:
        return "Queues"

    def json(self) -> Any:
        return [as_json.queue(queue) for queue in self.matching]

    def facts(self) -> object:
        return [job_facts(job) for job in self.holders.values()]

    def view(self) -> dict[str, Any]:
        end = self.start + QUEUES_A_PAGE
        more = [("q", self.q), ("start", str(end))]
        return {
            "rows": queue_rows(self.ask, self.page, self.holders, "queues"),
            "q": self.q,
            "asked": visible(self.q),
            "said": queues_said(self.matching).removeprefix("All "),
            "older": self.ask.visit.links.to("/queues", more) if end < len(self.matching) else "",
        }


def _start(value: str) -> int:
    if value and not (value.isascii() and value.isdecimal() and len(value) < 8):
        raise HTTPException(422, "start must be a number.")
    return int(value or 0)


class Tasks(Page):
    """Declared tasks, scheduled ones first."""

    template, name, lists = "tasks.html", "tasks", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.tasks: list[TaskInfo] = []

    async def load(self) -> None:
        self.tasks = await self.ask.jobs.tasks()

    def title(self) -> str:
        return "Tasks"

    def json(self) -> Any:
        return [as_json.task(task) for task in self.tasks]

    def facts(self) -> object:
        return [task_facts(task) for task in self.tasks]

    def view(self) -> dict[str, Any]:
        links, now, may_act = self.ask.visit.links, self.ask.jobs.now(), self.ask.visit.may_act
        tasks = sorted(self.tasks, key=lambda task: task.schedule is None)
        unknown = self.ask.pulse.fleet.unknown
        rows = [
            siteview.task_row(task, links, now, back="tasks", may_act=may_act, unknown=unknown.get(task.task, 0))
            for task in tasks
        ]
        declared = {task.task for task in tasks}
        strangers = [siteview.unknown_row(task, n, links) for task, n in unknown.items() if task not in declared]
        return {"rows": [*strangers, *rows]}


class Workers(Page):
    """The processes that have the store open; there is no such page of a store in memory."""

    template, name, lists = "workers.html", "workers", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        if not ask.jobs.durable:
            raise HTTPException(404, "With jobs in memory there is no other process to show.")
        self.workers = ask.pulse.fleet.workers

    async def load(self) -> None:
        """The pulse has them."""

    def title(self) -> str:
        return "Workers"

    def json(self) -> Any:
        return [as_json.worker(worker) for worker in self.workers]

    def facts(self) -> object:
        return [job_facts(job) for worker in self.workers for job in worker.running]

    def view(self) -> dict[str, Any]:
        links, now = self.ask.visit.links, self.ask.jobs.now()
        return {
            "rows": [workerview.worker_row(worker, links, now) for worker in self.workers],
            "said": workerview.processes_said(self.ask.pulse.fleet),
        }
