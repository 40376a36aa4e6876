"""The record of a job, and the view of it that users hold."""

from __future__ import annotations

import asyncio
import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_jobs import Job, Jobs, JobState
from asgi_jobs.job import ALLOWED, LogLine, number_in
from asgi_jobs.testing import START, FakeClock, settle

SECOND = timedelta(seconds=1)


async def nothing() -> None:
    pass


def test_states_are_words() -> None:
    assert [str(state) for state in JobState] == ["scheduled", "queued", "running", "succeeded", "failed", "cancelled"]
    assert [state.finished for state in JobState] == [False, False, False, True, True, True]


def test_every_state_has_its_transitions_and_none_leads_back_to_itself() -> None:
    assert set(ALLOWED) == set(JobState)
    assert all(state not in after for state, after in ALLOWED.items())


def test_a_log_line_is_text_cut_at_1000_characters_that_knows_when() -> None:
    line = LogLine("x" * 2_000, START)
    assert (len(line), line.at) == (1_000, START)
    assert line == "x" * 1_000


async def test_a_new_job_tells_what_it_is(jobs: Jobs) -> None:
    before = datetime.now(UTC)
    job = jobs.enqueue(nothing)
    assert (job.name, job.queue, job.state, job.source, job.attempt) == ("nothing", None, "queued", "code", 0)
    assert job.task == f"{__name__}:nothing"
    assert (job.error, job.attempts, job.progress, job.log, job.log_count, job.waiting_at) == (
        None,
        [],
        None,
        [],
        0,
        None,
    )
    assert (job.run_at, job.started_at, job.finished_at, job.cancel_requested_at) == (None, None, None, None)
    assert (job.retries, job.retry_of, job.timeout, job.cancelling, job.held, job.uncommitted) == (
        0,
        None,
        None,
        False,
        False,
        False,
    )
    assert job.stored
    assert before - SECOND <= job.enqueued_at <= datetime.now(UTC) + SECOND
    assert job.enqueued_at.tzinfo is UTC
    await job.wait()
    assert job.attempt == 1


async def test_times_tell_how_long_it_waited_and_ran() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        gate, second_gate = asyncio.Event(), asyncio.Event()
        jobs.enqueue(gate.wait, queue="q")
        job = jobs.enqueue(second_gate.wait, queue="q")
        await clock.advance(5 * SECOND)
        assert (job.wait_time, job.run_time) == (5 * SECOND, None)
        gate.set()
        await clock.advance(3 * SECOND)
        assert (job.wait_time, job.run_time) == (5 * SECOND, 3 * SECOND)
        second_gate.set()
        await job.wait()
        await clock.advance(10 * SECOND)
        assert (job.wait_time, job.run_time) == (5 * SECOND, 3 * SECOND)
        assert (job.enqueued_at, job.started_at, job.finished_at) == (START, START + 5 * SECOND, START + 8 * SECOND)


async def test_a_delayed_job_waits_from_its_time_on() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        gate = asyncio.Event()
        jobs.enqueue(gate.wait, queue="q")
        job = jobs.enqueue(nothing, queue="q", delay=10 * SECOND)
        assert job.wait_time is None
        await clock.advance(15 * SECOND)
        assert job.wait_time == 5 * SECOND
        gate.set()


async def test_a_view_is_always_current(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing)
    assert job.state == "queued"
    await jobs.join()
    assert job.state == "succeeded"
    assert await job.refresh() is job


async def test_repr_says_which_job_it_is_and_how_it_stands(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing, queue="q", name="mine")
    assert repr(job) == f"<Job {job.id} 'mine' in 'q', queued>"
    await job.wait()
    assert repr(job) == f"<Job {job.id} 'mine' in 'q', succeeded>"
    assert repr(jobs.enqueue(nothing)).endswith("'nothing', queued>")


async def test_a_name_for_people_is_cut_at_500_and_cleaned(jobs: Jobs) -> None:
    assert len(jobs.enqueue(nothing, name="x" * 2_000).name) == 500
    assert jobs.enqueue(nothing, name="a\0b\ud800").name == "a�b?"
    assert jobs.enqueue(nothing, name="Grüße 🦊").name == "Grüße 🦊"


async def test_the_attributes_of_a_job_cannot_be_set(jobs: Jobs) -> None:
    job = jobs.enqueue(nothing)
    for name in ("state", "name", "queue", "id", "anything"):
        with pytest.raises(AttributeError):
            setattr(job, name, "x")


async def test_a_job_asked_to_stop_is_cancelling_until_it_has_ended(jobs: Jobs) -> None:
    async def slow_to_stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await settle(3)

    job: Job = jobs.enqueue(slow_to_stop)
    await settle()
    assert not job.cancelling
    await job.cancel()
    assert job.cancelling
    await job.wait()
    assert not job.cancelling


# Ids


@given(st.integers(min_value=1, max_value=2**60))
def test_the_number_of_an_id_is_found_again(number: int) -> None:
    assert number_in(f"0123456789{number:06x}", "0123456789") == number


@given(st.text(max_size=40))
def test_nonsense_has_no_number(text: str) -> None:
    found = number_in("0123456789" + text, "0123456789")
    assert found is None or f"{found:06x}" == text


@pytest.mark.parametrize("text", ["", "1", "00001", "0000001", "00000A", " 00001", "+00001", "0x0001", "00_001"])
def test_an_id_is_written_in_one_way_only(text: str) -> None:
    assert number_in("0123456789" + text, "0123456789") is None


async def test_ids_are_short_and_speakable(jobs: Jobs) -> None:
    id = jobs.enqueue(nothing).id
    assert len(id) == 16
    assert set(id) <= set(string.ascii_lowercase + string.digits)
