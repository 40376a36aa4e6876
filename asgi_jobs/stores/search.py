"""Which records a query means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from operator import attrgetter
from typing import Any

from asgi_jobs.job import Record, number_in
from asgi_jobs.stores.base import Query

SEARCHED = 10_000
"""Records that are searched for a text."""
PREFIX_WIDTH = 10  # of an id; the prefix changes with each start, its length does not


def number_of(id: str) -> int | None:
    """The number in an id; None when it is none."""
    return number_in(id, id[:PREFIX_WIDTH])


def newest_first(records: Iterable[Record], before: str | None) -> Iterator[Record]:
    """The records, newest first, that are older than the job of this id."""
    if before is not None:
        number = number_of(before)
        records = () if number is None else (record for record in records if record.number < number)
    return iter(sorted(records, key=attrgetter("number"), reverse=True))


def matches(record: Record, query: Query) -> bool:
    """Whether the record is meant."""
    return (
        (query.state is None or record.state is query.state)
        and (query.queue is None or record.queue == query.queue)
        and (query.task is None or record.plan.key == query.task)
        and (query.text is None or contains(record, query.text))
    )


def contains(record: Record, text: str) -> bool:
    """Whether the text stands in name, function, queue, error or id; upper and lower case alike."""
    wanted = text.casefold()
    places: list[Any] = [record.name, record.plan.key, record.queue, record.id]
    if record.error is not None:
        places += [record.error.type, record.error.message]
    return any(wanted in place.casefold() for place in places if place)


class Look:
    """A look through records, newest first, that can be taken in steps.

    By number, not by place in the dictionary, which nothing but a walk through it would find again.

    Args:
        query: what is looked for.
        top: the highest number that there is.
        oldest: a number that none is below.
    """

    def __init__(self, query: Query, top: int, oldest: int) -> None:
        self.found: list[Record] = []
        self._query = query
        self._next = top if query.before is None else min((number_of(query.before) or 0) - 1, top)
        self._oldest = oldest
        self._left = SEARCHED if query.text is not None else inf

    @property
    def ended(self) -> bool:
        """Whether all is found that was asked for, or there is nothing more."""
        return self._next < self._oldest or self._left <= 0 or len(self.found) >= self._query.limit

    def on(self, records: Mapping[int, Record], numbers: int) -> None:
        """Look at so many further numbers."""
        last = max(self._next - numbers, self._oldest - 1)
        for number in range(self._next, last, -1):
            record = records.get(number)
            if record is None:
                continue
            self._left -= 1
            if matches(record, self._query):
                self.found.append(record)
                if len(self.found) >= self._query.limit:
                    return
            if self._left <= 0:
                return
        self._next = last
