"""The engine: its parts put together, its start and its stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, cast

from asgi_jobs.clock import Epoch
from asgi_jobs.engine.dispatcher import Dispatcher, resolve
from asgi_jobs.engine.durable import Durable
from asgi_jobs.engine.durable_stopping import DurableShutdown
from asgi_jobs.engine.ending import Stop
from asgi_jobs.engine.executor import Executor
from asgi_jobs.engine.intake import Intake
from asgi_jobs.engine.neighbours import Neighbours
from asgi_jobs.engine.run import Run, current_run
from asgi_jobs.engine.stopping import Shutdown
from asgi_jobs.engine.threads import Threads
from asgi_jobs.engine.upkeep import Upkeep
from asgi_jobs.engine.waiting import Waiting
from asgi_jobs.engine.watchdog import Watchdog
from asgi_jobs.errors import InvalidState, NotRunning, ShuttingDown
from asgi_jobs.events import (
    CANCELLED,
    ENQUEUED,
    FAILED,
    INTERRUPTED,
    RETRYING,
    STARTED,
    SUCCEEDED,
    Event,
    Listeners,
    label,
)
from asgi_jobs.job import Job, Record, view_of
from asgi_jobs.stores.base import Verdict

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.scope import Scopes
    from asgi_jobs.job import Engine as Facade
    from asgi_jobs.planner import Planner
    from asgi_jobs.settings import Settings
    from asgi_jobs.stores.base import DurableStore, Store
    from asgi_jobs.task import Task

INTERRUPTION = "interrupted when the application stopped"
_KINDS = {
    Verdict.SUCCEEDED: SUCCEEDED,
    Verdict.FAILED: FAILED,
    Verdict.CANCELLED: CANCELLED,
    Verdict.HELD: RETRYING,
}
SUCCESS = Verdict.SUCCEEDED
XDIST = "PYTEST_XDIST_WORKER"  # test processes of one parent are no servers
logger = logging.getLogger("asgi_jobs")


class Engine:
    """Owns the parts. All methods belong on the loop, but for what `accept` reaches."""

    def __init__(
        self,
        facade: Facade,
        settings: Settings,
        store: Store,
        scopes: Scopes,
        planner: Planner,
        clock: Clock,
        tasks: dict[str, Task[Any, Any]],
        origin: str,
    ) -> None:
        self._facade = facade
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self.store = store
        self.scopes = scopes
        self.status = "new"
        self.open_to_all = False  # whether anybody may enqueue; while stopping, jobs may
        self.open_to_jobs = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread_id = 0
        self.threads = Threads()
        self.waiting = Waiting(self)
        self.waiters, self._joiners = self.waiting.waiters, self.waiting.joiners
        self.listeners = Listeners()
        self.moved = asyncio.Event()  # something has changed, for a shutdown that waits; made anew with each loop
        self._untold: list[Record] = []  # taken in from threads, and not told of yet
        self.door = Lock()  # a job from another thread is in before it closes, or refused
        durable = self.durable = (
            Durable(self, cast("DurableStore", store), settings, clock, tasks) if store.durable else None
        )
        self.executor = (durable.make_executor if durable else Executor)(
            engine=facade,
            scopes=scopes,
            threads=self.threads,
            clock=clock,
            touched=self._touched,
        )
        self.dispatcher = Dispatcher(
            store,
            self.executor,
            concurrency=settings.concurrency,
            threads=settings.threads,
            started=durable.started if durable else self.started,
            recorded=self._recorded,
        )
        self.executor.ended = self.dispatcher.ended
        door = durable.entrance if durable else self
        self.intake = (durable.make_intake if durable else Intake)(
            facade,
            planner,
            clock,
            accept=door.accept,
            accept_committed=door.accept_committed,
            drop=door.drop,
            reserve=door.reserve,
        )
        self.upkeep = Upkeep(
            store,
            clock,
            tasks=lambda: list(tasks.values()),
            make=lambda task: self.intake.of_task(task, "schedule"),
            wake=self.wake,
            pulse=self._pulse,
            time=durable.store.time if durable else clock.time,
            further=(durable.reports.report,) if durable else (),
            retention=settings.retention,
            cleanup_interval=settings.cleanup_interval,
        )
        self.neighbours = Neighbours(origin)
        self.processes = 1
        self.watchdog: Watchdog | None = None

    def set_concurrency(self, settings: Settings) -> None:
        """The worker command has changed its mind about the settings, before the start."""
        self._settings = settings
        self.dispatcher.concurrency = settings.concurrency
        if self.durable is not None:
            self.durable.store.concurrency = settings.concurrency

    # Start

    async def open(self) -> None:
        """Accept jobs; none starts before `begin`."""
        self.loop = self.executor.loop = asyncio.get_running_loop()
        self.thread_id = get_ident()
        self.moved = asyncio.Event()
        self.dispatcher.planned = False  # by a loop that may be gone
        self.executor.ended = self.dispatcher.ended
        self.status = "starting"
        self.intake.renew()
        self.scopes.start()
        self._forget_unreachable()
        if self.durable is not None:
            self.dispatcher.forget()
            self.durable.open()
        try:
            await resolve(self.store.open(self))
        except BaseException:
            self.status = "new"
            await self.scopes.stop()
            raise
        self.open_to_all = True

    async def begin(self) -> None:
        """Start jobs, schedules and the watch over the loop."""
        assert self.loop is not None
        self.status = "running"
        if not self.store.durable and XDIST not in os.environ:
            self.neighbours.join()
        self.watchdog = Watchdog(self.loop, current=self._job_of)
        self.watchdog.start()
        self.upkeep.start(schedules=self._settings.concurrency > 0)
        self.dispatcher.claiming = self.open_to_jobs = True
        self.dispatcher.wake()

    @property
    def lost_its_loop(self) -> bool:
        """Whether the loop was closed without a stop: what ran on it is gone."""
        return self.loop is not None and self.loop.is_closed() and self.status != "stopped"

    def _forget_unreachable(self) -> None:
        """Attempts that did not stop with the last start's loop: nobody can hear of their end any more."""
        for run in tuple(self.executor.running):
            if run.loop_closed:
                self.executor.running.discard(run)
                run.abandon()
                if self.durable is None:  # else its row is rescued
                    self.dispatcher.ended(run)

    # Taking jobs in

    def refuse(self) -> Exception | None:
        """Why nothing can be enqueued here and now; None when it can."""
        if self.open_to_all:
            return None
        if self.status == "stopping":
            run = current_run()
            if self.open_to_jobs and run is not None and run.belongs_to(self.executor):
                return None
            return ShuttingDown("the application is stopping and takes no more jobs")
        if self.status == "stopped":
            return NotRunning("the job engine has stopped with its application, and takes no more jobs")
        return NotRunning(
            "the job engine has not started. Add the middleware, "
            "Middleware(JobsMiddleware, jobs=jobs), or lifespan=jobs.lifespan, to your application: a mounted app gets "
            "no lifespan of its own. In tests: `with TestClient(app) as client:` (the `with` runs the lifespan) or "
            "`async with jobs:` around the calls; in scripts: `async with jobs:`"
        )

    def accept(self, record: Record) -> Record:
        """Store one job and have it started; from any thread."""
        if get_ident() != self.thread_id:
            return self._accept_from_thread(record)
        stored: Record = self.store.add((record,))[0]  # type: ignore[index]
        if stored is not record:
            return stored
        if record.details is not None or self.listeners.active:
            self.announce((record,))
        elif not self.dispatcher.planned:
            self.dispatcher.wake()
        return record

    def _accept_from_thread(self, record: Record) -> Record:
        """The engine may have stopped since the caller asked whether it runs."""
        with self.door:
            error = self.refuse()
            if error is not None:
                raise error
            stored: Record = self.store.add((record,))[0]  # type: ignore[index]
            if stored is record:
                self._announce_from_thread((record,))
        return stored

    def _announce_from_thread(self, records: Sequence[Record]) -> None:
        assert self.loop is not None
        self._untold.extend(records)
        self.loop.call_soon_threadsafe(self.announce, ())

    def announce(self, records: Sequence[Record]) -> None:
        """Jobs were taken in: have them started, and tell of them."""
        records = [*self._take_untold(), *records]
        self.dispatcher.wake()
        if any(record.details is not None and record.details.due is not None for record in records):
            self.upkeep.expect()
        if self.listeners.active:
            for record in records:
                self._tell(ENQUEUED, record)

    def _take_untold(self) -> list[Record]:
        """Jobs from threads. The door waits for a thread that has stored its job and is about to say so."""
        with self.door:
            untold, self._untold = self._untold, []
        return untold

    def reserve(self) -> None:
        self.store.refuse_full(1)

    def accept_committed(self, records: list[Record]) -> None:
        if self.status not in ("starting", "running") and self.refuse() is not None:
            names = ", ".join(label(self.view(record)) for record in records)
            logger.error("The engine is not running, so jobs of a committed transaction are lost: %s", names)
            self.drop(records)
            return
        for record in records:
            record.detail().stored = True
        if get_ident() == self.thread_id:
            self.store.add(records, bounded=False)
            self.announce(records)
        else:
            with self.door:
                self.store.add(records, bounded=False)
                self._announce_from_thread(records)

    def drop(self, records: list[Record]) -> None:
        for record in records:
            record.detail().stored = False
            if self.loop is not None and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.waiters.fail, record.id)

    # What happens to jobs

    def wake(self) -> None:
        """Jobs may be ready; from any thread."""
        if get_ident() == self.thread_id:
            self._look_again()
        elif self.loop is not None:
            self.loop.call_soon_threadsafe(self._look_again)

    def _look_again(self) -> None:
        self.dispatcher.wake()
        self.moved.set()
        if self.durable is not None:
            self.waiting.release_joiners()

    def asked_to_stop(self, id: str) -> None:
        """See `Callbacks`; in memory there is nobody else."""
        if self.durable is not None:
            self.durable.asked_to_stop(id)

    def ended(self, ids: Sequence[str]) -> None:
        """See `Callbacks`."""
        if self.durable is not None:
            self.durable.ended(ids)

    def lost(self, ids: Sequence[str] | None) -> None:
        """See `Callbacks`."""
        if self.durable is not None:
            self.durable.lost(ids)

    def _touched(self) -> None:
        self.store.revision += 1

    def started(self, records: Sequence[Record]) -> None:
        if self.listeners.active:
            if self._untold:
                self.announce(())
            for record in records:
                self._tell(STARTED, record)

    def _recorded(self, runs: list[Run]) -> None:
        noisy, waiters = self.listeners.active, self.waiters.futures
        for run in runs:
            record = run.record
            job = record.view
            if job is not None and record.finished is not None:
                job._value = run.value  # goes with the last who holds the job; the record lets go of it
            if noisy or run.verdict is not SUCCESS or record.details is not None:
                self._conclude(run)
            if record.finished is not None:
                record.view = None
            if waiters and record.finished is not None:
                self.waiters.settle(record.id)
        if self._joiners:
            self.waiting.release_joiners()
        if self.status == "stopping":
            self.moved.set()

    def _conclude(self, run: Run) -> None:
        record, kind = run.record, _KINDS[run.verdict]
        if run.verdict is Verdict.CANCELLED and run.stop is Stop.SHUTDOWN:
            kind = INTERRUPTED
            record.detail().cancel_reason = INTERRUPTION
        elif run.verdict is Verdict.HELD:
            self.upkeep.expect()
            if not run.counted:
                kind = INTERRUPTED
            if record.finished is not None:  # was asked to stop: no further attempt
                kind = CANCELLED
        self._tell(kind, record)

    def _tell(self, kind: str, record: Record) -> None:
        self.listeners.tell(Event(kind, self.view(record), self.now()))

    def told_cancelled(self, records: Sequence[Record]) -> None:
        """Waiting jobs were cancelled: say so, and let who stood behind them go on."""
        for record in records:
            self._tell(CANCELLED, record)
            self.waiters.settle(record.id)
        self.waiting.release_joiners()
        self._look_again()

    async def release(self, record: Record) -> Record:
        """Take a running job away from its process."""
        if self.durable is None:
            raise InvalidState("only a durable store can release a job: in memory the job's process is this one")
        released = await self.durable.store.release(record.id)
        if released is None:
            raise InvalidState(f"job {record.name!r} does not run, so there is nothing to release")
        return released

    async def trouble(self) -> list[str]:
        """Why the store does not answer, if it does not."""
        trouble = await self.durable.store.trouble() if self.durable is not None else None
        return [] if trouble is None else [trouble]

    @property
    def epoch(self) -> Epoch:
        """What ties the store's monotonic times to dates."""
        if self.durable is None:
            return self.intake.epoch
        return Epoch("", self.durable.store.time() - self._clock.monotonic())

    def now(self) -> datetime:
        """The engine's clock, aware UTC."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    def _job_of(self, task: asyncio.Task[Any] | None) -> Job | None:
        """The job that runs in this task; asked by the watchdog's thread."""
        for run in tuple(self.executor.running):
            if task is not None and (run.task is task or run.driver is task):
                return run.job
        return None

    def _pulse(self) -> None:
        self.listeners.look()
        if self.intake.follow_clock() and self.durable is None:  # rows have dates, and their database's clock
            self.store.reset_due(self.intake.due_of)
            self.upkeep.expect()
        if not self.store.durable:
            self._count_processes()

    def _count_processes(self) -> None:
        processes = self.neighbours.count()
        if processes > self.processes:
            logger.warning(
                "%d server processes run this application, each with jobs of its own in memory: order and limits hold "
                "within one process only, and each page shows one process. Run one process only",
                processes,
            )
        self.processes = processes

    # Stop

    async def stop(self, *, drain: bool = True) -> None:
        """Stop within `shutdown_timeout` in all; what was not begun is not drained."""
        drain = drain and self.status == "running"
        self._close_door("stopping")
        try:
            shutdown = DurableShutdown if self.durable is not None else Shutdown
            await shutdown(self, self._clock, self._settings.shutdown_timeout).run(drain=drain)
        finally:
            self._close_door("stopped")

    def _close_door(self, status: str) -> None:
        with self.door:
            self.status, self.open_to_all = status, False

    def stop_claiming(self) -> None:
        """Start no job any more; not even jobs may enqueue."""
        with self.door:
            self.dispatcher.claiming = self.open_to_jobs = False

    def view(self, record: Record) -> Job:
        """The job of a record."""
        return view_of(record, self._facade)
