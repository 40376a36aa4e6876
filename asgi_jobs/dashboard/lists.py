"""The lists of queues, of tasks and of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from asgi_jobs.dashboard import as_json, siteview, workerview
from asgi_jobs.dashboard.fleet import in_order
from asgi_jobs.dashboard.listing import one
from asgi_jobs.dashboard.masking import visible
from asgi_jobs.dashboard.pages import Ask, Page, Queue, job_facts, queue_rows, queues_said, task_facts, with_holders
from asgi_jobs.dashboard.pulse import in_trouble_first

if TYPE_CHECKING:
    from asgi_jobs import TaskInfo, WorkerInfo
    from asgi_jobs.stores.base import QueueInfo

QUEUES_A_PAGE = 100
SEARCHED = 1_000  # queues in which a part of a name is looked for


class Queues(Page):
    """All queues, those in trouble first."""

    template, name, lists = "queues.html", "queues", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.q = one(ask.query, "q").strip()
        self.start = _start(one(ask.query, "start"))
        self.end = self.start + QUEUES_A_PAGE
        self.matching: list[QueueInfo] = []
        self.shown: list[Queue] = []

    async def load(self) -> None:
        self.matching = in_trouble_first(await self._read(), self.ask.pulse.harms)
        if not self.ask.visit.json:
            self.shown = await with_holders(self.ask, self.matching[self.start : self.end])

    async def _read(self) -> Sequence[QueueInfo]:
        """Of a database not more than a page needs, unless a program asks for all."""
        jobs, q = self.ask.jobs, self.q.casefold()
        if not q:
            return await jobs.queues(limit=None if self.ask.visit.json else self.end + 1)
        found = {queue.name: queue for queue in await jobs.queues(limit=SEARCHED)}
        found |= {queue.name: queue for queue in await jobs.queues(names=[self.q])}
        return [queue for name, queue in found.items() if q in name.casefold()]

    def title(self) -> str:
        return "Queues"

    def json(self) -> Any:
        return [as_json.queue(queue) for queue in self.matching]

    def facts(self) -> object:
        return [queue.facts for queue in self.shown], self.ask.pulse.queue_count

    def view(self) -> dict[str, Any]:
        more = [("q", self.q), ("start", str(self.end))]
        number = len(self.matching) if self.q else self.ask.pulse.queue_count
        return {
            "rows": queue_rows(self.ask, self.shown, "queues"),
            "q": self.q,
            "asked": visible(self.q),
            "said": queues_said(self.matching, number),
            "older": self.ask.visit.links.to("/queues", more) if self.end < len(self.matching) else "",
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
        self.workers: list[WorkerInfo] = []

    async def load(self) -> None:
        self.workers = in_order(await self.ask.jobs.workers())

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
