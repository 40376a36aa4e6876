"""Where a function runs: on the loop or in threads of the engine's own; and plans, which say how it is called."""

import asyncio
import functools
import gc
import threading
import types
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from dishka import Provider, Scope

from asgi_jobs import InvalidCall, Job, Jobs, JobState, Retry, current_job
from asgi_jobs.engine.scope import Scopes
from asgi_jobs.planner import Planner, task_key
from asgi_jobs.task import Policy
from asgi_jobs.testing import FakeClock, settle

LONG = timedelta(seconds=8)


async def plain(number: int = 0) -> int:
    return number


async def value_of(job: Job) -> Any:
    return await job.result(LONG)


@pytest.fixture
def planner() -> Planner:
    scopes = Scopes(session_factory=None, providers=(), container=None, max_sessions=1)
    return Planner(scopes, Policy())


class Gate:
    """Thread jobs that say when they have started and wait for leave to end."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.leave = threading.Event()
        self._arrived = threading.Condition()

    def work(self, name: Any = None) -> str:
        with self._arrived:
            self.started.append(name)
            self._arrived.notify_all()
        assert self.leave.wait(8)
        return threading.current_thread().name

    async def until(self, count: int) -> None:
        def wait() -> bool:
            with self._arrived:
                return self._arrived.wait_for(lambda: len(self.started) >= count, 8)

        assert await asyncio.to_thread(wait)


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.leave.set()


# Threads


async def test_sync_functions_run_in_daemon_threads_of_the_engines_own(jobs: Jobs) -> None:
    def work() -> tuple[str, bool, int]:
        thread = threading.current_thread()
        return thread.name, thread.daemon, threading.get_ident()

    name, daemon, ident = await value_of(jobs.enqueue(work))
    assert name.startswith("asgi_jobs-")
    assert daemon is True
    assert ident != threading.get_ident()


async def test_jobs_take_none_of_the_threads_that_request_handlers_use(gate: Gate) -> None:
    async with Jobs(authorize="local", threads=50) as jobs:
        for _ in range(50):
            jobs.enqueue(gate.work)
        await gate.until(50)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
        gate.leave.set()
        await jobs.join()


async def test_no_more_threads_run_than_allowed_and_the_rest_is_queued_not_running(gate: Gate) -> None:
    async with Jobs(authorize="local", threads=3) as jobs:
        several = [jobs.enqueue(gate.work, number) for number in range(5)]
        await gate.until(3)
        await settle()
        assert [job.state for job in several] == [JobState.RUNNING] * 3 + [JobState.QUEUED] * 2
        gate.leave.set()
        await jobs.join()
        assert sorted(gate.started[:3]) == [0, 1, 2]
        assert sorted(gate.started) == [0, 1, 2, 3, 4]
        assert len({await job.result() for job in several}) <= 3


async def test_async_jobs_do_not_wait_for_threads(gate: Gate) -> None:
    async with Jobs(authorize="local", threads=1) as jobs:
        first, second = jobs.enqueue(gate.work, 1), jobs.enqueue(gate.work, 2)
        await gate.until(1)
        assert await value_of(jobs.enqueue(plain, 7)) == 7
        assert (first.state, second.state) == (JobState.RUNNING, JobState.QUEUED)
        gate.leave.set()
        await jobs.join()


async def test_a_queue_keeps_its_order_with_sync_and_async_jobs_mixed() -> None:
    order: list[int] = []

    async def on_loop(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    def in_thread(number: int) -> None:
        order.append(number)

    async with Jobs(authorize="local", threads=1) as jobs:
        for number in range(40):
            jobs.enqueue(on_loop if number % 3 else in_thread, number, queue="q")
        await jobs.join()
    assert order == list(range(40))


async def test_sync_jobs_of_one_queue_never_overlap() -> None:
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    async with Jobs(authorize="local", threads=4) as jobs:
        for number in range(100):
            jobs.enqueue(work, queue=f"q{number % 2}" if number % 5 else "q0")
        await jobs.join()
        for _ in range(100):
            jobs.enqueue(work, queue="one")
        most.clear()
        await jobs.join()
    assert set(most) == {1}


async def test_threads_are_used_again_and_end_with_the_engine() -> None:
    names: set[str] = set()

    def work() -> None:
        names.add(threading.current_thread().name)

    jobs = Jobs(authorize="local")
    for _ in range(2):
        async with jobs:
            for _ in range(10):
                await jobs.enqueue(work).wait(LONG)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("asgi_jobs-")]
    assert len(names) <= 2


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration]
)
async def test_whatever_a_thread_job_raises_fails_the_job_and_nothing_else(
    jobs: Jobs, error: type[BaseException]
) -> None:
    def work() -> None:
        raise error("from the thread")

    job = await jobs.enqueue(work, queue="q").wait(LONG)
    assert job.state is JobState.FAILED
    assert job.error is not None
    # A StopIteration cannot be raised in a coroutine: Python makes a RuntimeError of it, with the cause shown.
    assert job.error.type in (error.__name__, "RuntimeError" if error is StopIteration else "")
    assert f"{error.__name__}: from the thread" in job.error.traceback
    assert "raise error(" in job.error.traceback
    assert await value_of(jobs.enqueue(lambda: 1, queue="q")) == 1


async def test_a_cancelled_error_of_a_thread_jobs_own_is_a_failure(jobs: Jobs) -> None:
    def work() -> None:
        raise asyncio.CancelledError("mine")

    job = await jobs.enqueue(work).wait(LONG)
    assert job.state is JobState.FAILED


async def test_retries_of_a_thread_job(jobs: Jobs) -> None:
    attempts: list[int] = []

    def work() -> int:
        attempts.append(current_job().job.attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return len(attempts)

    assert await value_of(jobs.enqueue(work, retries=Retry(2, base=timedelta(0)))) == 3
    assert attempts == [1, 2, 3]


async def test_a_thread_job_that_heeds_a_cancel_is_cancelled(jobs: Jobs, gate: Gate) -> None:
    def heed() -> str:
        gate.work()
        return "stopped" if current_job().cancelled else "went on"

    def ignore() -> str:
        gate.work()
        return "went on"

    heeding, ignoring = jobs.enqueue(heed), jobs.enqueue(ignore)
    await gate.until(2)
    await heeding.cancel()
    await ignoring.cancel()
    assert (heeding.cancelling, ignoring.cancelling) == (True, True)
    gate.leave.set()
    await jobs.join()
    assert heeding.state is JobState.CANCELLED
    assert ignoring.state is JobState.SUCCEEDED
    assert await ignoring.result() == "went on"


async def test_a_thread_job_that_has_timed_out_fails_whatever_it_returns(gate: Gate) -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(gate.work, timeout=timedelta(minutes=1))
        await gate.until(1)
        await clock.advance(timedelta(minutes=1))
        assert job.state is JobState.RUNNING
        gate.leave.set()
        await job.wait(LONG)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "TimeoutError"


async def test_a_thread_job_that_does_not_stop_does_not_hold_up_the_shutdown(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(5):
        async with Jobs(authorize="local", shutdown_timeout=timedelta(seconds=0.2)) as jobs:
            job = jobs.enqueue(gate.work)
            await gate.until(1)
    assert (job.state, jobs.status) == (JobState.RUNNING, "stopped")  # honest: its code has not ended
    assert "does not stop" in caplog.text
    gate.leave.set()
    await job.wait(LONG)
    assert job.state is JobState.SUCCEEDED


async def test_context_variables_set_in_a_thread_job_stay_there(jobs: Jobs) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="empty")

    def work(value: str) -> str:
        found = variable.get()
        variable.set(value)
        return found

    assert [await value_of(jobs.enqueue(work, value)) for value in "ab"] == ["empty", "empty"]


async def test_an_idle_thread_keeps_nothing_alive(jobs: Jobs) -> None:
    class Big:
        pass

    def work(big: Big) -> None:
        pass

    big = Big()
    gone = weakref.ref(big)
    await jobs.enqueue(work, big).wait(LONG)
    del big
    gc.collect()
    assert gone() is None


async def test_a_thread_can_enqueue_and_wait_for_jobs_through_the_loop(jobs: Jobs) -> None:
    loop = asyncio.get_running_loop()

    def work() -> int:
        job = jobs.enqueue(plain, 7)
        return int(asyncio.run_coroutine_threadsafe(job.result(LONG), loop).result(8))

    assert await value_of(jobs.enqueue(work)) == 7


# A sync function that gives an awaitable


async def test_what_a_sync_function_gives_is_awaited_on_the_loop(jobs: Jobs) -> None:
    async def inner() -> tuple[bool, str]:
        return asyncio.current_task() is not None, threading.current_thread().name

    class Waits:
        def __await__(self) -> Any:
            return inner().__await__()

    def function() -> Awaitable[tuple[bool, str]]:
        return inner()

    here = threading.current_thread().name
    for give in (lambda: inner(), function, partial(function), Waits):  # noqa: PLW0108
        assert await value_of(jobs.enqueue(give)) == (True, here)


async def test_a_lambda_whose_coroutine_fails_or_is_cancelled(jobs: Jobs) -> None:
    started = asyncio.Event()

    async def fail() -> None:
        raise LookupError("inside")

    async def hold() -> None:
        started.set()
        await asyncio.Event().wait()

    job = await jobs.enqueue(lambda: fail()).wait(LONG)  # noqa: PLW0108
    assert job.error is not None
    assert job.error.type == "LookupError"
    job = jobs.enqueue(lambda: hold())  # noqa: PLW0108
    await started.wait()
    await (await job.cancel()).wait(LONG)
    assert job.state is JobState.CANCELLED


async def test_a_cancel_while_a_thread_makes_the_coroutine_never_starts_it(jobs: Jobs, gate: Gate) -> None:
    ran = []

    async def inner() -> None:
        ran.append(1)

    def make() -> Any:
        gate.work()
        return inner()

    job = jobs.enqueue(make)
    await gate.until(1)
    await job.cancel()
    gate.leave.set()
    await job.wait(LONG)
    gc.collect()  # a coroutine that was never awaited would warn, and warnings are errors here
    assert job.state is JobState.CANCELLED
    assert ran == []


async def test_the_timeout_of_a_lambda_counts_for_its_coroutine() -> None:
    clock, started = FakeClock(), asyncio.Event()

    async def hold() -> None:
        started.set()
        await asyncio.Event().wait()

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(lambda: hold(), timeout=timedelta(minutes=1))  # noqa: PLW0108
        await started.wait()
        await clock.advance(timedelta(minutes=1))
        await job.wait(LONG)
    assert job.error is not None
    assert job.error.type == "TimeoutError"


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_cancel_at_any_moment_of_the_start_leaves_no_coroutine_behind(threaded: bool) -> None:
    class Service:
        pass

    async def work(service: Service) -> None:
        await asyncio.Event().wait()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Service)
    async with Jobs(authorize="local", providers=[provider]) as jobs:
        for turns in range(12):
            job = jobs.enqueue(lambda: work(Service())) if threaded else jobs.enqueue(work)
            await settle(turns)
            await job.cancel()
            await job.wait(LONG)
            assert job.state is JobState.CANCELLED
    gc.collect()


# Mocks, as in the tests of an application


async def test_mocks_can_be_enqueued(jobs: Jobs) -> None:
    asynchronous, sync = AsyncMock(return_value=1), MagicMock(return_value=2)
    assert await value_of(jobs.enqueue(asynchronous, 5, key="value")) == 1
    assert await value_of(jobs.enqueue(sync, 5)) == 2
    asynchronous.assert_awaited_once_with(5, key="value")
    sync.assert_called_once_with(5)


# Plans


def test_a_plan_is_made_once_for_one_code(planner: Planner) -> None:
    def make(number: int) -> Callable[[], int]:
        return lambda: number

    assert planner.plan(plain) is planner.plan(plain)
    assert planner.plan(make(1)) is planner.plan(make(2))
    assert planner.plan(partial(plain, 1)) is planner.plan(partial(plain, 2))
    assert planner.plan(partial(plain, 1)) is not planner.plan(plain)
    assert planner.plan([].append) is planner.plan([1].append)
    assert planner.plan(str.upper) is not planner.plan(str.lower)
    assert planner.plan("a".upper) is not planner.plan("a".lower)


def test_plans_of_methods_are_made_once_for_a_class(planner: Planner) -> None:
    class One:
        async def go(self) -> None: ...

        async def stay(self) -> None: ...

    assert planner.plan(One().go) is planner.plan(One().go)
    assert planner.plan(One().go) is not planner.plan(One().stay)


def test_decorated_methods_of_a_class_do_not_meet(planner: Planner) -> None:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class One:
        @decorate
        def go(self, a):  # type: ignore[no-untyped-def]
            pass

        @decorate
        def stay(self, a, b):  # type: ignore[no-untyped-def]
            pass

    one = One()
    assert planner.plan(one.go).highest == 1
    assert planner.plan(one.stay).highest == 2


def test_objects_that_wrap_functions_do_not_meet(planner: Planner) -> None:
    class Wrapper:
        def __init__(self, function: Any) -> None:
            functools.update_wrapper(self, function)
            self.function = function

        def __call__(self, *args: Any) -> Any:
            return self.function(*args)

    def one(a):  # type: ignore[no-untyped-def]
        pass

    def two(a, b):  # type: ignore[no-untyped-def]
        pass

    assert (planner.plan(Wrapper(one)).highest, planner.plan(Wrapper(two)).highest) == (1, 2)
    assert (planner.plan(functools.cache(one)).highest, planner.plan(functools.cache(two)).highest) == (1, 2)


def test_plans_are_not_kept_without_bound(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_jobs.planner.PLANS_KEPT", 20)
    for _ in range(100):
        namespace: dict[str, Any] = {}
        exec("def made(): pass", namespace)
        planner.plan(namespace["made"])
        assert len(planner.plans) <= 20


def test_a_plan_keeps_no_objects_alive(planner: Planner) -> None:
    class Big:
        def method(self) -> None: ...

        def __call__(self) -> None: ...

    bigs = [Big() for _ in range(4)]
    gone = [weakref.ref(big) for big in bigs]
    planner.plan(bigs[0].method)
    planner.plan(bigs[1])
    planner.plan(partial(plain, bigs[2]))  # type: ignore[arg-type]
    planner.plan(lambda big=bigs[3]: big)
    del bigs
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4


def test_labels_and_keys_are_what_people_call_the_function(planner: Planner) -> None:
    class Local:
        def method(self) -> None: ...

        def __call__(self) -> None: ...

    def inner() -> None: ...

    assert planner.plan(plain).label == "plain"
    assert planner.plan(plain).key == f"{__name__}:plain"
    assert planner.plan(partial(plain, 1)).label == "plain"
    assert planner.plan(inner).label == "inner"
    assert planner.plan(Local().method).label == "Local.method"
    assert planner.plan(Local()).label == "Local"
    assert planner.plan(lambda: None).label == "<lambda>"
    assert planner.plan(print).label == "print"
    assert planner.plan(print).key == "builtins:print"


def test_the_key_of_a_function_of_main_has_its_import_name(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)

    def function() -> None: ...

    function.__module__, function.__qualname__ = "__main__", "function"
    main.__spec__ = types.SimpleNamespace(name="package.module")  # type: ignore[assignment]
    assert task_key(function) == "package.module:function"
    main.__spec__ = types.SimpleNamespace(name="package.__main__")  # type: ignore[assignment]
    assert task_key(function) == "package:function"
    main.__spec__, main.__file__ = None, "/srv/app/script.py"
    assert task_key(function) == "script:function"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2, 3), {}),
        ((1, 2, 3, 4), {}),
        ((1,), {"b": 2}),
        ((1,), {"c": 2}),
        ((1,), {"a": 2}),
        ((), {"a": 1}),
        ((), {"b": 1}),
        ((1,), {"d": 2}),
        ((1, 2), {"b": 1}),
    ],
)
def test_the_quick_check_of_a_call_agrees_with_pythons(
    planner: Planner, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    def one(a, b=0, *, c=0): ...  # type: ignore[no-untyped-def]

    def two(a, /, b=0): ...  # type: ignore[no-untyped-def]

    def three(a, *, b, c=0): ...  # type: ignore[no-untyped-def]

    def four(*args, a=0): ...  # type: ignore[no-untyped-def]

    def five(a, **kwargs): ...  # type: ignore[no-untyped-def]

    def six(a=0, b=0, c=0): ...  # type: ignore[no-untyped-def]

    for function in (one, two, three, four, five, six):
        plan = planner.plan(function)
        try:
            function(*args, **kwargs)
        except TypeError:
            with pytest.raises(InvalidCall, match=function.__name__):
                plan.bind(args, kwargs)
        else:
            plan.bind(args, kwargs)
