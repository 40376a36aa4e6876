"""Between a row and a record. Records hold monotonic seconds, rows the database's time; the offset is the epoch's."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from asgi_jobs.call import Plan
from asgi_jobs.clock import Epoch
from asgi_jobs.errors import ArgumentsUnreadable, InvalidOption
from asgi_jobs.frames import Frame
from asgi_jobs.job import (
    ATTEMPTS_KEPT,
    ID_WIDTH,
    LOG_LINES,
    Attempt,
    Details,
    JobError,
    JobState,
    LogLine,
    Progress,
    Record,
    WaitingAt,
)
from asgi_jobs.stores.sql.tables import FINISHED, State
from asgi_jobs.task import Policy, Retry

if TYPE_CHECKING:
    from sqlalchemy import Row

    from asgi_jobs.task import Task

QUEUED, SCHEDULED, RUNNING = JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING
BUILTIN_ERRORS = {
    name: one
    for name, one in vars(__import__("builtins")).items()
    if isinstance(one, type) and issubclass(one, BaseException)
}


class Rows:
    """Makes records of rows: one object for each job, as long as anybody holds it."""

    def __init__(self, tasks: Callable[[], Mapping[str, Task[Any, Any]]], offset: Callable[[], float]) -> None:
        self._tasks = tasks
        self._offset = offset
        self._known: WeakValueDictionary[str, Record] = WeakValueDictionary()
        self._stubs: dict[str, Plan] = {}

    def know(self, record: Record) -> None:
        """From now on, whoever reads its row brings this record up to date."""
        self._known[record.id] = record

    def known(self, id: str) -> Record | None:
        """The record of a job that somebody holds here."""
        return self._known.get(id)

    def record(self, row: Row[Any], now: float) -> Record:
        """The record of a row, whole or as a list has it, brought up to date."""
        record = self._known.get(row.id)
        if record is None:
            record = self._make(row)
            self.know(record)
        elif record.run is not None:
            self._update_running(record, row, now)
            return record
        elif record.finished is not None and row.finished_at is None:
            return record  # read before its end
        self._update(record, row, now)
        return record

    def claimed(self, row: Row[Any], now: float) -> Record:
        """The record of a job that was claimed just now, ready to run."""
        known = self._known.get(row.id)
        if known is not None and known.run is not None:  # it was released, and its old code still runs here
            del self._known[row.id]
        record = self.record(row, now)
        task = self._tasks()[row.task]
        record.plan, record.func = task.plan, task.function
        try:
            record.args, record.kwargs = task.codec.decode(row.args)
        except ArgumentsUnreadable as error:
            record.args, record.kwargs = Unreadable(error), None  # type: ignore[assignment]
        return record

    def _update_running(self, record: Record, row: Row[Any], now: float) -> None:
        """It runs here, and nobody knows better, but who asked it to stop; unless others have taken it over."""
        claim = record.detail().claim
        if row.claim == claim:
            _set_cancel(record, row)
        elif row.claim is not None and (claim is None or row.claim > claim):
            self._update(record, row, now)
            record.detail().claim = claim  # what its code here still has to say is refused by this number

    def _make(self, row: Row[Any]) -> Record:
        task = self._tasks().get(row.task)
        plan = task.plan if task is not None else self._stub(row.task)
        epoch = Epoch(row.id[:-ID_WIDTH], self._offset())
        return Record(
            int(row.id[-ID_WIDTH:], 16),
            epoch,
            plan,
            task.function if task is not None else None,
            (),
            None,
            row.queue,
            row.name,
            row.enqueued_at - epoch.offset,
        )

    def _stub(self, key: str) -> Plan:
        """The plan of a task that this process does not declare."""
        plan = self._stubs.get(key)
        if plan is None:
            label = key.rpartition(":")[2]
            plan = self._stubs[key] = Plan(_nothing, Policy(), key=key, label=label, threaded=False)
        return plan

    def _update(self, record: Record, row: Row[Any], now: float) -> None:
        offset = record.epoch.offset
        details = record.detail()
        details.held = row.state == State.HELD
        record.state = _state(row, now)
        record.enqueued = row.enqueued_at - offset
        record.since = row.since_at - offset
        record.started = _minus(row.started_at, offset)
        record.finished = _minus(row.finished_at, offset)
        record.attempt = row.attempt
        details.stored = True
        details.source, details.retry_of, details.unique = row.source, row.retry_of, row.unique_key
        details.due = _minus(row.run_at, offset)
        details.run_at = None
        details.claim, details.worker, details.deaths = row.claim, row.worker, row.deaths
        details.uncommitted = row.uncommitted
        details.moved = _minus(row.moved_at, offset)
        details.log_count = row.log_count
        details.timeout, details.retries = read_options(row.options)
        details.progress = _progress(row.progress)
        details.waiting_at = _waiting_at(row.waiting_at)
        _set_cancel(record, row)
        fields = row._fields
        if "traceback" in fields:
            self._update_long(record, details, row)
        elif record.error is None or (record.error.type, record.error.message) != (row.error_type, row.error_message):
            record.error = _error(row, "")

    def _update_long(self, record: Record, details: Details, row: Row[Any]) -> None:
        record.error = _error(row, row.traceback or "")
        details.payload = row.args
        details.attempts = read_attempts(row.attempts)
        details.log = _log(row.log)
        task = self._tasks().get(row.task)
        if task is None:
            return
        if row.result is not None:
            with suppress(ArgumentsUnreadable):  # the annotation has changed since: there is no value to be had
                details.value = task.codec.decode_result(row.result)
        if record.finished is not None:  # it may be run again
            try:
                record.args, record.kwargs = task.codec.decode(row.args)
            except ArgumentsUnreadable as error:
                record.args, record.kwargs = Unreadable(error), None  # type: ignore[assignment]


class Unreadable:
    """Stored arguments that do not fit the function any more: an error where they are used, not where they are read."""

    def __init__(self, error: ArgumentsUnreadable) -> None:
        self._error = error

    def __iter__(self) -> Any:
        raise self._error

    def __len__(self) -> int:
        raise self._error


# From records to rows


def new_row(record: Record) -> dict[str, Any]:
    """What is inserted, but for the place."""
    offset, details = record.epoch.offset, record.detail()
    row: dict[str, Any] = {
        "id": record.id,
        "queue": record.queue,
        "task": record.plan.key,
        "name": record.name,
        "args": details.payload if details.payload is not None else "[]",
        "state": State.QUEUED if details.due is None else State.SCHEDULED,
        "source": details.source,
        "enqueued_at": record.enqueued + offset,
        "since_at": record.since + offset,
    }
    if details.due is not None:
        row["run_at"] = details.due + offset
    if details.timeout is not None or details.retries is not None:
        row["options"] = write_options(details.timeout, details.retries)
    if details.retry_of is not None:
        row["retry_of"] = details.retry_of
    if details.unique is not None:
        row["unique_key"] = details.unique
    return row


def signs_of_life(record: Record) -> dict[str, Any]:
    """What a job has said of itself since it started."""
    details, offset = record.detail(), record.epoch.offset
    row: dict[str, Any] = {}
    if details.progress is not None:
        said = details.progress
        row["progress"] = json.dumps([_finite(said.done), _finite(said.total), said.text, said.at.timestamp()])
    if details.log:
        lines = list(details.log)  # at once: a thread may add to it meanwhile
        row["log"] = json.dumps([[line.at.timestamp(), line] for line in lines])
        row["log_count"] = details.log_count
    if details.moved is not None:
        row["moved_at"] = details.moved + offset
    if details.waiting_at is not None:
        seen = details.waiting_at
        frames = [[f.file, f.line, f.function, f.code, f.own] for f in seen.frames]
        row["waiting_at"] = json.dumps([seen.at.timestamp(), frames])
    return row


def write_attempts(attempts: Sequence[Attempt]) -> str:
    """The ended attempts, at most the last ten, as JSON."""
    return json.dumps(
        [
            [
                attempt.started_at.timestamp(),
                attempt.finished_at.timestamp(),
                attempt.error and [attempt.error.type, attempt.error.message, attempt.error.traceback],
            ]
            for attempt in list(attempts)[-ATTEMPTS_KEPT:]
        ]
    )


def write_options(timeout: timedelta | bool | None, retries: Retry | bool | None) -> str:
    """A job's own timeout and retries as JSON; False: none, whatever its task says; absent: as its task says.

    Raises:
        InvalidOption: `Retry(on=…)` names an exception that a row cannot name.
    """
    options: dict[str, Any] = {}
    if timeout is not None:
        options["timeout"] = timeout.total_seconds() if isinstance(timeout, timedelta) else False
    if isinstance(retries, Retry):
        options["retries"] = [
            retries.times,
            retries.base.total_seconds(),
            retries.factor,
            retries.cap.total_seconds(),
            retries.jitter,
            [_named(one) for one in retries.on],
        ]
    elif retries is not None:
        options["retries"] = False
    return json.dumps(options)


def _named(error: type[BaseException]) -> str:
    if BUILTIN_ERRORS.get(error.__name__) is not error:
        raise InvalidOption(
            f"retries: Retry(on={error.__name__}) of one job cannot be kept in a database; built-in exceptions can. "
            f"Give it to the task instead: @jobs.task(retries=Retry(…, on={error.__name__}))"
        )
    return error.__name__


def read_options(text: str | None) -> tuple[Any, Any]:
    """A job's own timeout and retries, as `Details` has them."""
    if text is None:
        return None, None
    options = json.loads(text)
    timeout, retries = options.get("timeout"), options.get("retries")
    if timeout:
        timeout = timedelta(seconds=timeout)
    if retries:
        times, base, factor, cap, jitter, on = retries
        retries = Retry(
            times,
            base=timedelta(seconds=base),
            factor=factor,
            cap=timedelta(seconds=cap),
            jitter=jitter,
            on=tuple(BUILTIN_ERRORS[name] for name in on),
        )
    return timeout, retries


