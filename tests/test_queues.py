"""What is told of queues: who runs, who waits, what blocks them and where in the code that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from asgi_jobs import InvalidOption, InvalidOptionType, Jobs, QueueInfo, Retry, current_job
from asgi_jobs.testing import START, FakeClock, settle

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def jobs(clock: FakeClock) -> AsyncIterator[Jobs]:
    async with Jobs(authorize="local", clock=clock, queues={"wide": 2}) as started:
        yield started


async def nothing() -> None:
    pass


async def fails() -> None:
    raise ValueError("a bad day\nwith details")


async def the(jobs: Jobs, name: str) -> QueueInfo:
    return next(info for info in await jobs.queues() if info.name == name)


async def test_queues_lists_names_with_unfinished_jobs_paused_and_configured_ones_by_name(jobs: Jobs) -> None:
    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="b")
    await jobs.pause("a")
    jobs.enqueue(nothing, queue="used once")
    jobs.enqueue(gate.wait)
    await settle()
    assert [info.name for info in await jobs.queues()] == ["a", "b", "wide"]
    gate.set()
    await jobs.join()
    await jobs.resume("a")
    assert [info.name for info in await jobs.queues()] == ["wide"]


async def test_a_queue_tells_what_runs_and_waits_and_for_how_long(jobs: Jobs, clock: FakeClock) -> None:
    gate = asyncio.Event()
    holder = jobs.enqueue(gate.wait, queue="q")
    await clock.advance(5 * SECOND)
    for _ in range(3):
        jobs.enqueue(nothing, queue="q")
    await clock.advance(10 * SECOND)
    info = await the(jobs, "q")
    assert (info.limit, info.running, info.queued, info.oldest_wait) == (1, 1, 3, 10)
    assert (info.current, info.paused_since, info.last_error) == (holder.id, None, None)
    gate.set()


async def test_a_configured_queue_has_its_limit(jobs: Jobs) -> None:
    gate = asyncio.Event()
    made = [jobs.enqueue(gate.wait, queue="wide") for _ in range(3)]
    await settle()
    info = await the(jobs, "wide")
    assert (info.limit, info.running, info.queued, info.current) == (2, 2, 1, made[0].id)
    gate.set()


async def test_an_idle_queue_has_no_waits(jobs: Jobs) -> None:
    info = await the(jobs, "wide")
    assert (info.running, info.queued, info.oldest_wait, info.current, info.blocked_by) == (0, 0, None, None, None)


async def test_a_paused_queue_tells_since_when(jobs: Jobs, clock: FakeClock) -> None:
    await clock.advance(MINUTE)
    await jobs.pause("q")
    await clock.advance(MINUTE)
    assert (await the(jobs, "q")).paused_since == START + MINUTE


async def test_a_queue_is_blocked_when_its_head_has_waited_stuck_after(jobs: Jobs, clock: FakeClock) -> None:
    gate = asyncio.Event()

    async def waits_here() -> None:
        await gate.wait()

    holder = jobs.enqueue(waits_here, queue="q")
    await clock.advance(100 * SECOND)
    assert (await the(jobs, "q")).blocked_by is None  # nobody waits
    jobs.enqueue(nothing, queue="q")
    await clock.advance(59 * SECOND)
    info = await the(jobs, "q")
    assert (info.blocked_by, info.blocked_since, info.waiting_at) == (None, None, None)
    await clock.advance(2 * SECOND)
    info = await the(jobs, "q")
    assert (info.blocked_by, info.blocked_since) == (holder.id, START + 100 * SECOND)
    assert info.waiting_at is not None
    assert "test_queues.py" in info.waiting_at
    assert "waits_here" in info.waiting_at
    gate.set()


@pytest.mark.parametrize("sign", ["progress", "log"])
async def test_a_job_with_a_sign_of_life_blocks_nobody(jobs: Jobs, clock: FakeClock, sign: str) -> None:
    gate, speak = asyncio.Event(), asyncio.Event()

    async def alive() -> None:
        await speak.wait()
        if sign == "progress":
            current_job().progress(1, 2)
        else:
            current_job().log("still here")
        await gate.wait()

    holder = jobs.enqueue(alive, queue="q")
    jobs.enqueue(nothing, queue="q")
    await clock.advance(50 * SECOND)
    speak.set()
    await clock.advance(50 * SECOND)
    assert (await the(jobs, "q")).blocked_by is None
    await clock.advance(11 * SECOND)
    info = await the(jobs, "q")
    assert (info.blocked_by, info.blocked_since) == (holder.id, START + 50 * SECOND)
    gate.set()


async def test_a_paused_queue_and_one_with_a_free_slot_are_not_blocked(jobs: Jobs, clock: FakeClock) -> None:
    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="q")
    jobs.enqueue(nothing, queue="q")
    jobs.enqueue(gate.wait, queue="wide")
    await settle()
    await jobs.pause("q")
    await clock.advance(2 * MINUTE)
    assert {info.blocked_by for info in await jobs.queues()} == {None}
    gate.set()


async def test_a_job_between_two_attempts_blocks_its_queue(jobs: Jobs, clock: FakeClock) -> None:
    held = jobs.enqueue(fails, queue="q", retries=Retry(1, base=timedelta(hours=1), cap=timedelta(hours=1), jitter=0))
    jobs.enqueue(nothing, queue="q")
    await clock.advance(2 * MINUTE)
    info = await the(jobs, "q")
    assert (info.running, info.queued, info.current, info.blocked_by) == (0, 1, held.id, held.id)
    assert info.waiting_at is None
    await held.cancel()


async def test_the_last_error_is_one_line_of_a_record_still_kept(jobs: Jobs, clock: FakeClock) -> None:
    await jobs.pause("q")
    await jobs.resume("q")
    await jobs.enqueue(fails, queue="wide").wait()
    assert (await the(jobs, "wide")).last_error == "ValueError: a bad day"
    await jobs.enqueue(nothing, queue="wide").wait()
    assert (await the(jobs, "wide")).last_error == "ValueError: a bad day"
    await clock.advance(timedelta(hours=2))
    assert (await the(jobs, "wide")).last_error is None


# Names (B7)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 201, "x" * 10_000, "\ud800", "a\udfff"])
async def test_a_name_that_cannot_be_is_refused_with_a_clear_error(jobs: Jobs, name: str) -> None:
    with pytest.raises(InvalidOption, match="queue"):
        jobs.enqueue(nothing, queue=name)
    assert [info.name for info in await jobs.queues()] == ["wide"]


@pytest.mark.parametrize("name", [5, b"bytes", ["q"], True, 1.5])
async def test_a_name_that_is_no_text_is_refused(jobs: Jobs, name: object) -> None:
    with pytest.raises(InvalidOptionType, match="queue"):
        jobs.enqueue(nothing, queue=name)  # type: ignore[arg-type]


async def test_odd_names_are_accepted_and_never_meet(jobs: Jobs) -> None:
    odd = [
        *("a/b", "a", "b", "..", ".", "__proto__", "constructor", "None", "null", "é", "e\u0301", "🦊", "👨‍👩‍👧"),
        *("\u202eabc", "שלום", " ", "a ", " a", "A", "%00", "\\", "'", '"', "<b>", "{{7*7}}", "\n", "\t", "x" * 200),
    ]
    gate = asyncio.Event()
    made = [jobs.enqueue(gate.wait, queue=name) for name in odd]
    await settle()
    assert {job.state for job in made} == {"running"}  # none waits for another
    assert [job.queue for job in made] == odd
    assert {info.name for info in await jobs.queues()} == {*odd, "wide"}
    gate.set()
    await jobs.join()


async def test_a_name_that_is_a_text_of_another_class_is_the_same_queue(jobs: Jobs) -> None:
    class Name(str):
        __slots__ = ()

    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="q")
    behind = jobs.enqueue(nothing, queue=Name("q"))
    await settle()
    assert behind.state == "queued"
    gate.set()
