"""What a visitor asks of the job list: the filters of the address or of a form, read strictly."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.datastructures import ImmutableMultiDict
from starlette.exceptions import HTTPException

from asgi_jobs.dashboard.masking import shown
from asgi_jobs.job import Job, JobState

if TYPE_CHECKING:
    from asgi_jobs import Jobs

DEFAULT_LIMIT = 50
MOST = 200
LONGEST = 500
SEARCHED = 10_000
NAMES = ("state", "queue", "task", "q")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list. An empty one filters nothing."""

    state: str = ""
    queue: str = ""
    task: str = ""
    q: str = ""
    before: str = ""
    limit: int = DEFAULT_LIMIT

    @classmethod
    def read(cls, given: ImmutableMultiDict[str, Any]) -> Filters:
        """The filters of a query or a form; whatever is not understood is refused with 422."""
        return cls(
            state=_state(one(given, "state")),
            queue=one(given, "queue"),
            task=one(given, "task"),
            q=one(given, "q").strip(),
            before=one(given, "before"),
            limit=_limit(one(given, "limit")),
        )

    @property
    def narrowed(self) -> bool:
        """Whether anything is filtered at all."""
        return bool(self.state or self.queue or self.task or self.q)

    def pairs(self, **changes: str) -> list[tuple[str, str]]:
        """The filters as the pairs of a query, without the page."""
        kept = replace(self, **changes)  # type: ignore[arg-type]
        pairs = [(name, getattr(kept, name)) for name in NAMES]
        limit = "" if kept.limit == DEFAULT_LIMIT else str(kept.limit)
        return [pair for pair in [*pairs, ("before", changes.get("before", "")), ("limit", limit)] if pair[1]]

    def asked(self) -> dict[str, Any]:
        """The filters as the keywords of `Jobs.find`."""
        return {
            "state": JobState(self.state) if self.state else None,
            "queue": self.queue or None,
            "task": self.task or None,
            "text": self.q or None,
        }


def one(given: ImmutableMultiDict[str, Any], name: str) -> str:
    """The one value of a parameter; "" when it is absent, 422 when it is there twice, too long or a file."""
    values = given.getlist(name)
    if len(values) > 1:
        raise HTTPException(422, f"{name} is given {len(values)} times; once is enough.")
    value = values[0] if values else ""
    if not isinstance(value, str):
        raise HTTPException(422, f"{name} must be text.")
    if "\0" in value:
        raise HTTPException(422, f"{name} has a NUL, which nothing here can have.")
    if len(value) > LONGEST:
        raise HTTPException(422, f"{name} is longer than {LONGEST} characters.")
    return value


def _state(value: str) -> str:
    if value and value not in set(JobState):
        raise HTTPException(422, f"There is no such state. The states are {', '.join(JobState)}.")
    return value


def _limit(value: str) -> int:
    if not value:
        return DEFAULT_LIMIT
    if not _NUMBER.fullmatch(value) or int(value) == 0:
        raise HTTPException(422, f"limit must be a number from 1 to {MOST}.")
    return min(int(value), MOST)


def remembered(query: str) -> Filters:
    """The filters of the list that a form stood on, as its hidden field has them; anything odd is dropped."""
    known = dict(parse_qsl(query[: 4 * LONGEST]))
    state = known.get("state", "")
    queue, task, q = (known.get(name, "")[:LONGEST] for name in ("queue", "task", "q"))
    return Filters(state if state in set(JobState) else "", queue, task, q)


async def page_of(jobs: Jobs, filters: Filters) -> tuple[list[Job], str | None]:
    """The jobs of one page, newest first, and the id that the next page begins before."""
    found: list[Job] = []
    async for job in matching(jobs, filters, filters.limit + 1):
        found.append(job)
        if len(found) > filters.limit:
            return found[:-1], found[-2].id
    return found, None


async def matching(jobs: Jobs, filters: Filters, at_once: int = MOST) -> AsyncIterator[Job]:
    """Every job that matches, newest first, read in pages; of a search only what the viewer may see."""
    before, read = filters.before or None, 0
    while read < SEARCHED:
        batch = await jobs.find(**filters.asked(), limit=min(at_once, MOST + 1), before=before)
        for job in batch:
            if not filters.q or _says(job, filters.q.casefold()):
                yield job
        if len(batch) < min(at_once, MOST + 1):
            return
        before, read = batch[-1].id, read + len(batch)


def _says(job: Job, text: str) -> bool:
    """Whether the text stands where the viewer can read it: the store looked at what is not masked, too."""
    return any(text in shown(value).casefold() for value in _searched(job))


def _searched(job: Job) -> Iterable[str]:
    yield from (job.name, job.task, job.queue or "", job.id)
    if job.error is not None:
        yield from (job.error.type, job.error.message)
