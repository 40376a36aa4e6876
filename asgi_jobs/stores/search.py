"""Which records a query means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from asgi_jobs.job import Record, number_in
from asgi_jobs.stores.base import Query

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
