"""The lines in which jobs of the memory store stand: one lane per queue name, one line of what is ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from asgi_jobs.job import JobState, Record

QUEUED = JobState.QUEUED
STALE_BEFORE_SWEEP = 64


class Line:
    """Records in order, of which some have left: they are passed over, and swept out when they are many."""

    __slots__ = ("records", "stale")

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.stale = 0

    def pop(self) -> Record | None:
        """The first that still waits."""
        records = self.records
        while records:
            record = records.popleft()
            if record.state is QUEUED:
                return record
            self.stale -= 1
        return None

    def leave(self) -> None:
        """One of the records in it has been cancelled."""
        self.stale += 1
        if self.stale > STALE_BEFORE_SWEEP and self.stale * 2 > len(self.records):
            self.records = deque(record for record in self.records if record.state is QUEUED)
            self.stale = 0

    def __iter__(self) -> Iterator[Record]:
        return (record for record in self.records if record.state is QUEUED)


class Lane:
    """One queue name: who is next, who waits behind, how many slots are taken.

    The next job stands in `head`, so that a name with one job needs no line. Made on first use and dropped when
    the last job has ended.
    """

    __slots__ = ("head", "holders", "limit", "line", "name", "parked", "paused", "queued", "ready")

    def __init__(self, name: str, limit: int, head: Record | None = None) -> None:
        self.name = name
        self.limit = limit
        self.head = head
        self.queued = 0 if head is None else 1
        self.ready = False  # whether it stands in the line of what is ready
        self.holders: tuple[Record, ...] = ()  # who has a slot: running jobs and those between two attempts
        self.paused: float | None = None
        self.line: Line | None = None
        self.parked: list[Record] | None = None  # between two attempts and due, but the queue is paused

    def append(self, record: Record) -> None:
        """Put a job at the end."""
        self.queued += 1
        if self.head is None:
            self.head = record
            return
        if self.line is None:
            self.line = Line()
        self.line.records.append(record)

    def advance(self) -> None:
        """The head goes; the next moves up."""
        self.queued -= 1
        self.head = self.line.pop() if self.line is not None else None

    def release(self, record: Record) -> None:
        """A slot is free again."""
        self.holders = () if self.limit == 1 else tuple(one for one in self.holders if one is not record)

    def leave(self, record: Record) -> None:
        """Drop a cancelled job from wherever it stands."""
        if record is self.head:
            self.advance()
            return
        self.queued -= 1
        if self.line is not None:
            self.line.leave()

    def park(self, record: Record) -> None:
        """A job whose next attempt is due waits for the queue to be resumed."""
        if self.parked is None:
            self.parked = []
        self.parked.append(record)

    def unpark(self) -> list[Record]:
        """Those that waited for it."""
        parked, self.parked = self.parked or (), None
        return [record for record in parked if record.state is QUEUED]

    def waiting(self) -> Iterator[Record]:
        """Who waits, in order."""
        if self.head is not None:
            yield self.head
        if self.line is not None:
            yield from self.line
