"""Who is told of what happens to jobs, in which order, and what the log says."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, timedelta
from threading import Thread, get_ident

import pytest

from asgi_jobs import Event, Jobs, Retry, current_job
from asgi_jobs.errors import InvalidOptionType
from asgi_jobs.events import printable
from asgi_jobs.testing import FakeClock, settle

Heard = list[tuple[str, str]]


def listen(jobs: Jobs) -> Heard:
    heard: Heard = []
    jobs.subscribe(lambda event: heard.append((event.kind, event.job.name)))
    return heard


async def nothing() -> None:
    pass


async def fails() -> None:
    raise ValueError("no")


async def test_an_event_has_a_kind_the_job_and_an_aware_time(jobs: Jobs) -> None:
    events: list[Event] = []
    jobs.subscribe(events.append)
    job = await jobs.enqueue(nothing).wait()
    assert [event.kind for event in events] == ["enqueued", "started", "succeeded"]
    assert all(event.job is job for event in events)
    assert all(event.at.tzinfo is UTC for event in events)
    assert events[0].at <= events[1].at <= events[2].at


async def test_a_listener_may_hand_the_job_on_to_somebody_who_wants_its_value(jobs: Jobs) -> None:
    results: list[asyncio.Task[object]] = []

    def hand_on(event: Event) -> None:
        if event.kind == "succeeded":
            results.append(asyncio.create_task(event.job.result()))

    async def value() -> int:
        return 7

    jobs.subscribe(hand_on)
    jobs.enqueue(value)
    await jobs.join()
    assert await results[0] == 7


async def test_every_way_through_life_is_told(jobs: Jobs) -> None:
    heard = listen(jobs)
    await jobs.enqueue(fails, name="failing").wait()
    await jobs.enqueue(fails, name="retried", retries=Retry(1, base=timedelta(0))).wait()
    await jobs.enqueue(nothing, name="cancelled", delay=timedelta(hours=1)).cancel()
    assert [kind for kind, name in heard if name == "failing"] == ["enqueued", "started", "failed"]
    assert [kind for kind, name in heard if name == "retried"] == [
        *("enqueued", "started", "retrying", "started", "failed")
    ]
    assert [kind for kind, name in heard if name == "cancelled"] == ["enqueued", "cancelled"]


async def test_the_end_of_a_job_is_told_before_the_start_of_its_successor(jobs: Jobs) -> None:
    heard = listen(jobs)
    for name in "abc":
        jobs.enqueue(nothing, name=name, queue="q")
    await jobs.join()
    assert [event for event in heard if event[0] != "enqueued"] == [
        (kind, name) for name in "abc" for kind in ("started", "succeeded")
    ]


async def test_the_end_is_told_before_the_next_attempt_starts(jobs: Jobs) -> None:
    heard = listen(jobs)
    await jobs.enqueue(fails, name="a", retries=Retry(2, base=timedelta(0)), queue="q").wait()
    assert [kind for kind, _ in heard] == [
        "enqueued",
        "started",
        "retrying",
        "started",
        "retrying",
        "started",
        "failed",
    ]


async def test_exactly_one_start_and_one_end_are_told_per_attempt_and_no_duration_is_negative(jobs: Jobs) -> None:
    told: Counter[tuple[str, int, str]] = Counter()

    def count(event: Event) -> None:
        if event.kind != "enqueued":
            told[event.job.id, event.job.attempt, "start" if event.kind == "started" else "end"] += 1
        for time in (event.job.wait_time, event.job.run_time):
            assert time is None or time >= timedelta(0)

    jobs.subscribe(count)

    async def flaky(n: int) -> None:
        await asyncio.sleep(0)
        if (n + current_job().job.attempt) % 3:
            raise ValueError

    policy = Retry(1, base=timedelta(0))
    made = [jobs.enqueue(flaky, n, queue=f"q{n % 7}", retries=policy) for n in range(200)]
    await jobs.join()
    assert set(told.values()) == {1}
    assert len(told) == sum(job.attempt for job in made) * 2


async def test_listeners_are_called_in_the_order_of_subscription_on_the_loop(jobs: Jobs) -> None:
    order: list[tuple[int, int]] = []
    for n in range(3):
        jobs.subscribe(lambda _, n=n: order.append((n, get_ident())))  # type: ignore[misc]
    thread = Thread(target=jobs.enqueue, args=(nothing,))
    thread.start()
    await asyncio.to_thread(thread.join)
    await jobs.join()
    assert [n for n, _ in order] == [0, 1, 2] * 3
    assert {ident for _, ident in order} == {get_ident()}


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit, GeneratorExit, RecursionError])
async def test_a_listener_that_raises_changes_nothing_and_is_logged(
    jobs: Jobs, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Event) -> None:
        raise error("listener")

    jobs.subscribe(bad)
    heard = listen(jobs)
    job = jobs.enqueue(nothing, queue="q", name="a")
    behind = jobs.enqueue(nothing, queue="q", name="b")
    cancelled = jobs.enqueue(nothing, delay=timedelta(hours=1), name="c")
    await cancelled.cancel()
    await asyncio.wait_for(jobs.join(), 10)
    assert (job.state, behind.state, cancelled.state) == ("succeeded", "succeeded", "cancelled")
    assert Counter(kind for kind, _ in heard) == {"enqueued": 3, "started": 2, "succeeded": 2, "cancelled": 1}
    assert "A listener failed on 'started' of 'a'" in caplog.text


async def test_a_listener_may_unsubscribe_itself_and_end_twice(jobs: Jobs) -> None:
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(event.kind)
        end()

    end: Callable[[], None] = jobs.subscribe(once)
    later = listen(jobs)
    await jobs.enqueue(nothing, name="a").wait()
    end()
    assert heard == ["enqueued"]
    assert [kind for kind, _ in later] == ["enqueued", "started", "succeeded"]


async def test_a_listener_may_enqueue(jobs: Jobs) -> None:
    def chain(event: Event) -> None:
        if event.kind == "succeeded" and event.job.name == "first":
            jobs.enqueue(nothing, name="second", queue="q")

    jobs.subscribe(chain)
    heard = listen(jobs)
    jobs.enqueue(nothing, name="first", queue="q")
    await jobs.join()
    assert ("succeeded", "second") in heard


@pytest.mark.parametrize("listener", [None, 5, "text"])
async def test_what_cannot_listen_is_refused(jobs: Jobs, listener: object) -> None:
    with pytest.raises(InvalidOptionType, match="subscribe"):
        jobs.subscribe(listener)  # type: ignore[arg-type]


async def test_a_coroutine_function_cannot_listen(jobs: Jobs) -> None:
    async def listener(_: Event) -> None: ...

    with pytest.raises(InvalidOptionType, match="plain function"):
        jobs.subscribe(listener)  # type: ignore[arg-type]


# The log


async def test_a_failure_is_logged_as_an_error_with_its_traceback(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    job = await jobs.enqueue(fails, name="the job").wait()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"Job 'the job' ({job.id}) failed: ValueError: no" in record.getMessage()
    assert "in fails" in record.getMessage()


async def test_a_failed_attempt_that_is_tried_again_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        jobs.enqueue(fails, name="a", retries=1)
        await clock.advance(timedelta(seconds=0.5))
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "(attempt 1 of 2) and is tried again: ValueError: no" in record.getMessage()
        await clock.advance(timedelta(seconds=5))


async def test_nothing_is_logged_of_a_job_that_succeeds_unless_debugging(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    await jobs.enqueue(nothing).wait()
    assert caplog.records == []


async def test_who_debugs_hears_of_everything(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "asgi_jobs"):
        async with Jobs(authorize="local") as jobs:
            await jobs.enqueue(nothing, name="a").wait()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Job 'a'")]
    assert [line.rpartition(" ")[2] for line in said] == ["enqueued", "started", "succeeded"]


async def test_a_cancel_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "asgi_jobs"):
        async with Jobs(authorize="local") as jobs:
            await jobs.enqueue(nothing, name="a", delay=timedelta(hours=1)).cancel("by\nhand")
    assert any("was cancelled: by\\nhand" in record.getMessage() for record in caplog.records)


async def test_a_name_or_message_cannot_forge_a_log_line(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    async def forge() -> None:
        raise ValueError("x\n2026 INFO all is well")

    await jobs.enqueue(forge, name="a\n2026 ERROR forged\x1b[31m\u202e").wait()
    first_line = caplog.records[-1].getMessage().split("\nTraceback")[0]
    assert "\n" not in first_line
    assert "\x1b" not in first_line
    assert "\u202e" not in first_line


def test_printable_leaves_ordinary_text_alone() -> None:
    assert printable("Grüße 🦊, a b") == "Grüße 🦊, a b"
    assert printable("a\r\n\t\0\ud800\u2028") == "a\\r\\n\\t\\x00\\ud800\\u2028"


async def test_an_event_of_a_thread_is_told_before_the_start(jobs: Jobs) -> None:
    heard = listen(jobs)
    for n in range(50):
        await asyncio.to_thread(jobs.enqueue, nothing, name=str(n))
    await jobs.join()
    await settle()
    for n in range(50):
        assert [kind for kind, name in heard if name == str(n)] == ["enqueued", "started", "succeeded"]
