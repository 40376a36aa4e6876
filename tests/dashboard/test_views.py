"""A job and the time, turned into what a page says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asgi_jobs import Job, Jobs, JobState, Retry, current_job
from asgi_jobs.dashboard import traces, views
from asgi_jobs.dashboard.jobview import JobView, job_view
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.pulse import take
from asgi_jobs.dashboard.timeline import timeline
from asgi_jobs.dashboard.views import Code, Link, Parts, Strong
from asgi_jobs.dashboard.why import Around
from asgi_jobs.dashboard.words import Moment
from asgi_jobs.info import Place
from asgi_jobs.job import Attempt, JobError
from asgi_jobs.testing import FakeClock

LINKS = Links("/jobs")


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


SECOND = timedelta(seconds=1)


def said(parts: Parts) -> str:
    """Parts as they are read."""
    texts: list[str] = []
    for part in parts:
        match part:
            case str():
                texts.append(part)
            case Moment() | Link():
                texts.append(part.text)
            case Code():
                texts.append(part.code)
            case Strong():
                texts.append(said((part.strong,)))
    return "".join(texts)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def jobs(clock: FakeClock) -> AsyncIterator[Jobs]:
    async with Jobs(clock=clock) as jobs:
        yield jobs


def row(job: Job, jobs: Jobs) -> views.JobRow:
    return views.job_row(job, LINKS, jobs.now(), None, None)


def view(job: Job, jobs: Jobs, around: Around | None = None) -> JobView:
    return job_view(job, around or Around(retention="1 hour"), LINKS, jobs.now(), may_act=True)


async def fine() -> None: ...


async def broken() -> None:
    raise ValueError("\n  out of paper  \nand ink")


async def test_a_quiet_row_says_nothing_beyond_its_line(jobs: Jobs) -> None:
    job = jobs.enqueue(fine, queue="email", name="Receipt 7")
    await job.wait()
    shown = row(job, jobs)
    assert (shown.name, shown.short_task, shown.look.word, shown.note) == ("Receipt 7", "fine", "Succeeded", None)
    assert shown.queue == Link("email", "/jobs/jobs?queue=email")
    assert (shown.waited, shown.ran) == ("0 ms", "0 ms")


async def test_a_failed_row_says_the_error_in_one_line(jobs: Jobs) -> None:
    job = jobs.enqueue(broken)
    await job.wait()
    shown = row(job, jobs)
    assert shown.look.word == "Failed"
    assert shown.note is not None
    assert said(shown.note.parts) == "ValueError: out of paper"


async def test_a_wanted_delay_is_no_wait(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(fine, delay=timedelta(hours=2))
    shown = row(job, jobs)
    assert shown.look.word == "Scheduled"
    assert isinstance(shown.when, Moment)
    assert shown.when.text == "in 2 h"
    assert shown.waited == ""
    await clock.advance(timedelta(hours=2, seconds=1))
    await job.wait()
    assert row(job, jobs).waited == "0 ms"


async def test_a_running_row_ticks_and_tells_its_progress(jobs: Jobs, clock: FakeClock) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        current_job().progress(69, 100, "orders of Globex")
        started.set()
        await go.wait()

    job = jobs.enqueue(work)
    await started.wait()
    await clock.advance(timedelta(seconds=494))
    shown = row(job, jobs)
    assert shown.look.word == "Running"
    assert isinstance(shown.ran, Moment)
    assert (shown.ran.text, shown.ran.kind) == ("8 min 14 s", "up")
    assert shown.note is not None
    assert said(shown.note.parts) == "69 %, orders of Globex"
    go.set()


async def test_between_two_attempts_it_says_which_comes_when_and_why(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(broken, queue="email", retries=Retry(4, base=timedelta(seconds=40), jitter=0))
    await clock.advance(SECOND)
    shown = row(job, jobs)
    assert shown.look.word == "Retrying"
    assert isinstance(shown.when, Moment)
    assert shown.when.text in {"in 39 s", "in 40 s"}
    assert shown.note is not None
    assert said(shown.note.parts).startswith("2nd try of 5; ValueError")
    why = view(job, jobs).why
    assert why is not None
    assert said(why.parts).startswith("Its 2nd try of 5 begins in ")


async def test_the_timeline_tells_every_try(jobs: Jobs, clock: FakeClock) -> None:
    job = jobs.enqueue(broken, retries=Retry(2, base=timedelta(seconds=16), factor=2, jitter=0))
    await clock.advance(timedelta(minutes=2))
    await job.wait()
    steps = timeline(job, LINKS, jobs.now())
    assert [step.text for step in steps] == ["Enqueued by code", "1st try failed", "2nd try failed", "3rd try failed"]
    assert said(steps[1].note) == "after 0 ms: ValueError, next try 16.0 s later"
    assert said(steps[3].note) == "after 0 ms: ValueError, no tries left"


async def test_the_timeline_of_more_tries_than_are_kept_says_that_some_are_missing(
    jobs: Jobs, clock: FakeClock
) -> None:
    job = jobs.enqueue(broken, retries=Retry(13, base=SECOND, factor=1, jitter=0))
    await clock.advance(timedelta(minutes=2))
    await job.wait()
    texts = [step.text for step in timeline(job, LINKS, jobs.now())]
    assert texts[:3] == ["Enqueued by code", "4 earlier tries not kept", "5th try failed"]
    assert texts[-1] == "14th try failed"


async def test_the_timeline_of_a_job_that_never_started(jobs: Jobs) -> None:
    job = jobs.enqueue(fine, delay=timedelta(hours=1))
    await job.cancel("wrong file")
    steps = timeline(job, LINKS, jobs.now())
    assert sorted(step.text for step in steps) == ["Asked to stop", "Cancelled", "Enqueued by code"]
    shown = row(job, jobs)
    assert shown.note is not None
    assert said(shown.note.parts) == "Cancelled: wrong file"


async def test_a_finished_job_can_be_run_again_and_a_waiting_one_cancelled_after_a_question(jobs: Jobs) -> None:
    waiting = jobs.enqueue(fine, delay=timedelta(hours=1), name="Receipt 7")
    (cancel,) = view(waiting, jobs).actions
    assert (cancel.label, cancel.href, said(cancel.question)) == (
        "Cancel job…",
        f"/jobs/jobs/{waiting.id}/cancel",
        "Cancel Receipt 7? It has not started.",
    )
    await waiting.cancel()
    (again,) = view(waiting, jobs).actions
    assert (again.label, again.css, again.question) == ("Run again", "pri", ())


async def test_a_job_whose_arguments_are_gone_does_not_offer_to_run_again(jobs: Jobs, clock: FakeClock) -> None:
    job = await jobs.enqueue(fine).wait()
    assert not job.repeatable
    assert view(job, jobs).actions == ()


async def test_failures_alike_are_one_thing_and_the_newest_comes_first(jobs: Jobs, clock: FakeClock) -> None:
    async def another() -> None:
        raise KeyError("x")

    for function in (broken, another, broken):
        await jobs.enqueue(function).wait()
        await clock.advance(SECOND)
    harms = (await take(jobs)).harms
    assert [(harm.kind, len(harm.jobs)) for harm in harms] == [("failed", 2), ("failed", 1)]


async def test_trouble_comes_first_among_queues_then_pauses_then_the_longest_wait(jobs: Jobs, clock: FakeClock) -> None:
    go = asyncio.Event()
    started = [asyncio.Event() for _ in range(2)]

    async def hang(number: int) -> None:
        started[number].set()
        await go.wait()

    jobs.enqueue(hang, 0, queue="m-blocked")
    jobs.enqueue(fine, queue="m-blocked")
    await started[0].wait()
    await clock.advance(timedelta(seconds=50))
    jobs.enqueue(hang, 1, queue="a-waiting")
    jobs.enqueue(fine, queue="a-waiting")
    await started[1].wait()
    await jobs.pause("z-paused")
    await clock.advance(timedelta(seconds=20))
    names = [queue.name for queue in (await take(jobs)).queues]
    assert names == ["m-blocked", "z-paused", "a-waiting"]
    go.set()


async def test_a_job_blocks_a_queue_with_those_behind_it_counted(jobs: Jobs, clock: FakeClock) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await go.wait()

    job = jobs.enqueue(hang, queue="email")
    await started.wait()
    for _ in range(3):
        jobs.enqueue(fine, queue="email")
    await clock.advance(timedelta(seconds=192))
    pulse = await take(jobs)
    blocks = pulse.blocked(job)
    shown = views.job_row(job, LINKS, jobs.now(), None, blocks)
    assert shown.note is not None
    assert said(shown.note.parts).startswith("Blocks 3 jobs; waiting at ")
    notice = view(job, jobs, Around(blocks=blocks)).notice
    assert notice is not None
    assert said(notice.parts) == "It blocks queue email. 3 jobs wait behind it, the oldest for 3 min 12 s."
    go.set()


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/items.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield async_sessionmaker(engine)
    await engine.dispose()


async def test_changes_that_nobody_committed_are_said(sessions: async_sessionmaker[AsyncSession]) -> None:
    async def forgets(session: AsyncSession) -> None:
        session.add(Item())

    async with Jobs(session_factory=sessions) as jobs:
        job = jobs.enqueue(forgets)
        await job.wait()
        shown = row(job, jobs)
    assert job.state is JobState.SUCCEEDED
    assert shown.note is not None
    assert said(shown.note.parts) == "Changes were left uncommitted and rolled back"


async def test_a_job_that_waits_for_a_session_says_so(sessions: async_sessionmaker[AsyncSession]) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def holds(session: AsyncSession) -> None:
        started.set()
        await go.wait()

    async with Jobs(session_factory=sessions, max_sessions=1) as jobs:
        jobs.enqueue(holds)
        await started.wait()
        job = jobs.enqueue(holds)
        while not job.waiting_for_session:
            await asyncio.sleep(0)
        shown, notice = row(job, jobs), view(job, jobs).notice
        go.set()
    assert shown.note is not None
    assert said(shown.note.parts) == "Waits for a session"
    assert notice is not None
    assert said(notice.parts).startswith("It waits for a session.")


def test_of_a_traceback_the_applications_own_frames_are_shown_innermost_first() -> None:
    here = Path.cwd()
    text = f"""Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/httpcore/pool.py", line 124, in _connect
    stream = await connect()
