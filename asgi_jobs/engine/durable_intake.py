"""From a call of `enqueue` to a record that a database can keep: a declared task, and arguments as JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from asgi_jobs.engine.commit import bind_of, hang, sync_session
from asgi_jobs.engine.enqueued import Enqueued
from asgi_jobs.engine.intake import Intake
from asgi_jobs.errors import ArgumentsGone, InvalidCall
from asgi_jobs.job import Job, Record
from asgi_jobs.planner import called_hint
from asgi_jobs.task import Task, With

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from asgi_jobs.stores.base import DurableStore

REMEDY = (
    ": a durable store keeps declared tasks only, by their key: put @jobs.task above the function, and enqueue that"
)
logger = logging.getLogger("asgi_jobs")


class DurableIntake(Intake):
    """An `Intake` for a durable store. `write` inserts jobs in a transaction that is about to commit."""

    def __init__(
        self,
        *args: Any,
        store: DurableStore,
        tasks: Mapping[str, Task[Any, Any]],
        write: Callable[[Session, list[Record]], None],
        **rest: Any,
    ) -> None:
        super().__init__(*args, **rest)
        accept = self._accept
        self._accept = lambda record: accept(self._prepare(record))
        self._store = store
        self._tasks = tasks
        self._write = write
        self._said_elsewhere = False

    def enqueue(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        queue: Any,
        name: Any,
        options: dict[str, Any] | None,
    ) -> Job:
        """As `Intake.enqueue`."""
        if type(func) is not Task:
            func = self._declared(func)
        return self._given(super().enqueue(func, args, kwargs, queue, name, options)._record)

    def take(self, record: Record) -> Job:
        """As `Intake.take`."""
        return self._given(self._accept(record))

    def of_task(self, task: Task[Any, Any], source: str) -> Record:
        """As `Intake.of_task`."""
        return self._prepare(super().of_task(task, source))

    def _given(self, record: Record) -> Job:
        """What the caller gets: to be awaited, unless it hangs on a commit, or a thread has waited already."""
        waits = record.detail().unwritten is not None
        return Enqueued(record, self._engine) if waits else Job(record, self._engine)

    def _declared(self, func: Any) -> Task[Any, Any]:
        """The task that was made of this function, or of this method of a service.

        Raises:
            InvalidCall: there is none.
        """
        service, target = func if type(func) is With else (None, func)
        wanted = getattr(service, target, None) if isinstance(target, str) else target
        for task in self._tasks.values():
            if (task is wanted or task.function is wanted) and (service is None or _takes(task, service)):
                return task
        name = getattr(wanted, "__qualname__", None) or repr(wanted)
        raise InvalidCall(f"{name} cannot be stored{called_hint(wanted) or REMEDY}")

    def _repeat(self, old: Record) -> Record:
        """As `Intake._repeat`: a task that is not declared here can be run again by those who know it."""
        payload = old.detail().payload
        if payload is None:
            raise ArgumentsGone(f"the arguments of job {old.name!r} are not kept: it cannot be run again")
        record = self._make(old.plan, old.func, (), None, old.queue, old.name)
        record.detail().payload = payload
        return record

    def _prepare(self, record: Record) -> Record:
        """Give the record what is stored of it, and an id that sorts by time."""
        details = record.detail()
        if details.payload is None:
            details.payload = self._tasks[record.plan.key].codec.encode(record.args, record.kwargs or {})
        record.args, record.kwargs, record.view = (), None, None
        self._store.stamp(record)
        return record

    def _hang(self, record: Record, session: Any, job: Job) -> Job:
        self._refuse_unique(record)
        own = self._owns(sync_session(session))
        self._prepare(record)
        self._reserve()
        record.detail().stored = None
        write = self._write if own else None
        hang(session, record, deliver=self._accept_committed, drop=self._drop, before=write)
        return job

    def _owns(self, session: Session) -> bool:
        """Whether the session is on the store's own database, so that the job can be a row of its transaction."""
        bind = bind_of(session)
        if bind is not None and self._store.owns(bind):
            return True
        if not self._said_elsewhere:
            self._said_elsewhere = True
            logger.warning(
                "on_commit: the session is on another database than the store, so its jobs are stored right after the "
                "commit; a process that dies in between loses them. Sessions on the store's database have no such gap"
            )
        return False


def _takes(task: Task[Any, Any], service: Any) -> bool:
    return any(need.hint == service for need in task.plan.injected.values())
