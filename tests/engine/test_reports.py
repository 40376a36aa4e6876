"""What running jobs say, and where they wait: told to the store at most once a second, and only what is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from asgi_jobs import Jobs, current_job
from asgi_jobs.engine import reports
from asgi_jobs.errors import StoreAway
from asgi_jobs.testing import FakeClock, settle
from tests.engine.durable import LaterStore, durable_jobs

SECOND = timedelta(seconds=1)
steps: dict[str, asyncio.Queue[str]] = {}


@pytest.fixture(autouse=True)
def clean() -> None:
    steps.clear()


async def work(name: str) -> None:
    """Do what is said, until that is an end."""
    queue = steps[name] = asyncio.Queue()
    while (step := await queue.get()) != "end":
        getattr(current_job(), step)(*((1,) if step == "progress" else ("a line",)))


@pytest.fixture
async def rig() -> AsyncIterator[tuple[Jobs, LaterStore, FakeClock]]:
    clock = FakeClock()
    jobs, store = durable_jobs(clock=clock, stuck_after=timedelta(seconds=5))
    jobs.task(work)
    async with jobs:
        yield jobs, store, clock
        for queue in steps.values():
            queue.put_nowait("end")
        await settle()


async def started(jobs: Jobs, *names: str) -> None:
    for name in names:
        await jobs.enqueue(work, name, name=name)
    while len(steps) < len(names):
        await asyncio.sleep(0)


async def test_what_a_job_says_is_told_once_within_a_second(rig: tuple[Jobs, LaterStore, FakeClock]) -> None:
    jobs, store, clock = rig
    await started(jobs, "a", "b")
    for step in ("progress", "progress", "log"):
        steps["a"].put_nowait(step)
    await clock.advance(SECOND)
    first = list(store.reports)
    await clock.advance(SECOND)
    steps["b"].put_nowait("log")
    await clock.advance(SECOND)

    assert first == [["a"]]
    assert store.reports == [["a"], ["b"]]


async def test_what_could_not_be_told_is_told_the_next_time(rig: tuple[Jobs, LaterStore, FakeClock]) -> None:
    jobs, store, clock = rig
    await started(jobs, "a")
    steps["a"].put_nowait("progress")
    store.fail("report", StoreAway("away"))
    await clock.advance(SECOND)
    early = list(store.reports)
    await clock.advance(SECOND)

    assert (early, store.reports) == ([], [["a"]])


async def test_where_a_long_running_job_waits_is_told_at_most_every_ten_seconds(
    rig: tuple[Jobs, LaterStore, FakeClock],
) -> None:
    jobs, store, clock = rig
    await started(jobs, "a")
    job = (await jobs.find())[0]
    await clock.advance(timedelta(seconds=4))
    early = list(store.reports), job.waiting_at
    await clock.advance(timedelta(seconds=12))

    assert early == ([], None)
    assert store.reports == [["a"], ["a"]]
    assert job.waiting_at is not None
    assert next(frame.function for frame in job.waiting_at.frames if frame.own) == "work"
    assert len(job.waiting_at.frames) <= reports.FRAMES
    assert job.waiting_at.at == jobs.now() - SECOND


async def test_the_applications_own_place_is_told_however_deep_in_libraries_it_waits(
    rig: tuple[Jobs, LaterStore, FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, _, clock = rig
    monkeypatch.setattr(reports, "FRAMES", 1)
    await started(jobs, "a")
    job = (await jobs.find())[0]
    await clock.advance(timedelta(seconds=6))

    assert job.waiting_at is not None
    assert [frame.function for frame in job.waiting_at.frames] == ["work"]


async def test_a_job_that_has_ended_waits_nowhere(rig: tuple[Jobs, LaterStore, FakeClock]) -> None:
    jobs, _, clock = rig
    await started(jobs, "a")
    job = (await jobs.find())[0]
    await clock.advance(timedelta(seconds=6))
    steps["a"].put_nowait("end")
    await settle()

    assert job.state.finished
    assert job.waiting_at is None
