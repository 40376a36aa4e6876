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
from collections.abc import Generator
from contextvars import Context
from enum import Enum, auto
from types import coroutine
from typing import TYPE_CHECKING, Any

from asgi_jobs.engine.current import CurrentJob, current
from asgi_jobs.engine.ending import Stop, decide, let_go, unsaid
from asgi_jobs.engine.scope import AttemptScope
from asgi_jobs.engine.threads import outlast
from asgi_jobs.errortext import format_error
from asgi_jobs.frames import Frame, frames_of_task, frames_of_thread
from asgi_jobs.job import JobError, Record
from asgi_jobs.stores.base import Verdict

if TYPE_CHECKING:
    from asgi_jobs.clock import Timer
    from asgi_jobs.engine.executor import Executor
    from asgi_jobs.engine.threads import WorkerThread

Task = asyncio.Task  # not loop.create_task: a task factory of the application must not run jobs early


class Phase(Enum):
    """How far an attempt is."""

    OPENING = auto()
    BODY = auto()
    CLOSING = auto()


BODY = Phase.BODY
SUCCESS = Verdict.SUCCEEDED


@coroutine
def entered() -> Generator[None, None, None]:
    """The first yield of an attempt, to which it is advanced before it becomes a task."""
    yield


class Run(CurrentJob):
    """One attempt under way, and its outcome for the store."""

    __slots__ = (
        "counted",
        "delay",
        "driver",
        "error",
        "failure",
        "given_up",
        "phase",
        "scope",
        "task",
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
    result: str | None = None  # no slots: only what a durable store keeps has them
    settled: bool = False

    def __init__(self, executor: Executor, record: Record) -> None:
        self._executor = executor
        self.record = record
        self.phase = BODY
        self.verdict = SUCCESS
        self.task = self.driver = self.thread = self.scope = self.timer = self.stop = None
        self.failure = self.error = self.waits = None
        self.value: Any = None
        self.heard = self.given_up = False
        self.counted = True
        self.delay = 0.0

    # The attempt

    async def body(self) -> None:
        """The function on the loop, when it needs neither scope nor thread."""
        try:
            await entered()
            current.set(self)
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
            await entered()
            current.set(self)
            given = self.record.kwargs or {}
            values = await self.scope.open(self.record.plan.injected, given)
            if self.stop is None:  # else a cancel came while it opened, and something swallowed it
                self.phase = Phase.BODY
                await self._call(context, values)
            else:
                self.failure = asyncio.CancelledError()
        except BaseException as error:  # as in `body`
            self.failure = error
        self._end_body()
        try:
            raised = await self.scope.close(self.failure)
        except BaseException as error:  # given up by the shutdown
            raised = error
        if self.failure is None:
            self.failure = raised
        self.hand_in()

    def _end_body(self) -> None:
        """From here on a stop changes nothing. The scope must hear of every end that is no success: it may commit."""
        if self.phase is Phase.OPENING and self.stop is not None and self.driver is not None:
            self.driver.uncancel()  # it was heard: TaskGroup and timeout in the scope's exit ask for it
        if self.failure is None:
            self.failure = unsaid(self.stop, heard=self.heard, timeout=self.record.timeout)
        self.phase = Phase.CLOSING
        self.stop_timer()

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
        self.task = task = Task(self._catch(answer), loop=loop, context=context)
        task.add_done_callback(lambda _: ended.set_result(None))
        if self.stop is not None:  # asked to stop while a thread made the awaitable
            task.cancel()
        await outlast(ended, lambda: self.given_up)
        if task.cancelled():  # before its first step
            self.failure = asyncio.CancelledError()
            if inspect.iscoroutine(answer):
                answer.close()  # it will never be awaited, and that is meant

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
        if self.stop is not None or self.phase is Phase.CLOSING:
            return
        self.stop = why
        if self.phase is Phase.OPENING and self.driver is not None:
            self.driver.cancel()
        elif self.phase is Phase.BODY and self.task is not None:
            self.task.cancel()

    def give_up(self) -> None:
        """The shutdown's time is over: nobody waits any more, and whatever still closes is interrupted."""
        self.given_up = True
        if self.thread is not None:
            self.thread.given_up = True
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
        self.record.run = None
        executor = self._executor
        executor.running.discard(self)
        if self.thread is not None:
            executor.threads.take_back(self.thread)
        executor.ended(self)

    def conclude(self) -> None:
        """Decide what is told to the store."""
        failure, self.failure = self.failure, None
        record, stop = self.record, self.stop
        may_retry = stop is not Stop.SHUTDOWN and not record.cancelling
        self.verdict, error, self.delay = decide(
            failure,
            stop,
            heard=self.heard,
            timeout=record.timeout,
            retry=record.retry if may_retry else None,
            attempt=record.attempt,
        )
        if self.verdict is not SUCCESS:
            self.value = None
        elif self.scope is not None and self.scope.uncommitted:
            record.detail().uncommitted = True
        if error is not None:
            self.error = JobError(*format_error(error))
        if failure is not None and stop is not None:
            let_go(failure)


def current_run() -> Run | None:
    """The attempt that is running here, if one is."""
    run = current.get(None)
    assert run is None or isinstance(run, Run)
    return run
