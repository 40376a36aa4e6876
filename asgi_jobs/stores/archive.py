"""The finished records of the memory store: how long they stay, and what they keep."""

from __future__ import annotations

from collections import deque

from asgi_jobs.job import JobError, JobState, Record
from asgi_jobs.stores.hour import Hour

SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
ARGUMENTS_KEPT = 1_000
TEXT_LIMIT = 64 * 2**20


class Archive:
    """Finished records in the order of their end. They go by time and by count, the oldest first.

    Args:
        records: all records of the store; those that go are taken out of it.
        tally: how many records are in each state.
        limit: most finished records.
    """

    def __init__(self, records: dict[int, Record], tally: dict[JobState, int], limit: int) -> None:
        self.records = records
        self._tally = tally
        self._limit = limit
        self._finished: deque[Record] = deque()
        self._with_arguments: deque[Record] = deque()
        self._texts: deque[tuple[Record, int]] = deque()
        self._text_size = 0
        self.unlucky: dict[JobState, dict[int, Record]] = {FAILED: {}, CANCELLED: {}}
        self.last_failed: dict[str | None, Record] = {}
        self.trimmed = False  # logs and tracebacks were dropped for their size
        self.hour = Hour()

    def keep(self, record: Record) -> None:
        """Take a record that has just ended; a succeeded one lets go of its function and arguments."""
        self._tally[record.state] += 1
        self._count(record)
        if record.state is SUCCEEDED:
            record.func = record.kwargs = None
            record.args = ()
        else:
            self._keep_arguments(record)
        if record.details is not None or record.error is not None:
            self._keep_text(record)
        self._finished.append(record)
        if len(self._finished) > self._limit:
            self._drop_oldest()

    def _count(self, record: Record) -> None:
        hour, finished, started = self.hour, record.finished, record.started
        if finished is None or started is None:
            return
        if finished >= hour.until:
            hour.turn(finished)
        if record.state is SUCCEEDED:
            hour.succeeded += 1
        elif record.state is FAILED:
            hour.failed += 1
        if started - record.since > hour.wait and record.attempt == 1:
            hour.wait = started - record.since

    def prune(self, before: float, limit: int) -> int:
        """Drop what ended before the monotonic time, at most so many; how many went."""
        dropped = 0
        while dropped < limit and self._finished and (self._finished[0].finished or 0.0) <= before:
            self._drop_oldest()
            dropped += 1
        if not self._finished:
            self.trimmed = False
        return dropped

    def shrink(self, records: dict[int, Record]) -> None:
        """The store's dictionary was made anew, and so are ours: an emptied one keeps its table."""
        self.records = records
        self.last_failed = dict(self.last_failed)
        self.unlucky = {state: dict(kept) for state, kept in self.unlucky.items()}

    def _keep_arguments(self, record: Record) -> None:
        self.unlucky[record.state][record.number] = record
        if record.state is FAILED:
            self.last_failed[record.queue] = record
        self._with_arguments.append(record)
        if len(self._with_arguments) > ARGUMENTS_KEPT:
            oldest = self._with_arguments.popleft()
            oldest.func = oldest.kwargs = None
            oldest.args = ()

    def _keep_text(self, record: Record) -> None:
        size = len(record.error.traceback) if record.error else 0
        if record.details is not None:
            size += sum(map(len, record.details.log or ()))
        if not size:
            return
        self._texts.append((record, size))
        self._text_size += size
        while self._text_size > TEXT_LIMIT:
            self._trim_oldest()

    def _trim_oldest(self) -> None:
        record, size = self._texts.popleft()
        self._text_size -= size
        self.trimmed = True
        if record.error is not None:
            record.error = JobError(record.error.type, record.error.message, "")
        if record.details is not None:
            record.details.log = None

    def _drop_oldest(self) -> None:
        record = self._finished.popleft()
        del self.records[record.number]
        self._tally[record.state] -= 1
        if record.state is not SUCCEEDED:
            del self.unlucky[record.state][record.number]
        if self.last_failed.get(record.queue) is record:
            del self.last_failed[record.queue]
        if self._with_arguments and self._with_arguments[0] is record:
            self._with_arguments.popleft()
        if self._texts and self._texts[0][0] is record:
            self._text_size -= self._texts.popleft()[1]
