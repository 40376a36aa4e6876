"""Time: the real one, the fake one for tests, and dates that never make a duration negative."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from asgi_jobs import Jobs, JobState
from asgi_jobs.clock import Clock, Epoch, in_words
from asgi_jobs.testing import START, FakeClock, settle

LONG = timedelta(seconds=8)
HOUR = timedelta(hours=1)


async def work() -> int:
    return 1


# The real one


def test_the_clock_is_the_systems() -> None:
    clock = Clock()
    assert abs(clock.time() - time.time()) < 1
    first, second = clock.monotonic(), clock.monotonic()
    assert first <= second
    assert abs(first - time.monotonic()) < 1


async def test_the_clock_calls_later_on_the_loop_and_can_be_called_off() -> None:
    called: list[int] = []
    done = asyncio.Event()
    off = Clock().call_later(0, called.append, 1)
    off.cancel()
    off.cancel()
    Clock().call_later(0, called.append, 2)
    Clock().call_later(0.001, done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert called == [2]


# The fake one


async def test_the_fake_clock_stands_still() -> None:
    clock = FakeClock()
    before = (clock.time(), clock.monotonic())
    await asyncio.sleep(0.002)
    assert (clock.time(), clock.monotonic()) == before
    assert datetime.fromtimestamp(clock.time(), UTC) == START
    at = datetime(2030, 5, 1, tzinfo=UTC)
    assert datetime.fromtimestamp(FakeClock(at).time(), UTC) == at


async def test_timers_go_off_at_their_time_and_in_their_order() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    called: list[tuple[str, float]] = []

    def note(name: str) -> None:
        called.append((name, clock.monotonic() - start))

    clock.call_later(30, note, "c")
    clock.call_later(10, note, "a")
    clock.call_later(10, note, "b")
    clock.call_later(90, note, "later")
    off = clock.call_later(20, note, "off")
    off.cancel()
    await clock.advance(timedelta(seconds=60))
    assert called == [("a", 10), ("b", 10), ("c", 30)]
    assert clock.monotonic() == start + 60
    await clock.advance(timedelta(seconds=30))
    assert called[-1] == ("later", 90)


async def test_what_a_timer_starts_happens_on_the_way() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    called: list[float] = []

    def again() -> None:
        called.append(clock.monotonic() - start)
        clock.call_later(10, again)

    clock.call_later(10, again)
    await clock.advance(timedelta(seconds=35))
    assert called == [10, 20, 30]


async def test_a_timer_of_no_or_negative_time_goes_off_with_the_next_advance() -> None:
    clock = FakeClock()
    called: list[int] = []
    start = clock.monotonic()
    clock.call_later(0, called.append, 1)
    clock.call_later(-5, called.append, 2)
    assert called == []
    await clock.advance(timedelta(0))
    assert sorted(called) == [1, 2]
    assert clock.monotonic() == start


async def test_the_wall_can_be_set_and_monotonic_time_does_not_notice() -> None:
    clock = FakeClock()
    before = clock.monotonic()
    clock.set_wall(START - HOUR)
    assert datetime.fromtimestamp(clock.time(), UTC) == START - HOUR
    assert clock.monotonic() == before
    await clock.advance(timedelta(minutes=1))
    assert datetime.fromtimestamp(clock.time(), UTC) == START - HOUR + timedelta(minutes=1)


async def test_settle_gives_what_is_ready_its_turn() -> None:
    steps: list[int] = []

    async def count() -> None:
        for number in range(5):
            steps.append(number)
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    await settle()
    assert steps == [0, 1, 2, 3, 4]
    await task


# Epochs


def test_an_epoch_turns_monotonic_time_into_dates() -> None:
    epoch = Epoch("prefix", 1_000_000_000.0)
    assert epoch.date(5.0) == datetime.fromtimestamp(1_000_000_005, UTC)
    assert epoch.date(5.0).tzinfo is UTC


# With a Jobs


@pytest.mark.parametrize("jump", [HOUR, -HOUR, timedelta(days=400), timedelta(days=-400)])
async def test_a_wall_that_jumps_makes_no_duration_negative_and_no_record_go_early(jump: timedelta) -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock, retention=HOUR, cleanup_interval=timedelta(minutes=1)) as jobs:
        before = await jobs.enqueue(work).wait(LONG)
        waiting = jobs.enqueue(work, delay=timedelta(minutes=10))
        enqueued_at = before.enqueued_at
        clock.set_wall(START + jump)
        await clock.advance(timedelta(minutes=5))
        after = await jobs.enqueue(work).wait(LONG)
        for job in (before, after):
            assert job.wait_time is not None
            assert job.run_time is not None
            assert job.wait_time >= timedelta(0)
            assert job.run_time >= timedelta(0)
            assert job.started_at is not None
            assert job.finished_at is not None
            assert job.enqueued_at <= job.started_at <= job.finished_at
        assert before.enqueued_at == enqueued_at  # as it was then
        assert abs(after.enqueued_at - (START + jump)) < timedelta(minutes=6)
        assert waiting.state is JobState.SCHEDULED
        assert (await jobs.get(before.id)).id == before.id
        await clock.advance(timedelta(minutes=5))
        assert waiting.state is JobState.SUCCEEDED  # a delay is a duration
        await clock.advance(timedelta(minutes=51))
        assert [job.id for job in await jobs.find()] == [after.id, waiting.id] or len(await jobs.find()) == 2


async def test_a_job_for_a_date_follows_the_wall() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        at = START + timedelta(hours=2)
        dated, delayed = jobs.enqueue(work, run_at=at), jobs.enqueue(work, delay=timedelta(hours=2))
        clock.set_wall(START + HOUR)
        await clock.advance(timedelta(minutes=59))
        assert dated.state is JobState.SCHEDULED
        await clock.advance(timedelta(minutes=1, seconds=10))
        assert (dated.state, dated.run_at) == (JobState.SUCCEEDED, at)
        assert delayed.state is JobState.SCHEDULED
        await clock.advance(HOUR)
        assert delayed.state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(days=2), "2 days"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(milliseconds=50), "0.05 seconds"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_a_length_of_time_is_said_in_the_largest_whole_unit(length: timedelta, said: str) -> None:
    assert in_words(length) == said
