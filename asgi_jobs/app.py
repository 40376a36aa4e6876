"""`Jobs`: the parts put together, and every public verb."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, ParamSpec, Self, TypeVar, overload

from dishka import AsyncContainer
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_jobs.clock import Clock, in_words
from asgi_jobs.dashboard.access import Access
from asgi_jobs.dashboard.routes import build
from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.engine.ending import Stop
from asgi_jobs.engine.engine import Engine
from asgi_jobs.engine.scope import Scopes
from asgi_jobs.engine.watchdog import Blocked
from asgi_jobs.errors import (
    InvalidOption,
    InvalidOptionType,
    InvalidState,
    JobCancelled,
    JobFailed,
    JobNotFound,
    NeedsArguments,
    NotRunning,
    ResultNotKept,
    StoreError,
    TaskNotFound,
)
from asgi_jobs.events import Listener
from asgi_jobs.frames import Frame
from asgi_jobs.info import Health, Place, TaskInfo, WorkerInfo, worker_info
from asgi_jobs.job import UNSET, Job, JobState, Record, view_of
from asgi_jobs.planner import Planner, called_hint
from asgi_jobs.policy import policy_of
from asgi_jobs.queues import describe
from asgi_jobs.settings import Authorize, Settings, check_queue, check_text, to_origins, to_path
from asgi_jobs.stores.base import Answer, Minute, Query, QueueInfo, Store, Ticket
from asgi_jobs.stores.choose import open_store
from asgi_jobs.task import Policy, Retry, Task, Using, With, check_timedelta

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
logger = logging.getLogger("asgi_jobs")


class Jobs:
    """A job engine, its public verbs, and the ASGI application of its status page.

    Args:
        session_factory: what opens a session for a job: an async_sessionmaker, its `begin`, an async context
            manager function, or the async generator function already used with FastAPI's `Depends`. A sync
            sessionmaker gives sessions to thread jobs.
        providers: dishka providers of further services; their scope REQUEST is one attempt.
        container: or the application's own dishka AsyncContainer, which is never closed here.
        store: None: in memory, lost with the process. A URL, "sqlite+aiosqlite:///jobs.db" or
            "postgresql+asyncpg://…", or an AsyncEngine: durable.
        concurrency: most jobs running at once in this process; 0: it enqueues and shows, workers run (durable stores).
        threads: most sync jobs running at once; one without a free thread stays queued.
        max_sessions: most job sessions open at once, so that jobs do not starve requests.
        queues: queue name to most running at once; every other name: 1.
        max_queued: most jobs waiting; more raises QueueFull.
        retention: how long finished records are kept.
        max_finished: and at most how many.
        cleanup_interval: how often they are looked through.
        shutdown_timeout: how long a stop may take in all.
        authorize: who may look: a function of the request that gives True or "read", sync or async; "local": a
            browser on this machine; None: whoever has the key that the log shows.
        origins: further origins that may post to the page, for proxies that rewrite Host.
        title, badge, home_url: what the page says at its top: its name, the environment, a link back.
        direct_url, create_tables: of durable stores: a way past a transaction pooler; whether missing tables are made.
        templates: a directory of templates that is looked at first.
        stuck_after: a queue counts as blocked when its first job has waited longer than this behind one that
            gave no sign of life for as long.
        clock: where the time comes from; for tests, see `asgi_jobs.testing`.

    Raises:
        InvalidOption, InvalidOptionType: an argument cannot work; the message names it and the remedy.
    """

    def __init__(
        self,
        *,
        session_factory: Any = None,
        providers: Sequence[Any] = (),
        container: AsyncContainer | None = None,
        store: Any = None,
        concurrency: int = 100,
        threads: int = 20,
        max_sessions: int = 5,
        queues: Mapping[str, int] | None = None,
        max_queued: int = 100_000,
        retention: timedelta = timedelta(hours=1),
        max_finished: int = 100_000,
        cleanup_interval: timedelta = timedelta(minutes=5),
        shutdown_timeout: timedelta = timedelta(seconds=25),
        authorize: Authorize = None,
        origins: Sequence[str] = (),
        title: str = "Background jobs",
        badge: str | None = None,
        home_url: str | None = None,
        direct_url: str | None = None,
        create_tables: bool = True,
        templates: str | os.PathLike[str] | None = None,
        stuck_after: timedelta = timedelta(seconds=60),
        clock: Clock | None = None,
    ) -> None:
        self.settings = Settings(
            concurrency=concurrency,
            threads=threads,
            max_sessions=max_sessions,
            queues=dict(queues) if isinstance(queues, Mapping) else queues or {},
            max_queued=max_queued,
            retention=retention,
            max_finished=max_finished,
            cleanup_interval=cleanup_interval,
            shutdown_timeout=shutdown_timeout,
            stuck_after=stuck_after,
            authorize=authorize,
            origins=to_origins(origins),
            title=title,
            badge=badge,
            home_url=home_url,
            templates=to_path(templates),
            direct_url=direct_url,
            create_tables=create_tables,
        )
        if clock is not None and not isinstance(clock, Clock):
            raise InvalidOptionType(f"clock must be a Clock, as asgi_jobs.testing.FakeClock is, not {clock!r}")
        self._clock = clock or Clock()
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._store: Store = open_store(store, self.settings, self._clock, lambda: self._tasks)
        scopes = Scopes(
            session_factory=session_factory,
            providers=providers,
            container=container,
            max_sessions=max_sessions,
        )
        self._planner = Planner(scopes, Policy())
        origin = sys._getframe(1).f_code.co_filename  # the file that makes the Jobs
        self._engine = Engine(self, self.settings, self._store, scopes, self._planner, self._clock, self._tasks, origin)
        self._enqueue = self._engine.intake.enqueue
        self.access = Access(self.settings)
        self.started_at: datetime | None = None
        self._starts = 0
        self._stopping: Future[None] | None = None  # set while a stop is under way

    # Enqueue

    def enqueue(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        queue: str | None = UNSET,
        name: str = UNSET,
        delay: timedelta | None = UNSET,
        run_at: datetime | None = UNSET,
        timeout: timedelta | None = UNSET,
        retries: int | Retry | None = UNSET,
        unique: str | None = UNSET,
        on_commit: Any = UNSET,
        **kwargs: Any,
    ) -> Job:
        """Enqueue a call of a function. In memory the job is accepted when this returns, and awaiting it is harmless.

        On a durable store it is accepted when its `await` returns, or with `on_commit` the session's commit; from a
        thread when this returns. There `func` is a declared task, and its arguments can be written as JSON.

        Args:
            func: what to call: async functions run on the loop, sync ones in a thread. A method of a provided
                service, `EmailSender.send`, is called on the service that the job's scope gives.
            args, kwargs: its arguments, less those that are injected.
            queue: jobs of one queue run one after another, in order; None: beside everything else.
            name: what people call this job; cut at 500 characters.
            delay: start no sooner than so long from now.
            run_at: or at this time (aware).
            timeout: time limit of one attempt; default: none, or the task's.
            retries: further attempts after a failure, as a number or a `Retry`.
            unique: while a job of this key is unfinished, that one is returned and nothing is enqueued.
            on_commit: a SQLAlchemy session: the job exists if and only if its transaction commits.

        Raises:
            InvalidCall: the function cannot be called so.
            AmbiguousArgument: a keyword is both an option and a parameter.
            RequestBound: an argument or a closure variable belongs to the request.
            InvalidOption, InvalidOptionType: an option is wrong.
            QueueFull: `max_queued` jobs wait.
            NotRunning, ShuttingDown: the engine takes no jobs.
            NotStored, StoreLocked: when awaited on a durable store: the job could not be stored.
        """
        engine = self._engine
        if not engine.open_to_all:
            self._refuse()
        # The ordinary case. A chain of `is` is the cheapest way to ask, whatever mypy thinks of the types.
        if delay is run_at is timeout is retries is unique is on_commit is UNSET:  # type: ignore[comparison-overlap]
            return self._enqueue(func, args, kwargs, queue, name, None)
        options = {
            "delay": delay,
            "run_at": run_at,
            "timeout": timeout,
            "retries": retries,
            "unique": unique,
            "on_commit": on_commit,
        }
        given = {option: value for option, value in options.items() if value is not UNSET}
        return self._enqueue(func, args, kwargs, queue, name, given)

    def enqueue_with(self, service: Any, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a closure with one dependency, or a method of it by name.

        `jobs.enqueue_with(EmailSender, lambda sender: sender.send(to), queue="email")`; arguments, options and
        errors as `enqueue`.

        Args:
            service: a type that the job's scope provides; passed as the first argument.
            target: what to call with it, or the name of its method.
            args, kwargs: further arguments, and options.
        """
        return self.enqueue(With(service, target), *args, **kwargs)  # type: ignore[arg-type]

    def using(self, **options: Any) -> Using:
        """Give options and arguments apart: `jobs.using(name="…").enqueue(function, name=value)`."""
        unknown = options.keys() - _OPTIONS
        if unknown:
            raise InvalidOptionType(
                f"using() knows no option {', '.join(sorted(unknown))}; it knows {', '.join(_OPTIONS)}"
            )
        return Using(self._enqueue_using, options)

    def _enqueue_using(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Job:
        if not self._engine.open_to_all:
            self._refuse()
        rest = {option: value for option, value in options.items() if option not in ("queue", "name")}
        rest["apart"] = True
        return self._enqueue(func, args, kwargs, options.get("queue", UNSET), options.get("name", UNSET), rest)

    def _refuse(self) -> None:
        error = self._engine.refuse()
        if error is not None:
            raise error

    # Tasks

    @overload
    def task(self, function: Callable[P, R]) -> Task[P, R]: ...

    @overload
    def task(
        self,
        *,
        key: str | None = ...,
        queue: str | None = ...,
        retries: int | Retry | None = ...,
        timeout: timedelta | None = ...,
        every: timedelta | None = ...,
        cron: str | None = ...,
        timezone: str = ...,
        start_after: timedelta | None = ...,
        atomic: bool = ...,
        keep_result: bool = ...,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(self, function: Any = None, **policy: Any) -> Any:
        """Declare a task, with or without a policy: `@jobs.task` or `@jobs.task(queue="reports", retries=3)`.

        Args:
            function: the function, when used without parentheses.
            policy: `queue`, `retries`, `timeout` as for `enqueue`; `every` (a timedelta) or `cron` (text, with
                `timezone`, default "UTC") for a schedule, the first run of `every` after `start_after` (default:
                one period); `key`: what a durable store remembers (default `module:qualname`); `atomic` and
                `keep_result`: of SQL stores (in memory the second changes nothing).

        Raises:
            InvalidOption, InvalidOptionType, InvalidCall, RequestBound: see the message.
        """
        if function is not None:
            return self._declare(function, {})
        return lambda function: self._declare(function, policy)

    def _declare(self, function: Callable[..., Any], given: dict[str, Any]) -> Task[Any, Any]:
        if not callable(function) or isinstance(function, Task):
            raise InvalidOptionType(f"@jobs.task declares a function, not {function!r}{called_hint(function)}")
        plan = self._planner.make(function, policy_of(given, durable=self.durable), key=given.get("key"))
        if self._engine.durable is not None:
            self._engine.durable.check(plan)
        if plan.policy.schedule is not None and plan.needs_arguments:
            raise InvalidOption(
                f"{plan.label}() has a schedule, and required arguments that nobody gives "
                f"({', '.join(sorted(plan.required))}); give them defaults"
            )
        if plan.key in self._tasks:
            raise InvalidOption(f"a task with the key {plan.key!r} is declared already; give this one key=…")
        task = self._tasks[plan.key] = Task(function, plan, self)
        self._engine.upkeep.declared()
        return task

    async def tasks(self) -> list[TaskInfo]:
        """The declared tasks, in the order of their declaration."""
        tasks = list(self._tasks.values())
        tickets = await self._ask(self._store.tickets([task.key for task in tasks]))
        return [self._task_info(task, tickets[task.key]) for task in tasks]

    def _task_info(self, task: Task[Any, Any], ticket: Ticket) -> TaskInfo:
        policy = task.policy
        return TaskInfo(
            task=task.key,
            description=(inspect.getdoc(task.function) or "").strip().partition("\n")[0],
            queue=policy.queue,
            schedule=policy.schedule.describe() if policy.schedule else None,
            next_run=self._engine.upkeep.next_run(task, ticket) if self.running else None,
            last_run=None if ticket.last is None else datetime.fromtimestamp(ticket.last, UTC),
            last_job=view_of(ticket.job, self) if ticket.job else None,
            skipped=ticket.skipped,
            needs_arguments=task.plan.needs_arguments,
            retries=policy.retries.times if policy.retries else 0,
            timeout=policy.timeout,
        )

    async def run_task(self, key: str) -> Job:
        """Enqueue a declared task now, as the page's *Run now* does.

        Raises:
            TaskNotFound: no task has this key.
            NeedsArguments: it cannot be called without arguments.
        """
        self._refuse_unless_open()
        task = self._tasks.get(key)
        if task is None:
            raise TaskNotFound(f"no task has the key {key!r}")
        if task.plan.needs_arguments:
            raise NeedsArguments(f"{key} needs arguments ({', '.join(sorted(task.plan.required))}); enqueue it in code")
        intake = self._engine.intake
        return await intake.take(intake.of_task(task, "manual"))

    def _refuse_unless_open(self) -> None:
        if not self._engine.open_to_all:
            self._refuse()

    # Looking

    async def get(self, id: str) -> Job:
        """One job.

        Raises:
            JobNotFound: there is none of this id, or its record is gone.
        """
        return view_of(await self._record(id), self)

    async def _record(self, id: str) -> Record:
        check_text("id", id, "job.id is one")
        record = await self._ask(self._store.get(id))
        if record is None:
            kept = in_words(self.settings.retention)
            raise JobNotFound(f"no job has the id {id!r}; finished ones are kept for {kept}")
        return record

    async def find(
        self,
        *,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | None = None,
        text: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Job]:
        """Jobs that match all that is given, newest first.

        Args:
            state, queue, task: exactly so; `task` is the key.
            text: stands in name, function, queue, error or id, upper and lower case alike; looked for in the newest
                10,000 records.
            limit: at most so many.
            before: only older ones than the job of this id: the next page.
        """
        try:
            state = JobState(state) if state is not None else None
        except ValueError:
            raise InvalidOption(f"state must be one of {', '.join(JobState)}, not {state!r}") from None
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidOption(f"limit must be a whole number of 1 or more, not {limit!r}")
        for option, value in (("queue", queue), ("task", task), ("text", text), ("before", before)):
            if value is not None:
                check_text(option, value, "leave it out to find all")
        query = Query(state=state, queue=queue, task=task, text=text, limit=min(limit, sys.maxsize), before=before)
        return [view_of(record, self) for record in await self._ask(self._store.find(query))]

    async def counts(self) -> dict[JobState, int]:
        """How many of the records kept now are in each state."""
        return await self._ask(self._store.counts())

    async def hour(self) -> Sequence[Minute | None]:
        """What ended in each of the last 60 minutes, oldest first, the one under way last; None: not counted yet."""
        return await self._ask(self._store.hour())

    async def queues(self, names: Sequence[str] | None = None, limit: int | None = None) -> list[QueueInfo]:
        """The queues with unfinished jobs, the paused ones and the configured ones, by name.

        Args:
            names: only these.
            limit: of those that neither work nor are paused nor configured, only so many: which have waited longest.
                Of those at work so many at least, or 200 where that is more.
        """
        now, stuck_after = self._clock.monotonic(), self.settings.stuck_after.total_seconds()
        standings = await self._ask(self._store.standings(names, limit))
        epoch = self._engine.epoch
        return [describe(standing, now, stuck_after, epoch) for standing in sorted(standings, key=lambda s: s.name)]

    async def queue_count(self) -> int:
        """How many queues there are."""
        return await self._ask(self._store.queue_count())

    async def place(self, id: str) -> Place | None:
        """Where a queued job stands in its queue; None when it stands in none."""
        return (await self._places([await self._record(id)])).get(id)

    async def places(self, jobs: Sequence[Job]) -> dict[str, Place]:
        """Where queued jobs stand in their queues, by id; those that stand in none are left out."""
        return await self._places([job._record for job in jobs])

    async def _places(self, records: Sequence[Record]) -> dict[str, Place]:
        found = await self._ask(self._store.places(records))
        return {
            id: Place(position, view_of(behind, self) if behind is not None else None)
            for id, (position, behind) in found.items()
        }

    async def health(self) -> Health:
        """Whether the engine runs, its store answers and its loop is free; with reasons for people."""
        reasons = []
        if not self.running:
            reasons.append(f"the engine is not running ({self.status})")
        blocked = self._engine.watchdog.blocked if self._engine.watchdog else None
        if blocked is not None and blocked.lasting:
            reasons.append(f"the event loop is blocked at {blocked.file}:{blocked.line} by {blocked.name}")
        if self.durable and not reasons:  # a database is asked on that loop
            reasons += await self._on_loop(self._engine.trouble())
        ok = not reasons
        if ok or not self.durable:
            try:
                queues = [info for info in await self.queues(limit=0) if info.blocked_by]
            except StoreError as error:  # it has gone away this moment
                return Health(False, [str(error)])
            reasons += [f"queue {info.name!r} is blocked by job {info.blocked_by}" for info in queues]
        return Health(ok, reasons)

    async def workers(self, *, running: bool = True) -> list[WorkerInfo]:
        """The processes that have a durable store open; in memory there are none but this one, and it is not listed.

        Args:
            running: whether the jobs that each runs are wanted, too.
        """
        durable = self._engine.durable
        if durable is None:
            return []
        return [worker_info(worker, self) for worker in await self._on_loop(durable.store.workers(running=running))]

    async def unknown_tasks(self) -> dict[str, int]:
        """Tasks that no living worker declares, and how many unfinished jobs they have: those wait until one does."""
        durable = self._engine.durable
        return {} if durable is None else await self._on_loop(durable.store.unknown_tasks())

    async def join(self) -> None:
        """Wait until nothing is queued, running or between two attempts; delays and schedules are not waited for.

        Raises:
            DeadlockError: called inside a job.
        """
        await self._on_loop(self._engine.waiting.join())

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call a plain, quick function with each `Event`, on the loop; gives a function that ends it."""
        if not callable(listener) or inspect.iscoroutinefunction(listener):
            raise InvalidOptionType(f"subscribe takes a plain function of an Event, not {listener!r}")
        return self._engine.listeners.subscribe(listener)

    # Acting

    async def cancel(self, id: str, reason: str = "") -> Job:
        """Ask a job to stop; returns once that is asked. What has ended stays as it is.

        Raises:
            JobNotFound: there is none of this id.
        """
        check_text("reason", reason, "it is for people to read")
        record = await self._record(id)
        await self._on_loop(self._cancel([id], reason))
        return view_of(record, self)

    async def cancel_many(self, ids: Iterable[str], reason: str = "") -> tuple[int, int]:
        """As `cancel` for many jobs, with few transactions; (done, skipped): skipped have ended, or are unknown."""
        check_text("reason", reason, "it is for people to read")
        chosen = list(dict.fromkeys(ids))
        done = await self._on_loop(self._cancel(chosen, reason))
        return done, len(chosen) - done

    async def _cancel(self, ids: Sequence[str], reason: str) -> int:
        answer = await self._ask(self._store.cancel(ids, reason))
        if answer.ended:
            self._engine.told_cancelled(answer.ended)
        for asked in answer.asked:
            if asked.run is not None:
                asked.run.ask_to_stop(Stop.CANCEL)
        return len(answer.ended) + len(answer.asked)

    async def cancel_waiting(self, queue: str) -> tuple[int, int]:
        """Cancel what waits in a queue (queued, delayed, between attempts), not what runs; (done, skipped)."""
        check_queue(queue)
        waiting = await self._ask(self._store.waiting_in(queue, self.settings.max_queued))
        answer = await self._ask(self._store.cancel([record.id for record in waiting], "queue cancelled"))
        self._engine.told_cancelled(answer.ended)
        return len(answer.ended), len(waiting) - len(answer.ended)

    async def retry(self, id: str) -> Job:
        """Run a finished job again, as a new one.

        Raises:
            JobNotFound: there is none of this id.
            InvalidState: it has not finished.
            ArgumentsGone: it succeeded, or is too long ago, and its arguments are not kept.
        """
        self._refuse_unless_open()
        return await self._engine.intake.again(await self._record(id))

    async def pause(self, queue: str) -> None:
        """Start no job of the queue any more; what runs goes on."""
        check_queue(queue)
        await self._ask(self._store.pause(queue))

    async def resume(self, queue: str) -> None:
        """Start the queue's jobs again."""
        check_queue(queue)
        await self._ask(self._store.resume(queue))
        if self.status in ("running", "stopping"):
            self._engine.wake()

    async def release(self, id: str) -> Job:
        """Give up a job whose process hangs: it runs again elsewhere, as if that process had died.

        Raises:
            JobNotFound: there is none of this id.
            InvalidState: it does not run; with a store in memory always, for there its process is this one.
        """
        return view_of(await self._on_loop(self._engine.release(await self._record(id))), self)

    # What a Job asks for

    async def wait(self, job: Job, timeout: timedelta | None) -> None:
        """See `Job.wait`."""
        if timeout is not None:
            check_timedelta("timeout", timeout, zero=True)
        if job._record.finished is None:
            await self._on_loop(self._engine.waiting.wait(job, timeout))

    async def stored(self, job: Job) -> None:
        """See `Job.__await__`."""
        await self._on_loop(self._engine.waiting.stored(job))

    async def refresh(self, job: Job) -> None:
        """See `Job.refresh`."""
        await self._on_loop(self._engine.waiting.refresh(job))

    async def result(self, job: Job) -> Any:
        """See `Job.result`; the job has ended."""
        if job.state is JobState.FAILED and job.error is not None:
            raise JobFailed(f"job {job.name!r} failed: {job.error.type}: {job.error.message}", job)
        if job.state is JobState.CANCELLED:
            because = f": {job.cancel_reason}" if job.cancel_reason else ""
            raise JobCancelled(f"job {job.name!r} was cancelled{because}", job)
        value = job._value
        if value is UNSET:
            value = await self._on_loop(self._engine.waiting.kept_value(job._record))
        if value is UNSET:
            raise ResultNotKept(
                f"the value of job {job.name!r} went to the Job objects alive at its end, in the process "
                f"that ran it; this is none. On a durable store @jobs.task(keep_result=True) keeps it"
            )
        return value

    def stack(self, record: Record) -> list[Frame] | None:
        """See `Job.stack`."""
        return record.run.stack() if record.run is not None else None

    def wait_time(self, record: Record) -> timedelta | None:
        """See `Job.wait_time`."""
        if record.state is JobState.SCHEDULED:
            return None
        end = record.started or record.finished or self._clock.monotonic()
        return timedelta(seconds=max(end - record.since, 0.0))

    def run_time(self, record: Record) -> timedelta | None:
        """See `Job.run_time`."""
        if record.started is None:
            return None
        return timedelta(seconds=max((record.finished or self._clock.monotonic()) - record.started, 0.0))

    def set_concurrency(self, concurrency: int) -> None:
        """For the worker command, before the start: most jobs running at once in this process."""
        if self.status != "new":
            raise InvalidState("the concurrency of a Jobs that has started stays as it is")
        self.settings = replace(self.settings, concurrency=concurrency)
        self._engine.set_concurrency(self.settings)

    # State, for the page

    @property
    def status(self) -> str:
        """`new`, `starting`, `running`, `stopping` or `stopped`."""
        return self._engine.status

    @property
    def running(self) -> bool:
        """Whether jobs are started."""
        return self._engine.status == "running"

    @property
    def durable(self) -> bool:
        """Whether jobs outlive the process."""
        return self._store.durable

    @property
    def revision(self) -> int:
        """Grows with every change of what the page shows."""
        return self._store.revision

    @property
    def trimmed(self) -> bool:
        """Logs and tracebacks of some finished records were dropped for their size."""
        return self._store.trimmed

    @property
    def processes(self) -> int:
        """Server processes that run this application on stores in memory; 1: this one alone."""
        return self._engine.processes

    @property
    def loop_blocked(self) -> Blocked | None:
        """What blocks the event loop, or has within the last minute."""
        return self._engine.watchdog.blocked if self._engine.watchdog else None

    def now(self) -> datetime:
        """The engine's clock, aware UTC."""
        return self._engine.now()

    # Start and stop

    async def open(self) -> None:
        """Accept jobs; none starts before `begin`. The middleware calls this before the application's start-up."""
        while self._stopping is not None:
            await asyncio.wrap_future(self._stopping)
        if self._engine.lost_its_loop:
            self._starts = 0
        self._starts += 1
        if self._starts > 1:
            logger.warning(
                "This Jobs is started already: there are two middlewares, or a middleware and a lifespan; one is enough"
            )
            return
        try:
            await self._engine.open()
        except BaseException:
            self._starts = 0
            raise
        self.started_at = self.now()

    async def begin(self, *, announce: bool = True) -> None:
        """Start jobs. The middleware calls this after the application's start-up.

        Args:
            announce: say in the log how the page is opened.
        """
        if self.status == "starting":
            await self._engine.begin()
            if announce:
                self.access.announce(logger)

    async def stop(self, *, drain: bool = True) -> None:
        """Drain and stop, within `shutdown_timeout`; with several starts, at the last stop.

        Args:
            drain: False cancels at once what runs, as after `shutdown_timeout`.
        """
        if self._starts == 0:
            return
        self._starts -= 1
        if self._starts > 0 or self._engine.lost_its_loop:
            return
        ended = self._stopping = Future()
        ended.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        try:
            await self._on_loop(self._engine.stop(drain=drain))
        finally:
            self._stopping = None
            ended.set_result(None)

    async def __aenter__(self) -> Self:
        await self.open()
        await self.begin(announce=False)  # scripts and tests have no page
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """A lifespan for an application that composes its own: `Starlette(lifespan=jobs.lifespan)`."""
        await self.open()
        await self.begin()
        try:
            yield
        finally:
            await self.stop()

    async def _ask(self, answer: Answer[T]) -> T:
        """The store's answer; one in a database gives it on the engine's loop."""
        return await (self._on_loop(resolve(answer)) if self.durable else resolve(answer))

    async def _on_loop(self, verb: Coroutine[Any, Any, T]) -> T:
        """Carry a verb out on the engine's loop, whichever loop it was awaited on."""
        loop = self._engine.loop
        if loop is None or loop is asyncio.get_running_loop():
            return await verb
        if loop.is_closed():
            verb.close()
            raise NotRunning("the job engine has stopped, and its event loop is closed")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(verb, loop))

    # The page

    @cached_property
    def _dashboard(self) -> ASGIApp:
        return build(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The status page, to be mounted: `Mount("/jobs", jobs)`."""
        await self._dashboard(scope, receive, send)


_OPTIONS = ("queue", "name", "delay", "run_at", "timeout", "retries", "unique", "on_commit")
