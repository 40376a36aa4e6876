"""Declared tasks, their policy, and the arithmetic of retries."""

from __future__ import annotations

import asyncio
import random
import statistics
from datetime import timedelta
from typing import Any

import pytest

from asgi_jobs import (
    InvalidCall,
    InvalidOption,
    InvalidOptionType,
    Jobs,
    JobsError,
    NeedsArguments,
    NotRunning,
    Retry,
    Task,
    TaskNotFound,
)
from asgi_jobs.task import to_retry

SECOND = timedelta(seconds=1)


# Retry


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (Retry(9, jitter=0), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
        (Retry(9, jitter=0, base=10 * SECOND, factor=3, cap=100 * SECOND), [10, 30, 90, 100, 100]),
        (Retry(9, jitter=0, factor=1), [1, 1, 1]),
        (Retry(9, jitter=0, base=timedelta(0)), [0, 0, 0]),
        (Retry(9, jitter=0, base=10 * SECOND, cap=5 * SECOND), [5, 5]),
    ],
)
def test_the_pause_grows_by_the_factor_up_to_the_cap(policy: Retry, pauses: list[float]) -> None:
    assert [policy.pause(n) for n in range(1, len(pauses) + 1)] == pauses


def test_a_huge_number_of_failures_is_the_cap_and_no_overflow() -> None:
    assert Retry(10**6, jitter=0).pause(10**6) == 300
    assert Retry(10**6, jitter=0, factor=1e300).pause(10) == 300


def test_jitter_spreads_the_pauses_around_what_they_were() -> None:
    random.seed(1)
    pauses = [Retry(1, base=100 * SECOND, jitter=0.25).pause(1) for _ in range(2_000)]
    assert 75 <= min(pauses) < 80
    assert 120 < max(pauses) <= 125
    assert statistics.mean(pauses) == pytest.approx(100, abs=1)


def test_a_decision_is_a_pause_or_none() -> None:
    policy = Retry(2, jitter=0, on=(OSError,))
    assert [policy.decide(n, OSError()) for n in (1, 2, 3)] == [1, 2, None]
    assert policy.decide(1, ValueError()) is None
    assert policy.decide(1, ConnectionError()) == 1
    assert policy.decide(1, None) is None


def test_one_exception_class_will_do_for_on() -> None:
    assert Retry(1, on=OSError).on == (OSError,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": -1},
        {"times": 1.5},
        {"times": True},
        {"times": "3"},
        {"times": 1, "base": 1},
        {"times": 1, "base": -SECOND},
        {"times": 1, "cap": None},
        {"times": 1, "factor": 0.5},
        {"times": 1, "factor": float("inf")},
        {"times": 1, "factor": float("nan")},
        {"times": 1, "factor": "2"},
        {"times": 1, "jitter": -0.1},
        {"times": 1, "jitter": 1.1},
        {"times": 1, "jitter": float("nan")},
        {"times": 1, "on": (1,)},
        {"times": 1, "on": ValueError("x")},
        {"times": 1, "on": (int,)},
    ],
)
def test_a_retry_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(JobsError) as caught:
        Retry(**wrong)
    assert isinstance(caught.value, InvalidOption | InvalidOptionType)


def test_retries_as_a_number() -> None:
    assert to_retry("retries", 3) == Retry(3)
    assert to_retry("retries", 0) is None
    assert to_retry("retries", None) is None
    assert to_retry("retries", Retry(2)) == Retry(2)
    for wrong in (True, 1.0, "3", -1):
        with pytest.raises((InvalidOption, InvalidOptionType), match="retries"):
            to_retry("retries", wrong)  # type: ignore[arg-type]


# Tasks


async def test_a_task_is_still_an_ordinary_function(jobs: Jobs) -> None:
    @jobs.task
    async def double(n: int) -> int:
        """Twice as much.

        And more.
        """
        return 2 * n

    assert isinstance(double, Task)
    assert await double(2) == 4
    assert (double.__name__, double.__module__) == ("double", __name__)
    assert double.__doc__ is not None
    assert double.__doc__.startswith("Twice")
    assert double.key == f"{__name__}:{double.__qualname__}"
    assert await double.enqueue(3).result() == 6
    assert await jobs.enqueue(double, 4).result() == 8
    info = (await jobs.tasks())[0]
    assert (info.task, info.description, info.needs_arguments) == (double.key, "Twice as much.", True)
    assert double.key in repr(double)


