"""From a call of `enqueue` to a record in the store. Whatever is wrong is said here, in the caller's line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from secrets import choice
from types import FunctionType
from typing import TYPE_CHECKING, Any

from asgi_jobs.call import Plan
from asgi_jobs.clock import Epoch
from asgi_jobs.engine.commit import hang
from asgi_jobs.engine.guard import Guard
from asgi_jobs.errors import ArgumentsGone, InvalidCall, InvalidOption, InvalidOptionType, InvalidState
from asgi_jobs.job import UNSET, Job, Record, view_of
from asgi_jobs.planner import Planner
from asgi_jobs.settings import NAME_LIMIT, QUEUE_NAME_LIMIT, check_queue, clean_name
from asgi_jobs.task import LONGEST, Task, With, check_timedelta, to_retry

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.commit import P as _P  # noqa: F401
    from asgi_jobs.job import Engine

PREFIX_WIDTH = 10
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter that looks like a digit
CLOCK_TOLERANCE = 0.5


class Intake:
    """Makes records. `accept` and `reserve` are the engine's: where they go, and whether there is room."""

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        clock: Clock,
        *,
        accept: Callable[[Record], Record],
        accept_committed: Callable[[list[Record]], None],
        drop: Callable[[list[Record]], None],
        reserve: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._plans = planner.plans
        self._clock = clock
        self._monotonic = clock.monotonic
        self._accept = accept
        self._accept_committed = accept_committed
        self._drop = drop
        self._reserve = reserve
        self._guard = Guard()
        self._numbers = count(1)
        self.epoch = self._new_epoch()

    def renew(self) -> None:
        """A new start: ids with a prefix of its own."""
        self.epoch = self._new_epoch()

    def _new_epoch(self) -> Epoch:
        prefix = "".join(choice(ALPHABET) for _ in range(PREFIX_WIDTH))
        return Epoch(prefix, self._clock.time() - self._monotonic())

    def follow_clock(self) -> bool:
        """Notice that the wall clock was set, or that the machine slept; gives whether it was."""
        offset = self._clock.time() - self._monotonic()
        if abs(offset - self.epoch.offset) < CLOCK_TOLERANCE:
            return False
        self.epoch = Epoch(self.epoch.prefix, offset)
        return True

    def enqueue(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        queue: Any,
        name: Any,
        options: dict[str, Any] | None,
    ) -> Job:
        """Bind, check, make the record, have it accepted. The hot path: every line here runs for every job."""
        service = None
        if type(func) is Task:
            plan, func = self._of_task(func), func.function
        else:
            plan = self._plans.get(func) if type(func) is FunctionType else None  # type: ignore[assignment]
            if plan is None:
                plan, func, service = self._plan(func)
        if plan.clash:
            self._refuse_ambiguous(plan, args, queue, name, options)
        if kwargs or not plan.lowest <= len(args) <= plan.highest:
            plan.bind(args, kwargs)
        if kwargs or plan.carries or not self._guard.harmless(args):
            self._guard.check(func, args, kwargs, positional=plan.positional, service=service)
        if queue is UNSET:
            queue = plan.policy.queue
        elif queue is not None and not (
            type(queue) is str and queue.isascii() and 0 < len(queue) <= QUEUE_NAME_LIMIT and "\0" not in queue
        ):
            check_queue(queue)
        name = plan.label if name is UNSET else clean_name(name)
        record = Record(
            next(self._numbers), self.epoch, plan, func, args, kwargs or None, queue, name, self._monotonic()
        )
        job = Job(record, self._engine)
        record.view = job
        if options is not None:
            return self._with_options(record, options, job)
        self._accept(record)
        return job

    def again(self, old: Record) -> Job:
        """The same once more: function, arguments, queue, name and options."""
        if not old.state.finished:
            raise InvalidState(f"job {old.name!r} is {old.state.value}; only a finished job can be run again")
        record = self._repeat(old)
        details = record.detail()
        details.source, details.retry_of = "manual", old.id
        if old.details is not None:
            details.timeout, details.retries = old.details.timeout, old.details.retries
        return self.take(record)

    def take(self, record: Record) -> Job:
        """Have a record accepted that was made here."""
        return view_of(self._accept(record), self._engine)

    def _repeat(self, old: Record) -> Record:
        if old.func is None:
            raise ArgumentsGone(
                f"job {old.name!r} {old.state.value}, and its arguments are not kept any more: it cannot be run again"
            )
        return self._make(old.plan, old.func, old.args, old.kwargs, old.queue, old.name)

    def of_task(self, task: Task[Any, Any], source: str) -> Record:
        """A run of a task without arguments, not accepted yet."""
        record = self._make(task.plan, task.function, (), None, task.policy.queue, task.plan.label)
        record.detail().source = source
        return record

    def _make(self, plan: Plan, func: Any, args: tuple[Any, ...], kwargs: Any, queue: str | None, name: str) -> Record:
        return Record(next(self._numbers), self.epoch, plan, func, args, kwargs, queue, name, self._monotonic())

    def _of_task(self, task: Task[Any, Any]) -> Plan:
        if task.jobs is not self._engine:  # type: ignore[comparison-overlap]
            raise InvalidCall(f"{task!r} was declared by another Jobs; enqueue it with that one")
        return task.plan

    def _plan(self, func: Any) -> tuple[Plan, Any, Any]:
        if type(func) is With:
            return self._planner.plan_with(func.service, func.target), func.target, func.service
        return self._planner.plan(func), func, None

    def _refuse_ambiguous(
        self, plan: Plan, args: tuple[Any, ...], queue: Any, name: Any, options: dict[str, Any] | None
    ) -> None:
        if options is not None and options.get("apart"):
            return
        given = {key: value for key, value in (("queue", queue), ("name", name)) if value is not UNSET}
        plan.refuse_ambiguous(args, given | (options or {}))

    # The options that few jobs have

    def _with_options(self, record: Record, options: dict[str, Any], job: Job) -> Job:
        details = record.detail()
        for option, value in options.items():
            if option in ("timeout", "retries", "unique"):
                getattr(self, f"_set_{option}")(details, value)
        self._set_due(record, options.get("delay"), options.get("run_at"))
        session = options.get("on_commit")
        if session is not None:
            return self._hang(record, session, job)
        stored = self._accept(record)
        return job if stored is record else view_of(stored, self._engine)

    def _set_timeout(self, details: Any, value: Any) -> None:
        if value is not None:
            check_timedelta("timeout", value)
        details.timeout = value or False

    def _set_retries(self, details: Any, value: Any) -> None:
        details.retries = to_retry("retries", value) or False

    def _set_unique(self, details: Any, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, str):
            raise InvalidOptionType(f"unique must be a text, not {value!r}")
        if not value:
            raise InvalidOption("unique must not be empty; leave it out where nothing has to be unique")
        if clean_name(value[:NAME_LIMIT]) != value[:NAME_LIMIT] or "\0" in value:
            raise InvalidOption(
                f"unique {value!r} has a character that cannot be stored (NUL or half a surrogate pair)"
            )
        details.unique = value

    def _set_due(self, record: Record, delay: Any, run_at: Any) -> None:
        if delay is not None and run_at is not None:
            raise InvalidOption("give either delay or run_at, not both")
        details = record.detail()
        if delay is not None:
            check_timedelta("delay", delay, zero=True, longest=LONGEST)
            seconds = delay.total_seconds()
        elif run_at is not None:
            seconds = self._seconds_until(run_at)
            details.run_at = self._in_utc(run_at)
        else:
            return
        if seconds > 0:
            details.due = record.enqueued + seconds

    def _in_utc(self, run_at: datetime) -> datetime:
        try:
            return run_at.astimezone(UTC)
        except OverflowError:
            raise InvalidOption(f"run_at must be a date that UTC has too, not {run_at!r}") from None

    def _seconds_until(self, run_at: Any) -> float:
        if not isinstance(run_at, datetime):
            raise InvalidOptionType(f"run_at must be a datetime, not {run_at!r}; for a pause use delay")
        if run_at.utcoffset() is None:
            raise InvalidOption(f"run_at must be aware, for example datetime.now(UTC) + …, not the naive {run_at!r}")
        return run_at.timestamp() - self._clock.time()

    def due_of(self, record: Record) -> float:
        """When a delayed job is due, now that the wall clock was set."""
        details = record.detail()
        if details.run_at is None or details.held:
            return details.due or self._monotonic()
        return self._monotonic() + details.run_at.timestamp() - self._clock.time()

    def _hang(self, record: Record, session: Any, job: Job) -> Job:
        self._refuse_unique(record)
        self._reserve()
        record.detail().stored = None
        hang(session, record, deliver=self._accept_committed, drop=self._drop)
        return job

    def _refuse_unique(self, record: Record) -> None:
        if record.detail().unique is not None:
            raise InvalidOption("unique cannot go with on_commit: before the commit there is nothing to compare with")
