"""One attempt of a job whose store outlives the process: what interrupts it takes nothing away from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, cast

from asgi_jobs.engine.atomic import TakenOver, check_session, commit_success, no_commit
from asgi_jobs.engine.ending import Stop
from asgi_jobs.engine.executor import Executor
from asgi_jobs.engine.run import Run
from asgi_jobs.events import label
from asgi_jobs.job import UNSET
from asgi_jobs.stores.base import Verdict

if TYPE_CHECKING:
    from asgi_jobs.codec import Codec
    from asgi_jobs.engine.scope import AttemptScope
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import DurableStore
    from asgi_jobs.task import Task

INTERRUPTIONS = (Stop.SHUTDOWN, Stop.LOST)
logger = logging.getLogger("asgi_jobs")


class DurableRun(Run):
    """A `Run` that goes back to its place when it is interrupted, and does not count then."""

    __slots__ = ("_claim", "result", "settled")

    def __init__(self, executor: Executor, record: Record) -> None:
        super().__init__(executor, record)
        self._claim = record.detail().claim
        self.result: str | None = None
        self.settled = False

    @property
    def claim(self) -> int:
        """See `CurrentJob.claim`. This attempt's own: the job may have been claimed anew while its code still runs."""
        return self._claim or 0

    async def _call(self, context: Context, values: dict[str, Any]) -> None:
        """As `Run._call`, then what its policy wants while the scope is still open."""
        policy = self.record.plan.policy
        if not policy.atomic:
            await super()._call(context, values)
            self._keep_result()
            return
        assert self.scope is not None
        session = await self.scope.session()
        check_session(session, self._store)
        with no_commit(session):
            await super()._call(context, values)
        self._keep_result()
        if self.failure is None:
            await self._commit_success(self.scope, session)

    def _keep_result(self) -> None:
        """A value that is no JSON fails the job, and what its session did is rolled back."""
        record = self.record
        if record.plan.policy.keep_result and self.failure is None:
            self.result = cast("DurableExecutor", self._executor).codec_of(record).encode_result(self.value)

    @property
    def _store(self) -> DurableStore:
        return cast("DurableExecutor", self._executor).store

    async def _commit_success(self, scope: AttemptScope, session: Any) -> None:
        """From here on a stop comes too late; one that came before must not find its job succeeded."""
        self._end_body()
        if self.failure is not None:
            raise self.failure
        arguments = (self._store, self.record, self.result)
        try:
            if scope.is_async:
                await session.run_sync(commit_success, *arguments)
            else:
                await scope.in_thread(commit_success, session, *arguments)
        except TakenOver:
            self.stop = Stop.LOST
            raise
        self.settled = True

    def hand_in(self) -> None:
        """As `Run.hand_in`. While code still runs in a thread its row stays this process's, until that is dead."""
        if self.given_up and self.thread is not None and self.thread.busy:
            self._executor.running.discard(self)
            self._executor.threads.take_back(self.thread)
            return
        details = self.record.detail()
        details.value, details.waiting_at = self.value, None  # a durable record lives only as long as its views
        super().hand_in()

    def conclude(self) -> None:
        """As `Run.conclude`. What a body raises because it is interrupted is no failure of its own."""
        if self.settled and self.failure is not None:
            logger.error("Job %s succeeded; closing its scope failed", label(self.job), exc_info=self.failure)
            self.failure = None
        if self.given_up and isinstance(self.failure, asyncio.CancelledError):
            self.stop = self.stop or Stop.SHUTDOWN  # the shutdown's end cut its closing off
        super().conclude()
        if self.verdict is not Verdict.SUCCEEDED:
            self.record.detail().value, self.result = UNSET, None
            if self.stop in INTERRUPTIONS:
                self.verdict, self.error, self.delay, self.counted = Verdict.HELD, None, 0.0, False

    @property
    def interrupted(self) -> bool:
        """Whether a shutdown cut it off; it goes back to its place."""
        return self.stop is Stop.SHUTDOWN and not self.counted


class DurableExecutor(Executor):
    """Starts such attempts."""

    def __init__(self, *, store: DurableStore, tasks: Mapping[str, Task[Any, Any]], **rest: Any) -> None:
        super().__init__(**rest)
        self.store = store
        self._tasks = tasks

    def codec_of(self, record: Record) -> Codec:
        """How the record's task writes its value."""
        return self._tasks[record.plan.key].codec

    def start(self, record: Record, make: type[Run] = DurableRun) -> None:
        """See `Executor.start`."""
        super().start(record, make)
