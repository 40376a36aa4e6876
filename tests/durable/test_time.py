"""What a clock that is set, and a fleet that ticks together, must not do to jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import Jobs, JobState
from asgi_jobs.testing import FakeClock
from tests.durable.fleet import worker
from tests.durable.server import Server, until
from tests.durable.worker import Stage, declare, hurried

pytestmark = pytest.mark.postgresql
Start = Callable[..., Any]
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url(await server.database())


def now(clock: FakeClock) -> datetime:
    return datetime.fromtimestamp(clock.time(), UTC)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clock_that_is_set_makes_no_duration_negative_and_no_record_old(
    jump: timedelta, tmp_path: Path, stage: Stage
) -> None:
    clock = FakeClock()
    jobs = Jobs(store=f"sqlite+aiosqlite:///{tmp_path}/jobs.db", clock=clock, retention=timedelta(minutes=30))
    tasks = declare(jobs, stage)
    async with jobs:
        before = await jobs.enqueue(tasks["note"], "before")
        await before.wait()
        across = await jobs.enqueue(tasks["hold"], "across")
        await stage.hears("began", "across")
        clock.set_wall(now(clock) + jump)
        await clock.advance(timedelta(seconds=10))  # what looks at the time has looked
        stage.gates["across"].set()
        await across.wait()
        after = await jobs.enqueue(tasks["note"], "after")
        await after.wait()
        await clock.advance(timedelta(minutes=10))  # twice a cleanup
        for job in (before, across, after):
            kept = await jobs.get(job.id)
            assert kept.started_at is not None
            assert kept.finished_at is not None
            assert kept.enqueued_at <= kept.started_at <= kept.finished_at


async def test_a_clock_that_is_set_forward_lets_no_record_go_before_it_is_old(tmp_path: Path, stage: Stage) -> None:
    clock, minute = FakeClock(), timedelta(minutes=1)
    store, kept_for = f"sqlite+aiosqlite:///{tmp_path}/jobs.db", timedelta(minutes=30)
    jobs = Jobs(store=store, clock=clock, retention=kept_for, cleanup_interval=minute)
    tasks = declare(jobs, stage)
    async with jobs:
        old = await jobs.enqueue(tasks["note"], "old")
        await old.wait()
        await clock.advance(timedelta(minutes=25))
        fresh = await jobs.enqueue(tasks["note"], "fresh")
        await fresh.wait()
        set_to = now(clock) + HOUR
        clock.set_wall(set_to)

        async def is_noticed() -> bool:
            await clock.advance(timedelta(seconds=2))
            return (await jobs.enqueue(tasks["note"], "what time is it?")).enqueued_at >= set_to

        async def is_gone() -> bool:
            await clock.advance(minute)
            return old.id not in await ids()

        async def ids() -> list[str]:
            return [job.id for job in await jobs.find(limit=200)]

        await until(is_noticed)
        await until(is_gone)
        assert fresh.id in await ids()


async def test_a_delayed_job_keeps_its_hour_when_the_clock_is_set(tmp_path: Path, stage: Stage) -> None:
    clock = FakeClock()
    jobs = Jobs(store=f"sqlite+aiosqlite:///{tmp_path}/jobs.db", clock=clock)
    tasks = declare(jobs, stage)
    async with jobs:
        job = await jobs.using(run_at=now(clock) + HOUR).enqueue(tasks["note"], "at that hour")
        set_to = now(clock) + HOUR
        clock.set_wall(set_to)

        async def has_run() -> bool:
            await clock.advance(timedelta(seconds=5))
            await job.refresh()
            return job.state is JobState.SUCCEEDED

        await until(has_run)
        assert now(clock) < set_to + timedelta(minutes=30)


@pytest.mark.processes
async def test_a_schedule_runs_once_for_each_tick_in_the_whole_fleet(store: str) -> None:
    stage, ticks = Stage(), 3
    async with AsyncExitStack() as stack:
        for _ in range(3):
            jobs = hurried(Jobs(store=store))

            async def tick() -> None:
                stage.say("tick", "now")

            jobs.task(key="tick", every=timedelta(seconds=1), start_after=timedelta(seconds=1))(tick)
            await stack.enter_async_context(jobs)
        await stage.hears("tick", "now", times=ticks)
        found = await jobs.find(task="tick")
    moments = sorted(job.enqueued_at for job in found)
    assert all(after - before > timedelta(seconds=0.5) for before, after in pairwise(moments)), moments


@pytest.mark.processes
async def test_a_queue_of_several_slots_keeps_to_them_while_its_processes_are_killed(store: str, start: Start) -> None:
    slots = {"n": 3}
    jobs, tasks = await start(store, concurrency=0, queues=slots)
    texts = [f"{number}" for number in range(8)]
    for text in texts:
        await jobs.using(queue="n").enqueue(tasks["hold"], text)
    async with worker(store, queues=slots) as first, worker(store, queues=slots) as second:
        await until(lambda: len(first.texts("began") + second.texts("began")) >= 3)
        assert sorted(first.texts("began") + second.texts("began")) == texts[:3]
        victim, other = (first, second) if first.texts("began") else (second, first)
        cut_off = victim.texts("began")
        victim.kill()
        for text in cut_off:
            await other.hears("began", text)
        assert len(set(other.texts("began"))) == 3, "the slots of the dead one are theirs that it ran"
        for text in texts:
            await other.hears("began", text)
            running = [one for one in other.texts("began") if one not in other.texts("ended")]
            assert len(running) <= 3
            other.open(text)
        await jobs.join()
        assert sorted(other.texts("ended")) == texts
        started = list(dict.fromkeys(other.texts("began")))
        assert started[3:] == texts[3:], "they start in order"
    assert (await jobs.counts())[JobState.SUCCEEDED] == len(texts)
