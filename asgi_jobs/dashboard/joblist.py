"""The job list: jobs that match, newest first, and what can be done to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from asgi_jobs.dashboard import as_json, words
from asgi_jobs.dashboard.listing import Filters, page_of
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.pages import Ask, Page, job_facts, job_rows, place_facts, places_of
from asgi_jobs.dashboard.pulse import Pulse, alike
from asgi_jobs.dashboard.views import Action, Strong
from asgi_jobs.job import Job, JobState

CHOICES = 200
CHIPS = 12


class JobList(Page):
    """Jobs that match, newest first."""

    template, name, lists = "jobs.html", "jobs", True

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.filters = Filters.read(ask.query)
        self.listed = self.filters.state
        self.found: list[Job] = []
        self.next: str | None = None

    async def load(self) -> None:
        self.found, self.next = await page_of(self.ask.jobs, self.filters)
        self.places = await places_of(self.ask, self.found)
        self.tasks = [task.task for task in await self.ask.jobs.tasks()]

    def title(self) -> str:
        return f"{self.filters.state.capitalize()} jobs" if self.filters.state else "Jobs"

    def json(self) -> Any:
        return {"jobs": [as_json.job_in_list(job) for job in self.found], "next": self.next}

    def facts(self) -> object:
        return (
            [job_facts(job) for job in self.found],
            [place_facts(place) for place in self.places.values()],
            [queue.name for queue in self.ask.pulse.queues[:CHOICES]],
            self.tasks,
        )

    def view(self) -> dict[str, Any]:
        filters, links = self.filters, self.ask.visit.links
        older = links.to("/jobs", filters.pairs(before=self.next)) if self.next else ""
        return {
            "rows": job_rows(self.ask, self.found, self.places),
            "filters": filters,
            "clear": links.jobs(state=filters.state) if filters.queue or filters.task or filters.q else "",
            "all": links.jobs(),
            "queues": _choices(filters.queue, [queue.name for queue in self.ask.pulse.queues]),
            "tasks": _choices(filters.task, self.tasks),
            "chips": _chips(self.ask) if filters.state == "failed" else [],
            "back": "jobs?" + urlencode(filters.pairs(), errors="replace"),
            "hidden": [pair for pair in filters.pairs() if pair[0] == "state"],
            "bulk": _bulk(self.ask, filters, bool(self.found)),
            "total": sum(self.ask.pulse.counts.values()),
            "said": _list_said(filters, len(self.found), self.ask.pulse),
            "older": older,
            "newest": links.to("/jobs", filters.pairs()) if filters.before else "",
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a filter."""

    value: str
    word: str
    chosen: bool


def _choices(chosen: str, names: Sequence[str]) -> list[Choice]:
    known_names = dict.fromkeys([*([chosen] if chosen else []), *sorted(names)[:CHOICES]])
    return [Choice(name, visible(name), name == chosen) for name in known_names]


@dataclass(frozen=True, slots=True)
class Chip:
    """Failures alike, as a filter."""

    count: str
    task: str
    error: str
    href: str


def _chips(ask: Ask) -> list[Chip]:
    chips = []
    for harm in [harm for harm in ask.pulse.harms if harm.kind == "failed"][:CHIPS]:
        task, error = alike(harm.jobs[0])
        href = ask.visit.links.jobs(state="failed", task=task, q=error)
        chips.append(Chip(f"{len(harm.jobs):,}", shown(words.short_task(task)), shown(error), href))
    return chips


def _list_said(filters: Filters, found: int, pulse: Pulse) -> str:
    if filters.q or filters.queue or filters.task or filters.before:
        return f"{words.amount(found, 'job')} on this page, newest first"
    if filters.state:
        return f"{pulse.counts[JobState(filters.state)]:,} {filters.state}, newest first"
    return f"{words.amount(sum(pulse.counts.values()), 'job')}, newest first"


def _bulk(ask: Ask, filters: Filters, found: bool) -> Action | None:
    """The button for all that match: run failed ones again, cancel those that wait."""
    if not (ask.visit.may_act and found and filters.state):
        return None
    fields = (*filters.pairs(), ("back", "jobs?" + urlencode(filters.pairs(), errors="replace")))
    only_state = not (filters.q or filters.queue or filters.task)
    number = ask.pulse.counts[JobState(filters.state)] if only_state else 0
    every = f"all {number:,}" if number else "all"
    most = " At most 1,000 at once." if number > 1_000 or not number else ""
    if filters.state in {"failed", "cancelled"}:
        return Action(
            f"Run {every} again…", ask.visit.links.to("/jobs/retry"), fields, key="all",
            question=("Run ", Strong(every), f" that match again? Each becomes a new job.{most}"),
            button="Run again", confirm_css="pri",
        )  # fmt: skip
    if filters.state in {"queued", "scheduled", "running"}:
        return Action(
            f"Cancel {every}…", ask.visit.links.to("/jobs/cancel"), fields, key="all",
            question=("Cancel ", Strong(every), f" that match? What has ended meanwhile is skipped.{most}"),
            button="Cancel jobs",
        )  # fmt: skip
    return None