async def test_a_tasks_policy_holds_for_all_its_jobs_unless_overruled(jobs: Jobs) -> None:
    @jobs.task(queue="reports", retries=3, timeout=SECOND)
    async def report() -> None: ...

    for job in (report.enqueue(), jobs.enqueue(report)):
        assert (job.queue, job.retries, job.timeout) == ("reports", 3, SECOND)
    job = report.enqueue(queue="other", retries=1, timeout=2 * SECOND, name="mine")
    assert (job.queue, job.retries, job.timeout, job.name) == ("other", 1, 2 * SECOND, "mine")
    job = report.enqueue(queue=None, retries=0, timeout=None)
    assert (job.queue, job.retries, job.timeout) == (None, 0, None)
    await jobs.join()


async def test_using_gives_options_apart_from_arguments(jobs: Jobs) -> None:
    @jobs.task
    async def greet(name: str, queue: str = "") -> str:
        return f"{name} {queue}"

    job = greet.using(name="the job", queue="q").enqueue(name="Ada", queue="argument")
    assert (job.name, job.queue) == ("the job", "q")
    assert await job.result() == "Ada argument"


async def test_a_key_of_ones_own(jobs: Jobs) -> None:
    @jobs.task(key="nightly")
    async def work() -> None: ...

    assert work.enqueue().task == "nightly"
    with pytest.raises(InvalidOption, match="nightly"):

        @jobs.task(key="nightly")
        async def other() -> None: ...


@pytest.mark.parametrize(
    "policy",
    [
        {"queue": ""},
        {"queue": 5},
        {"retries": -1},
        {"retries": "3"},
        {"timeout": 5},
        {"timeout": timedelta(0)},
        {"every": 5},
        {"every": timedelta(0)},
        {"every": SECOND, "cron": "* * * * *"},
        {"cron": "nonsense"},
        {"cron": "* * * * *", "timezone": "Mars/Olympus"},
        {"start_after": SECOND},
        {"timezone": "UTC"},
        {"key": ""},
        {"key": 5},
        {"atomic": True},
        {"keep_result": "yes"},
        {"unknown": 1},
    ],
)
async def test_a_policy_that_cannot_work_is_refused_and_nothing_declared(jobs: Jobs, policy: dict[str, Any]) -> None:
    async def work() -> None: ...

    with pytest.raises(JobsError) as caught:
        jobs.task(**policy)(work)
    assert isinstance(caught.value, ValueError | TypeError)
    assert await jobs.tasks() == []


async def test_a_scheduled_task_must_not_need_arguments(jobs: Jobs) -> None:
    async def work(month: str, year: int = 2026) -> None: ...

    with pytest.raises(InvalidOption, match="month"):
        jobs.task(every=SECOND)(work)


async def test_a_task_of_another_engine_is_refused(jobs: Jobs) -> None:
    async with Jobs(authorize="local") as others:

        @others.task
        async def theirs() -> None: ...

        with pytest.raises(InvalidCall, match="another Jobs"):
            jobs.enqueue(theirs)


async def test_a_task_may_be_declared_before_the_start_and_enqueued_after_it() -> None:
    jobs = Jobs(authorize="local")

    @jobs.task
    def in_a_thread() -> int:
        return 1

    with pytest.raises(NotRunning):
        in_a_thread.enqueue()
    async with jobs:
        assert await in_a_thread.enqueue().result() == 1


async def test_run_task_runs_a_declared_task_now(jobs: Jobs) -> None:
    @jobs.task(queue="reports")
    async def report(month: str = "") -> None: ...

    @jobs.task
    async def needs(month: str) -> None: ...

    job = await jobs.run_task(report.key)
    assert (job.source, job.queue, job.task) == ("manual", "reports", report.key)
    with pytest.raises(NeedsArguments, match="month"):
        await jobs.run_task(needs.key)
    with pytest.raises(TaskNotFound, match="unknown"):
        await jobs.run_task("unknown")
    await asyncio.wait_for(jobs.join(), 5)
