"""One attempt of a job: open its scope, call the function, close the scope, say how it ended.

An attempt is a task that runs the function and nothing else, so a cancel reaches the function only. Where there
is a scope or a thread, a second task, which nobody cancels once the scope is open, drives the steps around it.

How it ended is handed in by the last lines of the outermost coroutine, where nothing can interrupt. A task that is
cancelled before its first step never enters its coroutine, and its queue would stand still for ever; so ours are
advanced to a first yield, inside their `try`, before they become tasks. (A done call-back would do as well, and
costs a fifth of the whole job: a handle and a turn of the loop.)
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar
from enum import Enum, auto
from traceback import clear_frames
from types import coroutine
from typing import TYPE_CHECKING, Any

from asgi_jobs.engine.scope import AttemptScope
from asgi_jobs.errors import NoCurrentJob
from asgi_jobs.frames import Frame, format_error, frames_of_task, frames_of_thread
from asgi_jobs.job import LOG_LINES, Job, JobError, LogLine, Progress, Record, view_of
from asgi_jobs.stores.base import Verdict

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock, Timer
    from asgi_jobs.engine.scope import Scopes
    from asgi_jobs.engine.threads import Threads, WorkerThread
    from asgi_jobs.job import Engine

TEXT_LIMIT = 500
_current: ContextVar[Run] = ContextVar("asgi_jobs_current")
_Task = asyncio.Task  # not loop.create_task: a task factory of the application must not run jobs early


@coroutine
def _entered() -> Generator[None, None, None]:
    """The first yield of an attempt, to which it is advanced before it becomes a task."""
    yield


class Stop(Enum):
    """Why an attempt was asked to stop."""

    CANCEL = auto()
    TIMEOUT = auto()
    SHUTDOWN = auto()


class Phase(Enum):
    """How far an attempt is."""

    OPENING = auto()
    BODY = auto()
    CLOSING = auto()


BODY = Phase.BODY
SUCCESS = Verdict.SUCCEEDED


class Run:
    """One attempt under way: its outcome for the store, and the handle that `current_job()` gives."""

    __slots__ = (
        "_executor",
        "counted",
        "delay",
        "driver",
        "error",
        "failure",
        "heard",
        "phase",
        "record",
        "scope",
        "stop",
        "task",
        "thread",
        "timer",
        "value",
        "verdict",
        "waits",
    )

    task: asyncio.Task[None] | None  # runs the function
    driver: asyncio.Task[None] | None  # runs the steps around it, where there are some
    thread: WorkerThread | None
    scope: AttemptScope | None
    timer: Timer | None
    stop: Stop | None
    failure: BaseException | None
    error: JobError | None
    waits: list[Record] | None  # jobs that this one waits for

    def __init__(self, executor: Executor, record: Record) -> None:
        self._executor = executor
        self.record = record
        self.phase = BODY
        self.verdict = SUCCESS
        self.task = self.driver = self.thread = self.scope = self.timer = self.stop = None
        self.failure = self.error = self.waits = None
        self.value: Any = None
        self.heard = False  # a thread has read that it should stop
        self.counted = True
        self.delay = 0.0

    # For the function itself, through current_job()

    @property
    def job(self) -> Job:
        """The job that runs."""
        return view_of(self.record, self._executor.engine)

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop; for threads, where no `CancelledError` is raised."""
        if self.stop is not None and self.thread is not None:
            self.heard = True
        return self.stop is not None

    @property
    def claim(self) -> int:
        """A number that grows with each attempt of this job, for fencing writes to other systems."""
        return self.record.attempt

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Say how far the job is; shown on the page. Callable from a thread.

        Args:
            done: how much is done.
            total: of how much; None when that is not known.
            text: what is counted, or what is being done; cut at 500 characters.
        """
        for name, number in (("done", done), ("total", total)):
            if isinstance(number, bool) or not (
                isinstance(number, (int, float)) or (name == "total" and number is None)
            ):
                raise TypeError(f"progress({name}=…) must be a number, not {number!r}")
        executor, details = self._executor, self.record.detail()
        details.moved = executor.clock.monotonic()
        details.progress = Progress(done, total, str(text)[:TEXT_LIMIT], self.record.epoch.date(details.moved))
        executor.touched()

    def log(self, text: str) -> None:
        """Add a line to the job's log: the last 200 are kept, of at most 1,000 characters. Callable from a thread."""
        executor, details = self._executor, self.record.detail()
        details.moved = executor.clock.monotonic()
        at = self.record.epoch.date(details.moved)
        if details.log is None:
            details.log = deque(maxlen=LOG_LINES)
        for line in str(text).splitlines() or [""]:
            details.log.append(LogLine(line, at))
            details.log_count += 1
        executor.touched()

    # The attempt

    async def body(self) -> None:
        """The function on the loop, when it needs neither scope nor thread."""
        try:
            await _entered()
            _current.set(self)
            record = self.record
            if record.details is not None or record.plan.policy.timeout is not None:
                self.start_timer()
            if record.kwargs is None:
                self.value = await record.func(*record.args)
            else:
                self.value = await record.func(*record.args, **record.kwargs)
        except BaseException as error:  # SystemExit and its like fail the job, not the server
            self.failure = error
        self.hand_in()

    async def drive(self, context: Context) -> None:
        """The function with its scope around it."""
        self.scope = AttemptScope(self._executor.scopes, context, self.thread)
        try:
            await _entered()
            _current.set(self)
            given = self.record.kwargs or {}
            values = await self.scope.open(self.record.plan.injected, given)
            if self.stop is None:  # else a cancel came while it opened, and something swallowed it
                self.phase = Phase.BODY
                await self._call(context, values)
            else:
                self.failure = asyncio.CancelledError()
        except BaseException as error:  # as in `body`
            self.failure = error
        self.phase = Phase.CLOSING
        self.stop_timer()
        try:
            raised = await self.scope.close(self.failure)
        except BaseException as error:  # given up by the shutdown
            raised = error
        if self.failure is None:
            self.failure = raised
        self.hand_in()

    async def _call(self, context: Context, values: dict[str, Any]) -> None:
        record = self.record
        arguments = (record.func, record.args, record.kwargs or {}, values)
        self.start_timer()
        if self.thread is not None and not self._is_async(values):
            answer = await self.thread.call(context, record.plan.call, *arguments)
        else:
            answer = record.plan.call(*arguments)
        if inspect.isawaitable(answer):
            await self._await_body(context, answer)
        else:
            self.value = answer

    def _is_async(self, values: dict[str, Any]) -> bool:
        """Whether the service that the scope gave has made the method a coroutine function."""
        plan = self.record.plan
        if plan.method is None:
            return not plan.threaded
        service = values.get(next(iter(plan.injected)))
        return inspect.iscoroutinefunction(getattr(service, plan.method, None))

    async def _await_body(self, context: Context, answer: Any) -> None:
        """Await the function in a task of its own, which is what a cancel reaches."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self.task = task = _Task(self._catch(answer), loop=loop, context=context)
        task.add_done_callback(lambda _: ended.set_result(None))
        if self.stop is not None:  # asked to stop while a thread made the awaitable
            task.cancel()
        await ended
        if task.cancelled():
            self.failure = asyncio.CancelledError()

    async def _catch(self, answer: Any) -> None:
        try:
            self.value = await answer
        except BaseException as error:  # as in `body`
            self.failure = error

    # Stopping it

    def start_timer(self) -> None:
        """The time limit counts from the first line of the body."""
        timeout = self.record.timeout
        if timeout is not None:
            self.timer = self._executor.clock.call_later(timeout.total_seconds(), self.ask_to_stop, Stop.TIMEOUT)

    def stop_timer(self) -> None:
        """The body has ended."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def ask_to_stop(self, why: Stop) -> None:
        """Deliver a cancel, once: a second one would interrupt the body's clean-up."""
        if self.stop is not None:
            return
        self.stop = why
        if self.phase is Phase.OPENING and self.driver is not None:
            self.driver.cancel()
        elif self.phase is Phase.BODY and self.task is not None:
            self.task.cancel()

    def give_up(self) -> None:
        """The shutdown's time is over: whatever still closes is interrupted."""
        if self.phase is Phase.CLOSING and self.driver is not None:
            self.driver.cancel()

    def belongs_to(self, executor: Executor) -> bool:
        """Whether it runs in this engine, and not in another one of the process."""
        return self._executor is executor

    @property
    def interrupted(self) -> bool:
        """Whether a shutdown cut it off."""
        return self.stop is Stop.SHUTDOWN and self.verdict is Verdict.CANCELLED

    @property
    def loop_closed(self) -> bool:
        """Whether the loop that it ran on is gone."""
        task = self.driver or self.task
        return task is not None and task.get_loop().is_closed()

    def abandon(self) -> None:
        """Its end will not be heard of."""
        self.stop, self.failure = Stop.SHUTDOWN, asyncio.CancelledError()
        self.conclude()
        self.record.run = None

    def stack(self) -> list[Frame] | None:
        """Where it waits now."""
        if self.task is not None and not self.task.done():
            return frames_of_task(self.task)
        if self.thread is not None and self.phase is Phase.BODY and self.thread.ident is not None:
            return frames_of_thread(self.thread.ident)
        return frames_of_task(self.driver) if self.driver is not None else None

    # How it ended

    def hand_in(self) -> None:
        """The attempt has ended; no await may come before this has been said."""
        if self.timer is not None:
            self.stop_timer()
        if self.failure is not None or self.stop is not None or self.scope is not None:
            if isinstance(self.failure, GeneratorExit) and self.loop_closed:
                return  # not the job's: the interpreter clears up what a loop left behind
            self.conclude()
        record = self.record
        record.run = None
        known = record.view
        if known is not None:
            job = known()
            if job is None:
                record.view = None  # nobody looks: the record keeps no value
            else:
                job._value = self.value  # a view takes its value from here alone
        executor = self._executor
        executor.running.discard(self)
        if self.thread is not None:
            executor.threads.take_back(self.thread)
        executor.ended(self)

    def conclude(self) -> None:
        """Decide what is told to the store."""
        failure, stop, record = self.failure, self.stop, self.record
        self.failure = None
        if self.scope is not None and self.scope.uncommitted:
            record.detail().uncommitted = failure is None
        if failure is None and (stop is None or (stop is not Stop.TIMEOUT and not self.heard)):
            return
        stopped = failure is None or isinstance(failure, asyncio.CancelledError)
        if stopped and stop in (Stop.CANCEL, Stop.SHUTDOWN):
            self.verdict, self.value = Verdict.CANCELLED, None
        elif stop is Stop.TIMEOUT:
            where = failure.__traceback__ if failure is not None else None
            self._fail(TimeoutError(f"timed out after {record.timeout}").with_traceback(where))
        elif failure is not None:
            self._fail(failure)
        if failure is not None and stop is not None:
            _let_go(failure)

    def _fail(self, failure: BaseException) -> None:
        self.verdict, self.value = Verdict.FAILED, None
        self.error = JobError(*format_error(failure))
        record = self.record
        retry = record.retry
        if retry is not None and not record.cancelling and self.stop is not Stop.SHUTDOWN:
            delay = retry.decide(record.attempt, failure)
            if delay is not None:
                self.verdict, self.delay = Verdict.HELD, delay