httpcore.ConnectTimeout

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "{here}/shop/hooks.py", line 58, in deliver
    await post(client)
  File "{here}/shop/hooks.py", line 31, in post
    response = await client.post(url)
               ^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/site-packages/httpx/_client.py", line 1859, in post
    return await self.request("POST")
httpx.ConnectTimeout: no answer
"""
    frames = traces.own_frames(text)
    assert [(frame.at, frame.function, frame.code) for frame in frames] == [
        ("shop/hooks.py:31", "post", "response = await client.post(url)"),
        ("shop/hooks.py:58", "deliver", "await post(client)"),
    ]
    assert traces.count_frames(text) == 4


def test_a_checkout_with_the_packages_name_is_an_application_all_the_same() -> None:
    ours = Path(traces.__file__).parents[1]
    lines = [
        f'  File "{file}", line 1, in f\n    f()' for file in ("/home/ann/asgi_jobs/shop/a.py", ours / "engine/run.py")
    ]
    text = "\n".join(["Traceback (most recent call last):", *lines, "E"])
    assert [frame.at.endswith("shop/a.py:1") for frame in traces.own_frames(text)] == [True]


def test_where_no_frame_is_the_applications_the_place_of_the_error_is_shown() -> None:
    text = 'Traceback (most recent call last):\n  File "/x/site-packages/httpx/a.py", line 5, in get\n    raise E\nE'
    assert [frame.at for frame in traces.own_frames(text)] == ["httpx/a.py:5"]
    assert traces.own_frames("no traceback at all") == []


@pytest.mark.parametrize(
    ("prefix", "link"),
    [
        ("", "/jobs"),
        ("/a/b", "/a/b/jobs"),
        ("//evil", "/evil/jobs"),
        ("/\\evil", "/%5Cevil/jobs"),
        ("/a\r\nb", "/a%0D%0Ab/jobs"),
    ],
)
def test_links_begin_with_one_slash_whatever_the_prefix(prefix: str, link: str) -> None:
    assert Links.below({"root_path": prefix}).jobs() == link


def ended(start: datetime, error: JobError | None, number: int) -> Attempt:
    return Attempt(start + number * SECOND, start + (number + 0.5) * SECOND, error)


CUT_OFF = ["Enqueued by code", "Interrupted, back to its place", "Its process died", "1st try failed"]


@pytest.mark.parametrize(
    ("state", "texts"),
    [
        (JobState.RUNNING, [*CUT_OFF, "2nd try started"]),
        (JobState.FAILED, [*CUT_OFF, "2nd try failed", "Its process died"]),
    ],
)
def test_what_a_stop_or_the_death_of_a_process_cut_off_is_told_and_is_no_try(state: JobState, texts: list[str]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    wrong, died = JobError("ValueError", "", ""), JobError("asgi_jobs.errors.ProcessDied", "", "")
    errors = [None, died, wrong, *([] if state is JobState.RUNNING else [wrong, died])]
    job: Any = SimpleNamespace(
        state=state,
        source="code",
        retry_of=None,
        run_at=None,
        held=False,
        cancel_requested_at=None,
        retries=2,
        deaths=3,
        attempt=2 if state is JobState.RUNNING else 3,
        attempts=[ended(start, error, number) for number, error in enumerate(errors)],
        enqueued_at=start,
        started_at=start + 5 * SECOND,
    )
    steps = timeline(job, LINKS, start + 9 * SECOND)
    assert [step.text for step in steps] == texts
    if state is JobState.FAILED:
        assert said(steps[-1].note) == "after 500 ms, the 3rd time: it is not run again"


def test_a_place_far_behind_is_not_counted_out() -> None:
    assert said(views.standing(Place(1_001, None), LINKS)) == "More than 1,000 are before it"
    assert said(views.standing(Place(1_000, None), LINKS)) == "1,000th"
