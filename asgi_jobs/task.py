"""A declared function and its policy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

from asgi_jobs.errors import InvalidOption, InvalidOptionType

if TYPE_CHECKING:
    from asgi_jobs.call import Plan
    from asgi_jobs.codec import Codec
    from asgi_jobs.job import Job
    from asgi_jobs.schedule import Cron, Every

LONGEST = timedelta(days=36_525)
"""A century: what ends later may have no date that can be written."""
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed job is tried again, and after what pause.

    The pause before the n-th further attempt is `base * factor ** (n - 1)`, at most `cap`, made longer or
    shorter at random by up to `jitter` of itself, so that jobs that failed together do not return together
    (exponential back-off with jitter, as in the AWS Architecture Blog of 2015).

    Attributes:
        times: further attempts after the first.
        base: the first pause.
        factor: how much longer each next pause is; 1 is constant.
        cap: the longest pause.
        jitter: 0 to 1.
        on: the exceptions that are worth another attempt; others fail at once.
    """

    times: int
    base: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: float = 0.1
    on: tuple[type[BaseException], ...] = field(default=(Exception,))

    def __post_init__(self) -> None:
        _check_count("times", self.times)
        for name in ("base", "cap"):
            check_timedelta(f"Retry({name}=…)", getattr(self, name), zero=True, longest=LONGEST)
        if not isinstance(self.factor, (int, float)) or not (1 <= self.factor < math.inf):
            raise InvalidOption(f"Retry(factor=…) must be a number of 1 or more, not {self.factor!r}")
        if not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= 1:
            raise InvalidOption(f"Retry(jitter=…) must be a number from 0 to 1, not {self.jitter!r}")
        on = tuple(self.on) if isinstance(self.on, (tuple, list)) else (self.on,)
        if not on or not all(isinstance(one, type) and issubclass(one, BaseException) for one in on):
            raise InvalidOptionType(f"Retry(on=…) must be one or more exception classes, not {self.on!r}")
        object.__setattr__(self, "on", on)

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures (1 is the first)."""
        try:
            seconds = self.base.total_seconds() * self.factor ** (failures - 1)
        except OverflowError:
            seconds = math.inf
        seconds = min(seconds, self.cap.total_seconds())
        return seconds * random.uniform(1 - self.jitter, 1 + self.jitter)

    def decide(self, failures: int, error: BaseException | None) -> float | None:
        """The pause before the next attempt; None: no further one."""
        if failures > self.times or not isinstance(error, self.on):
            return None
        return self.pause(failures)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a task says about all of its jobs."""

    queue: str | None = None
    retries: Retry | None = None
    timeout: timedelta | None = None
    schedule: Every | Cron | None = None
    atomic: bool = False
    keep_result: bool = False


class Enqueuer(Protocol):
    """What a task needs of its `Jobs`."""

    def enqueue(self, func: Any, /, *args: Any, **kwargs: Any) -> Job: ...
    def using(self, **options: Any) -> Using: ...


class With(NamedTuple):
    """What `enqueue_with` enqueues: a function of a service, or the name of its method."""

    service: Any
    target: Any


class Using:
    """Options of `enqueue`, given apart from the function's arguments."""

    __slots__ = ("_enqueue", "_options")

    def __init__(self, enqueue: Callable[..., Job], options: dict[str, Any]) -> None:
        self._enqueue = enqueue
        self._options = options

    def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Enqueue the function: every argument here is the function's."""
        return self._enqueue(func, args, kwargs, self._options)

    def enqueue_with(self, service: Any, target: Any, /, *args: Any, **kwargs: Any) -> Job:
        """As `Jobs.enqueue_with`: every argument here is the function's."""
        return self._enqueue(With(service, target), args, kwargs, self._options)


class UsingTask:
    """Options of `enqueue` for one task."""

    __slots__ = ("_task", "_using")

    def __init__(self, task: Task[Any, Any], using: Using) -> None:
        self._task = task
        self._using = using

    def enqueue(self, *args: Any, **kwargs: Any) -> Job:
        """Enqueue the task: every argument here is the function's."""
        return self._using.enqueue(self._task, *args, **kwargs)


class Task(Generic[P, R]):
    """A function declared with `@jobs.task`: still an ordinary function, and it can be enqueued."""

    def __init__(self, function: Callable[P, R], plan: Plan, jobs: Enqueuer) -> None:
        self.function = function
        self.plan = plan
        self.jobs = jobs
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", plan.label)
        self.__qualname__ = getattr(function, "__qualname__", plan.label)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    @property
    def key(self) -> str:
        """What a durable store remembers: `module:qualname`, or the key that was declared."""
        return self.plan.key

    @property
    def policy(self) -> Policy:
        """The policy that was declared."""
        return self.plan.policy

    @cached_property
    def codec(self) -> Codec:
        """How a durable store writes its arguments and its value."""
        from asgi_jobs.codec import Codec  # pydantic is loaded only where something is stored

        return Codec(self.plan)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself; no job."""
        return self.function(*args, **kwargs)

    def enqueue(self, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a run of this task; options and errors as `Jobs.enqueue`."""
        return self.jobs.enqueue(self, *args, **kwargs)

    def using(self, **options: Any) -> UsingTask:
        """Give options apart from arguments: `task.using(name="…").enqueue(…)`."""
        return UsingTask(self, self.jobs.using(**options))

    def __repr__(self) -> str:
        return f"<Task {self.key}>"


def to_retry(option: str, value: int | Retry | None) -> Retry | None:
    """`retries=3` is short for `Retry(3)`; 0 and None: no further attempt."""
    if value is None or isinstance(value, Retry):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionType(f"{option} must be a number or a Retry, not {value!r}")
    _check_count(option, value)
    return Retry(value) if value else None


def check_timedelta(option: str, value: object, *, zero: bool = False, longest: timedelta = timedelta.max) -> None:
    """Refuse what is no positive timedelta."""
    if not isinstance(value, timedelta):
        raise InvalidOptionType(f"{option} must be a timedelta, for example timedelta(seconds=30), not {value!r}")
    if value < timedelta(0) or (not zero and not value):
        raise InvalidOption(f"{option} must be {'zero or more' if zero else 'more than zero'}, not {value}")
    if value > longest:
        raise InvalidOption(f"{option} must be at most {longest.days} days, not {value}: there is no such date")


def _check_count(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionType(f"{option} must be a whole number, not {value!r}")
    if value < 0:
        raise InvalidOption(f"{option} must be 0 or more, not {value}")