def _let_go(error: BaseException) -> None:
    """Free what the frames of an interrupted body hold.

    A cancel in the middle of a statement leaves a cursor in a cycle through the traceback, and with it, on
    SQLite, a lock on the database until the garbage collector comes by (seen with aiosqlite 0.22).
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        clear_frames(link.__traceback__)
        link = link.__context__


class Executor:
    """Starts attempts, and hands in how they ended."""

    def __init__(
        self,
        *,
        engine: Engine,
        scopes: Scopes,
        threads: Threads,
        clock: Clock,
        touched: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.scopes = scopes
        self.clock = clock
        self.touched = touched
        self.threads = threads
        self.ended: Callable[[Run], None] = lambda _run: None  # the dispatcher's, once there is one
        self.running: set[Run] = set()  # strong references: the loop keeps only weak ones
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self, record: Record) -> None:
        """Start an attempt; its first step is the loop's next turn, never part of the caller's."""
        run = record.run = Run(self, record)
        context = Context()
        if record.plan.plain:
            body = run.body()
            body.send(None)
            run.task = _Task(body, loop=self.loop, context=context, name=record.name)
        else:
            run.phase = Phase.OPENING
            if record.plan.threaded:
                run.thread = self.threads.lend()
            drive = run.drive(context)
            drive.send(None)
            run.driver = _Task(drive, loop=self.loop, context=context, name=record.name)
        self.running.add(run)


def current_job() -> Run:
    """The job that is running here: `job`, `progress`, `log`, `cancelled`, `claim`.

    Works in async jobs, in thread jobs, and in the tasks and threads that a job starts with asyncio or anyio,
    which copy the context.

    Raises:
        NoCurrentJob: this is not inside a job.
    """
    run = _current.get(None)
    if run is None:
        raise NoCurrentJob("current_job() works inside a job only")
    return run


def current_run() -> Run | None:
    """The attempt that is running here, if one is."""
    return _current.get(None)