def storable(text: str) -> str:
    """The text, with what a database cannot hold replaced: NUL, and halves of surrogate pairs."""
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# Parts of rows


def _state(row: Row[Any], now: float) -> JobState:
    state = row.state
    if state == State.HELD:
        return QUEUED if row.run_at <= now else SCHEDULED
    if state == State.QUEUED:
        return QUEUED
    if state == State.RUNNING:
        return RUNNING
    return SCHEDULED if state == State.SCHEDULED else FINISHED[State(state)]


def _set_cancel(record: Record, row: Row[Any]) -> None:
    details = record.detail()
    details.cancel_requested = _minus(row.cancel_at, record.epoch.offset)
    details.cancel_reason = row.cancel_reason


def _error(row: Row[Any], traceback: str) -> JobError | None:
    return None if row.error_type is None else JobError(row.error_type, row.error_message, traceback)


def _progress(text: str | None) -> Progress | None:
    if text is None:
        return None
    done, total, said, at = json.loads(text)
    return Progress(float("nan") if done is None else done, total, said, to_date(at))


def _log(text: str | None) -> deque[LogLine] | None:
    if text is None:
        return None
    return deque((LogLine(line, to_date(at)) for at, line in json.loads(text)), maxlen=LOG_LINES)


def read_attempts(text: str | None) -> deque[Attempt] | None:
    """The ended attempts."""
    if text is None:
        return None
    made = (
        Attempt(to_date(started), to_date(finished), JobError(*error) if error else None)
        for started, finished, error in json.loads(text)
    )
    return deque(made, maxlen=ATTEMPTS_KEPT - 1)


def _waiting_at(text: str | None) -> WaitingAt | None:
    if text is None:
        return None
    at, frames = json.loads(text)
    return WaitingAt(tuple(Frame(*frame) for frame in frames), to_date(at))


def _finite(number: float | None) -> float | None:
    return number if number is not None and abs(number) < float("inf") else None


def _minus(time: float | None, offset: float) -> float | None:
    return None if time is None else time - offset


def to_date(timestamp: float) -> datetime:
    """The date of a row's time."""
    return datetime.fromtimestamp(timestamp, UTC)


def _nothing() -> None:
    """Stands for the function of a task that is not declared here."""
