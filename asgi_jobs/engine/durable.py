"""What an engine does otherwise where jobs outlive the process, and others may run them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from asgi_jobs.engine.atomic import check_declared
from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.engine.durable_intake import DurableIntake
from asgi_jobs.engine.durable_run import DurableExecutor
from asgi_jobs.engine.ending import Stop
from asgi_jobs.engine.entrance import Entrance
from asgi_jobs.engine.reports import Reports
from asgi_jobs.engine.writer import answer_of
from asgi_jobs.errors import JobNotFound, StoreError
from asgi_jobs.events import label

if TYPE_CHECKING:
    from asgi_jobs.call import Plan
    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.engine import Engine
    from asgi_jobs.engine.executor import Executor
    from asgi_jobs.engine.intake import Intake
    from asgi_jobs.engine.run import Run
    from asgi_jobs.job import Job, Record
    from asgi_jobs.settings import Settings
    from asgi_jobs.stores.base import DurableStore
    from asgi_jobs.task import Task

T = TypeVar("T")
PAUSE_WHILE_AWAY = 1.0
ASK_AGAIN = 1.0
"""Seconds after which `join` asks again, for what ends elsewhere is not told."""
NAMED = 20
logger = logging.getLogger("asgi_jobs")


class Durable:
    """The engine's other half. All methods belong on the loop, but for what takes jobs in."""

    def __init__(
        self, engine: Engine, store: DurableStore, settings: Settings, clock: Clock, tasks: Mapping[str, Task[Any, Any]]
    ) -> None:
        self._engine = engine
        self.store = store
        self._tasks = tasks
        self._early: set[str] = set()  # were asked to stop before their start was heard of here
        self.entrance = Entrance(engine, store, settings.max_queued)
        self.writer = self.entrance.writer
        stuck_after = settings.stuck_after.total_seconds()
        self.reports = Reports(store, clock, lambda: engine.executor.running, stuck_after)

    def make_executor(self, **given: Any) -> Executor:
        """The engine's executor."""
        return DurableExecutor(**given, store=self.store, tasks=self._tasks)

    def make_intake(self, *given: Any, **rest: Any) -> Intake:
        """The engine's intake."""
        return DurableIntake(*given, **rest, store=self.store, tasks=self._tasks, write=self.entrance.write)

    def check(self, plan: Plan) -> None:
        """A task is being declared: refuse what its policy cannot have, and see that it gets what it wants.

        Raises:
            InvalidOption: `atomic=True` cannot be had.
        """
        policy = plan.policy
        if policy.atomic:
            check_declared(plan, self._engine.scopes, self.store)
        if policy.atomic or policy.keep_result:
            plan.plain = False  # there is something to do between its end and that of its scope

    def open(self) -> None:
        """A new start, perhaps on a new loop."""
        assert self._engine.loop is not None
        self._early.clear()
        self.entrance.open(self._engine.loop)

    # Waiting

    async def stored(self, job: Job) -> None:
        """Wait until the job is stored; with `unique`, its Job becomes that of the job that is."""
        await self._until_settled(job._record)
        job._record = answer_of(job._record)

    async def committed(self, job: Job) -> None:
        """The same for a job that hangs on a commit, too."""
        await job
        details = job._record.detail()
        if details.stored is None:
            details.unwritten = details.unwritten or []
        await self.stored(job)

    async def _until_settled(self, record: Record) -> None:
        unwritten = record.detail().unwritten
        if unwritten is not None:
            waiting = asyncio.get_running_loop().create_future()
            unwritten.append(waiting)
            await waiting

    async def end_of(self, record: Record) -> None:
        """Wait for the end of a stored job, wherever it runs."""
        await self._persist(lambda: self.store.watch(record))
        if record.finished is None:
            await self._engine.waiters.wait(record.id)
        if record.finished is None:
            raise JobNotFound(f"job {record.name!r} has ended, and its record is gone")

    async def refresh(self, job: Job) -> None:
        """See `Job.refresh`."""
        await job
        record = job._record
        if record.stored is None:
            return
        if not await self.store.read(answer_of(record)):
            raise JobNotFound(f"the record of job {record.name!r} ({record.id}) is gone")

    async def join(self) -> None:
        """Wait until nothing is left to do in the whole fleet."""
        while True:
            with self._engine.waiting.joining() as something_ended:
                await self.writer.flush()
                if not await self._persist(lambda: resolve(self.store.pending())):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN):
                        await something_ended

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers."""
        while True:
            try:
                return await ask()
            except StoreError:  # which the store has logged
                await asyncio.sleep(PAUSE_WHILE_AWAY)

    # What the store tells

    def asked_to_stop(self, id: str) -> None:
        """See `Callbacks.asked_to_stop`."""
        runs = self._runs((id,))
        if not runs:
            self._early.add(id)  # its start may be on its way here
        for run in runs:
            run.ask_to_stop(Stop.CANCEL)

    def ended(self, ids: Sequence[str]) -> None:
        """See `Callbacks.ended`."""
        for id in ids:
            self._engine.waiters.settle(id)
        self._engine.waiting.release_joiners()

    def lost(self, ids: Sequence[str] | None) -> None:
        """See `Callbacks.lost`."""
        runs = self._runs(ids)
        for run in runs:
            run.ask_to_stop(Stop.LOST)
        if runs:
            logger.warning(
                "%d job(s) may not go on in this process, which has lost its place, and are cancelled here; they run "
                "again: %s",
                *(len(runs), ", ".join(label(run.job) for run in runs[:NAMED])),
            )

    def _runs(self, ids: Iterable[str] | None) -> list[Run]:
        running = self._engine.executor.running
        wanted = None if ids is None else set(ids)
        return [run for run in tuple(running) if wanted is None or run.record.id in wanted]

    def started(self, records: Sequence[Record]) -> None:
        """Jobs start here; some may have been asked to stop while that was on its way, or the engine may stop."""
        self._engine.started(records)
        stopping = not self._engine.dispatcher.claiming
        for record in records:
            run: Any = record.run
            if record.cancelling or record.id in self._early:
                run.ask_to_stop(Stop.CANCEL)
            elif stopping:
                run.ask_to_stop(Stop.SHUTDOWN)
        self._early.clear()
