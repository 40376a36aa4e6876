"""What is public, and that two `Jobs` in one process never meet."""

import asyncio
import importlib
import inspect
import pkgutil
from datetime import timedelta
from types import FunctionType, ModuleType
from typing import Any

import pytest

import asgi_jobs
from asgi_jobs import (
    Event,
    InvalidCall,
    Job,
    JobNotFound,
    Jobs,
    JobsError,
    JobsMiddleware,
    JobState,
    NoCurrentJob,
    Retry,
    current_job,
    errors,
)

LONG = timedelta(seconds=8)
NAMED = [
    "AmbiguousArgument",
    "ArgumentsGone",
    "DeadlockError",
    "JobCancelled",
    "JobFailed",
    "JobNotFound",
    "JobsError",
    "NoCurrentJob",
    "NotRunning",
    "NotStored",
    "QueueFull",
    "RequestBound",
    "ResultNotKept",
    "ShuttingDown",
    "StoreLocked",
]
"""The exceptions that the documentation names."""


def test_what_is_public_is_sorted_and_there() -> None:
    assert asgi_jobs.__all__ == sorted(asgi_jobs.__all__)
    assert len(set(asgi_jobs.__all__)) == len(asgi_jobs.__all__)
    for name in asgi_jobs.__all__:
        assert hasattr(asgi_jobs, name), name
    public = {name for name, value in vars(asgi_jobs).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public == set(asgi_jobs.__all__)


def test_everything_needed_is_public() -> None:
    for thing in (Event, Job, JobState, Jobs, JobsMiddleware, Retry, current_job):
        assert thing.__name__ in asgi_jobs.__all__


@pytest.mark.parametrize("name", NAMED)
def test_every_exception_that_is_named_can_be_imported(name: str) -> None:
    exception = getattr(asgi_jobs, name)
    assert issubclass(exception, JobsError)
    assert name in asgi_jobs.__all__


def test_every_exception_is_public_has_the_base_and_says_what_to_do() -> None:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]
    assert found
    for exception in found:
        assert issubclass(exception, JobsError)
        assert exception.__name__ in asgi_jobs.__all__
        assert exception.__doc__
        assert len(exception.__doc__) > 30


def test_public_classes_and_functions_have_docstrings() -> None:
    for name in asgi_jobs.__all__:
        thing = getattr(asgi_jobs, name)
        assert inspect.getdoc(thing), name
        if not inspect.isclass(thing):
            continue
        for member, value in vars(thing).items():
            if member[0] != "_" and isinstance(value, FunctionType | property):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_the_package_is_typed() -> None:
    assert (importlib.resources.files("asgi_jobs") / "py.typed").is_file()


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(asgi_jobs.__path__, "asgi_jobs.")
    return [importlib.import_module(info.name) for info in found if not info.name.endswith("__main__")]


async def test_no_module_remembers_anything() -> None:
    """No registries: using a Jobs leaves no trace in any module."""
    before = {module.__name__: _state_of(module) for module in modules()}

    jobs = Jobs(authorize="local", queues={"limited": 2})

    @jobs.task(queue="tasks", every=timedelta(hours=1))
    async def task() -> int:
        return 1

    async with jobs:
        jobs.subscribe(lambda event: None)
        await jobs.enqueue(print, "").wait(LONG)
        await task.enqueue().wait(LONG)
        await jobs.pause("paused")
        jobs.enqueue(task, delay=timedelta(hours=1))
    assert {module.__name__: _state_of(module) for module in modules()} == before


def _state_of(module: ModuleType) -> dict[str, Any]:
    """Sizes and values of what a module could remember something in."""
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        if isinstance(value, dict | list | set):
            state[name] = len(value)
        elif isinstance(value, int | str | bool | float):
            state[name] = value
        elif inspect.isclass(value) and value.__module__ == module.__name__:
            own = {k: v for k, v in vars(value).items() if not k.startswith("__")}
            state[name] = {k: len(v) if isinstance(v, dict | list | set) else repr(v) for k, v in own.items()}
    return state


async def test_two_jobs_in_a_process_never_meet() -> None:
    seen: dict[str, list[Any]] = {"one": [], "two": []}

    async def work() -> None: ...

    async with Jobs(authorize="local") as one, Jobs(authorize="local") as two:
        one.subscribe(lambda event: seen["one"].append(event.job.id))
        two.subscribe(lambda event: seen["two"].append(event.job.id))
        await one.pause("q")
        first = one.enqueue(work, queue="q")
        second = await two.enqueue(work, queue="q").wait(LONG)
        assert (first.state, second.state) == (JobState.QUEUED, JobState.SUCCEEDED)
        assert [job.id for job in await one.find()] == [first.id]
        assert [job.id for job in await two.find()] == [second.id]
        with pytest.raises(JobNotFound):
            await two.get(first.id)
        with pytest.raises(JobNotFound):
            await two.cancel(first.id)
        assert (await one.counts())[JobState.SUCCEEDED] == 0
        assert [info.name for info in await two.queues()] == []
        await one.resume("q")
        await first.wait(LONG)
    assert set(seen["one"]) == {first.id}
    assert set(seen["two"]) == {second.id}


async def test_the_tasks_of_two_jobs_never_meet() -> None:
    one, two = Jobs(authorize="local"), Jobs(authorize="local")

    async def work() -> str:
        return "done"

    of_one, of_two = one.task(queue="a")(work), two.task(queue="b")(work)
    assert of_one.key == of_two.key
    async with one, two:
        assert of_one.enqueue().queue == "a"
        assert of_two.enqueue().queue == "b"
        with pytest.raises(InvalidCall, match="another Jobs"):
            one.enqueue(of_two)
        await one.join()
        await two.join()


async def test_a_job_of_one_may_wait_for_a_job_of_the_other() -> None:
    async def inner() -> int:
        return 7

    async with Jobs(authorize="local", concurrency=1) as one, Jobs(authorize="local", concurrency=1) as two:

        async def outer() -> int:
            return int(await two.enqueue(inner, queue="q").result(LONG))

        assert await one.enqueue(outer, queue="q").result(LONG) == 7


async def test_one_stops_while_the_other_runs() -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def hold() -> int:
        started.set()
        await go.wait()
        return 1

    async with Jobs(authorize="local") as one:
        async with Jobs(authorize="local"):
            job = one.enqueue(hold)
            await started.wait()
        assert job.state is JobState.RUNNING
        go.set()
        assert await job.result(LONG) == 1


def test_current_job_outside_a_job() -> None:
    with pytest.raises(NoCurrentJob, match="inside a job"):
        current_job()
