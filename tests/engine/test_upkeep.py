"""What happens by itself while time passes, on a clock that moves only when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asgi_jobs import Job, JobNotFound, Jobs, JobState, QueueFull, TaskInfo
from asgi_jobs.engine.upkeep import Alarm
from asgi_jobs.testing import START, FakeClock, settle

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def jobs(clock: FakeClock) -> AsyncIterator[Jobs]:
    async with Jobs(authorize="local", clock=clock) as started:
        yield started


async def nothing() -> None:
    pass


async def the(jobs: Jobs, key: str) -> TaskInfo:
    return next(info for info in await jobs.tasks() if info.task.endswith(key))


# Delay


async def test_a_delayed_job_starts_when_its_time_has_come(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(nothing, delay=MINUTE)
    assert (job.state, job.run_at) == ("scheduled", START + MINUTE)
    await clock.advance(59 * SECOND)
    assert job.state == "scheduled"
    await clock.advance(SECOND)
    assert job.state == "succeeded"
    assert job.started_at == START + MINUTE


async def test_run_at_is_the_date_that_was_asked_for(jobs: Jobs, clock: FakeClock) -> None:
    berlin = datetime.fromisoformat("2026-01-01T03:30:00+02:00")
    job = jobs.enqueue(nothing, run_at=berlin)
    assert job.run_at == berlin
    assert job.run_at.tzinfo is UTC
    await clock.advance(timedelta(minutes=89))
    assert job.state == "scheduled"
    await clock.advance(MINUTE)
    assert job.state == "succeeded"


@pytest.mark.parametrize("options", [{"delay": timedelta(0)}, {"run_at": START - HOUR}, {"run_at": START}])
async def test_a_time_that_is_past_already_means_now(jobs: Jobs, options: dict[str, Any]) -> None:
    job = jobs.enqueue(nothing, **options)
    assert job.state == "queued"
    await settle()
    assert job.state == "succeeded"


async def test_a_delayed_job_blocks_nobody_and_stands_at_the_end_when_due(jobs: Jobs, clock: FakeClock) -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async def work(name: str) -> None:
        order.append(name)
        await gate.wait()

    jobs.enqueue(work, "delayed", queue="q", delay=MINUTE)
    for name in ("first", "second"):
        jobs.enqueue(work, name, queue="q")
    await clock.advance(2 * MINUTE)
    jobs.enqueue(work, "last", queue="q")
    gate.set()
    await jobs.join()
    assert order == ["first", "second", "delayed", "last"]


async def test_a_shorter_delay_that_comes_later_is_not_overslept(jobs: Jobs, clock: FakeClock) -> None:
    long = jobs.enqueue(nothing, delay=HOUR)
    await clock.advance(SECOND)
    short = jobs.enqueue(nothing, delay=2 * SECOND)
    await clock.advance(2 * SECOND)
    assert (long.state, short.state) == ("scheduled", "succeeded")


async def test_a_thousand_delayed_jobs_of_one_time_start_in_order(jobs: Jobs, clock: FakeClock) -> None:
    order: list[int] = []

    async def work(n: int) -> None:
        order.append(n)

    for n in range(1_000):
        jobs.enqueue(work, n, delay=MINUTE, queue="q")
    await clock.advance(MINUTE)
    await jobs.join()
    assert order == list(range(1_000))


# The wall clock is set (B32)


async def test_a_job_with_a_date_follows_the_wall_clock_forward(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(nothing, run_at=START + HOUR)
    clock.set_wall(START + timedelta(minutes=59))
    await clock.advance(timedelta(seconds=50))
    assert job.state == "scheduled"
    await clock.advance(timedelta(seconds=15))
    assert job.state == "succeeded"


async def test_a_job_with_a_date_follows_the_wall_clock_backward(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(nothing, run_at=START + HOUR)
    clock.set_wall(START - HOUR)
    await clock.advance(timedelta(minutes=119))
    assert job.state == "scheduled"
    await clock.advance(timedelta(minutes=2))
    assert job.state == "succeeded"


async def test_a_job_with_a_delay_does_not_care_about_the_wall_clock(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(nothing, delay=HOUR)
    clock.set_wall(START + 5 * HOUR)
    await clock.advance(timedelta(minutes=59))
    assert job.state == "scheduled"
    clock.set_wall(START - 5 * HOUR)
    await clock.advance(MINUTE)
    assert job.state == "succeeded"


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_no_duration_is_negative_when_the_clock_jumps(jobs: Jobs, clock: FakeClock, jump: timedelta) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    behind = jobs.enqueue(nothing, queue="q")
    await clock.advance(5 * SECOND)
    clock.set_wall(START + jump)
    await clock.advance(10 * SECOND)
    (info,) = await jobs.queues()
    assert info.oldest_wait == pytest.approx(15)
    gate.set()
    await jobs.join()
    for job, wait, run in ((running, 0, 15), (behind, 15, 0)):
        assert job.wait_time is not None
        assert job.wait_time.total_seconds() == pytest.approx(wait)
        assert job.run_time is not None
        assert job.run_time.total_seconds() == pytest.approx(run)
        assert job.started_at is not None
        assert job.finished_at is not None
        assert job.enqueued_at <= job.started_at <= job.finished_at


async def test_a_clock_that_jumps_ahead_cleans_nothing_up_early(jobs: Jobs, clock: FakeClock) -> None:
    job = await jobs.enqueue(nothing).wait()
    clock.set_wall(START + timedelta(days=1))
    await clock.advance(10 * MINUTE)
    assert (await jobs.get(job.id)).state == "succeeded"


async def test_jobs_enqueued_after_a_jump_have_dates_of_the_new_time(jobs: Jobs, clock: FakeClock) -> None:
    clock.set_wall(START + timedelta(days=1))
    await clock.advance(6 * SECOND)
    assert jobs.enqueue(nothing).enqueued_at == START + timedelta(days=1, seconds=6)


# Records go


async def test_finished_records_go_at_the_retention_time_and_others_never(jobs: Jobs, clock: FakeClock) -> None:
    gate = asyncio.Event()
    running = jobs.enqueue(gate.wait, queue="q")
    queued = jobs.enqueue(nothing, queue="q")
    delayed = jobs.enqueue(nothing, delay=timedelta(days=2))
    finished = await jobs.enqueue(nothing).wait()
    await clock.advance(timedelta(minutes=59))
    assert (await jobs.get(finished.id)).id == finished.id
    await clock.advance(timedelta(minutes=7))
    with pytest.raises(JobNotFound, match="kept for 1 hour"):
        await jobs.get(finished.id)
    await clock.advance(3 * HOUR)
    for job in (running, queued, delayed):
        assert (await jobs.get(job.id)).id == job.id
    gate.set()


async def test_cleanup_takes_bounded_steps_and_ends() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock, retention=MINUTE, cleanup_interval=HOUR) as jobs:
        for n in range(3_000):
            jobs.enqueue(nothing, queue=f"q{n % 50}")
        await jobs.join()
        assert sum((await jobs.counts()).values()) == 3_000
        await clock.advance(HOUR)
        assert sum((await jobs.counts()).values()) == 0


async def test_listing_while_records_go_skips_nothing_and_fails_never(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock, retention=MINUTE, cleanup_interval=MINUTE) as jobs:
        gate = asyncio.Event()
        kept: list[Job] = []
        for n in range(300):
            if n % 3 == 0:
                kept.append(jobs.enqueue(gate.wait, queue="q", name=str(n)))
            else:
                jobs.enqueue(nothing, name=str(n))
        await clock.advance(SECOND)
        seen: list[str] = []
        before = None
        while page := await jobs.find(limit=7, before=before):
            seen += [job.name for job in page]
            before = page[-1].id
            await clock.advance(10 * SECOND)
        names = [job.name for job in reversed(kept)]
        assert [name for name in seen if name in names] == names
        assert len(seen) == len(set(seen))
        gate.set()


# Schedules


async def test_every_runs_first_after_one_period_and_then_each_period(jobs: Jobs, clock: FakeClock) -> None:
    runs: list[datetime] = []

    @jobs.task(every=10 * MINUTE)
    async def tick() -> None:
        runs.append(jobs.now())

    await clock.advance(timedelta(minutes=9, seconds=59))
    assert runs == []
    await clock.advance(timedelta(minutes=25))
    assert runs == [START + 10 * MINUTE, START + 20 * MINUTE, START + 30 * MINUTE]
    info = await the(jobs, "tick")
    assert (info.next_run, info.last_run, info.skipped) == (START + 40 * MINUTE, START + 30 * MINUTE, 0)
    assert info.last_job is not None
    assert (info.last_job.source, info.last_job.state) == ("schedule", "succeeded")


async def test_start_after_says_when_the_first_run_comes(jobs: Jobs, clock: FakeClock) -> None:
    runs: list[datetime] = []

    @jobs.task(every=HOUR, start_after=MINUTE)
    async def tick() -> None:
        runs.append(jobs.now())

    await clock.advance(2 * HOUR)
    assert runs == [START + MINUTE, START + HOUR + MINUTE]


async def test_cron_runs_at_its_times(jobs: Jobs, clock: FakeClock) -> None:
    runs: list[datetime] = []

    @jobs.task(cron="*/15 * * * *")
    async def tick() -> None:
        runs.append(jobs.now())

    await clock.advance(timedelta(minutes=46))
    assert runs == [START + n * 15 * MINUTE for n in (1, 2, 3)]


async def test_missed_ticks_lead_to_one_run_on_return(clock: FakeClock) -> None:
    jobs = Jobs(authorize="local", clock=clock)
    runs: list[datetime] = []

    @jobs.task(every=10 * MINUTE)
    async def tick() -> None:
        runs.append(jobs.now())

    async with jobs:
        await clock.advance(11 * MINUTE)
    await clock.advance(timedelta(minutes=45))  # minute 56: four were missed
    async with jobs:
        await clock.advance(timedelta(0))
        assert runs == [START + 10 * MINUTE, START + 56 * MINUTE]
        await clock.advance(5 * MINUTE)
        assert runs[2:] == [START + 60 * MINUTE]  # counted from the tick, not from the start


async def test_a_tick_is_skipped_and_counted_while_the_last_run_is_unfinished(jobs: Jobs, clock: FakeClock) -> None:
    gate = asyncio.Event()
    runs = 0

    @jobs.task(every=10 * MINUTE)
    async def slow() -> None:
        nonlocal runs
        runs += 1
        await gate.wait()

    await clock.advance(35 * MINUTE)
    info = await the(jobs, "slow")
    assert (runs, info.skipped) == (1, 2)
    gate.set()
    await clock.advance(10 * MINUTE)
    info = await the(jobs, "slow")
    assert (runs, info.skipped) == (2, 2)


async def test_a_scheduled_run_follows_the_tasks_policy(jobs: Jobs, clock: FakeClock) -> None:
    @jobs.task(every=MINUTE, queue="reports", retries=2, timeout=HOUR)
    async def tick() -> None:
        pass

    await clock.advance(MINUTE)
    (job,) = await jobs.find()
    assert (job.queue, job.retries, job.timeout, job.source, job.task) == ("reports", 2, HOUR, "schedule", tick.key)


async def test_a_tick_without_room_is_made_up_for_when_there_is_some(clock: FakeClock) -> None:
    async with Jobs(authorize="local", clock=clock, max_queued=1) as jobs:
        runs = 0

        @jobs.task(every=MINUTE)
        async def tick() -> None:
            nonlocal runs
            runs += 1

        filling = jobs.enqueue(nothing, delay=timedelta(days=1))
        with pytest.raises(QueueFull):
            jobs.enqueue(nothing)
        await clock.advance(MINUTE + SECOND)
        assert runs == 0
        await filling.cancel()
        await clock.advance(10 * SECOND)
        assert runs == 1


async def test_a_schedule_follows_a_wall_clock_that_is_set_forward(jobs: Jobs, clock: FakeClock) -> None:
    runs: list[datetime] = []

    @jobs.task(cron="0 3 * * *")
    async def nightly() -> None:
        runs.append(jobs.now())

    clock.set_wall(START + timedelta(hours=3, minutes=1))
    await clock.advance(10 * SECOND)
    assert len(runs) == 1


async def test_a_schedule_does_not_tick_again_when_the_wall_clock_is_set_back(jobs: Jobs, clock: FakeClock) -> None:
    runs: list[datetime] = []

    @jobs.task(cron="30 * * * *")
    async def hourly() -> None:
        runs.append(jobs.now())

    await clock.advance(31 * MINUTE)
    clock.set_wall(START + 29 * MINUTE)
    await clock.advance(5 * MINUTE)
    assert len(runs) == 1
    await clock.advance(HOUR)
    assert len(runs) == 2


async def test_a_stop_proposes_nothing_any_more() -> None:
    clock = FakeClock()
    jobs = Jobs(authorize="local", clock=clock)
    runs = 0

    @jobs.task(every=MINUTE)
    async def tick() -> None:
        nonlocal runs
        runs += 1

    async with jobs:
        await clock.advance(MINUTE)
    await clock.advance(10 * MINUTE)
    assert runs == 1
    assert (await the(jobs, "tick")).next_run is None


async def test_a_chore_that_fails_is_logged_and_goes_on(
    jobs: Jobs, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(jobs._store, "prune", lambda *_: 1 / 0)
        await clock.advance(6 * MINUTE)
        assert "A chore of the engine failed" in caplog.text
    job = await jobs.enqueue(nothing).wait()
    await clock.advance(2 * HOUR)
    with pytest.raises(JobNotFound):
        await jobs.get(job.id)
    assert (await jobs.counts())[JobState.SUCCEEDED] == 0


# The alarm


async def test_an_alarm_wakes_at_its_time_or_when_it_rings(clock: FakeClock) -> None:
    alarm = Alarm(clock)
    timed = asyncio.create_task(alarm.sleep(60))
    await clock.advance(59 * SECOND)
    assert not timed.done()
    await clock.advance(SECOND)
    assert timed.done()
    rung = asyncio.create_task(alarm.sleep(None))
    await settle()
    assert not rung.done()
    alarm.ring()
    await asyncio.wait_for(rung, 5)


async def test_an_alarm_that_rang_before_the_sleep_wakes_at_once(clock: FakeClock) -> None:
    alarm = Alarm(clock)
    alarm.ring()
    await asyncio.wait_for(alarm.sleep(None), 5)
    second = asyncio.create_task(alarm.sleep(None))
    await settle()
    assert not second.done()  # the ring was used up
    alarm.ring()
    await second
