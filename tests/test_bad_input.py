"""What cannot work is said at the call: which argument, and what to do. Nothing is enqueued then."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asgi_jobs import (
    InvalidCall,
    InvalidOption,
    InvalidOptionType,
    Job,
    Jobs,
    JobsError,
    JobsMiddleware,
    JobState,
    Retry,
)
from asgi_jobs.testing import FakeClock

LONG = timedelta(seconds=8)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - that is what is refused


async def work(*args: Any, **kwargs: Any) -> None: ...


async def precise(number: int, *, flag: bool = False) -> None: ...


def refused(call: Callable[[], object], argument: str) -> str:
    """The message with which a call was refused."""
    with pytest.raises(JobsError) as caught:
        call()
    assert isinstance(caught.value, TypeError | ValueError)
    message = str(caught.value)
    assert argument in message, message
    assert len(message) > len(argument) + 15, f"no remedy: {message}"
    return message


def shown(value: Any) -> str:
    text = ascii(value)
    return type(value).__name__ if " at 0x" in text or "/" in text else text[:40]


def table(**wrong: list[Any]) -> pytest.MarkDecorator:
    pairs = [(option, value) for option, values in wrong.items() for value in values]
    return pytest.mark.parametrize(("option", "value"), pairs, ids=shown)


SECOND = timedelta(seconds=1)


@table(
    concurrency=[-1, "5", 1.5, None, True],
    threads=[0, -1, "5", 1.5, None, True],
    max_sessions=[0, -1, "5", None],
    queues=[5, "name", ["name"], {"name": 0}, {"name": -1}, {"name": "4"}, {"": 1}, {5: 1}, {"a\0": 1}, {"name": True}],
    max_queued=[0, -1, "5", None, 1.5],
    retention=[5, -SECOND, None, "1h", 1.5],
    max_finished=[-1, "5", None, 1.5],
    cleanup_interval=[0, timedelta(0), -SECOND, None, "5"],
    shutdown_timeout=[5, -SECOND, None, "5"],
    stuck_after=[5, timedelta(0), -SECOND, None],
    authorize=["everybody", 5, True, ["local"]],
    origins=[5, None, "example.com", ["example.com"], [5]],
    title=[5, None, b"bytes"],
    badge=[5, b"bytes"],
    home_url=[5, b"/", "javascript:alert(1)", "example.com"],
    templates=[5, "/no/such/directory", ["a"]],
    store=[5, object()],
    session_factory=["text", 5, [], object()],
    providers=[5, "text", None, [5], [object()], {"a": 1}],
    container=[5, object(), "text"],
    create_tables=[None, "yes", False],
    direct_url=[5, "postgresql+asyncpg://direct/app"],
    clock=[5, "now"],
)
def test_jobs(option: str, value: Any) -> None:
    refused(lambda: Jobs(**{option: value}), option)


def test_jobs_knows_no_other_argument_and_none_by_position() -> None:
    with pytest.raises(TypeError, match="concurency"):
        Jobs(concurency=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Jobs(5)  # type: ignore[call-arg]


@table(
    queue=[5, "", "x" * 201, b"bytes", "a\0b", "\ud800", ["q"], True],
    name=[5, b"bytes", ["a"]],
    delay=[5, -SECOND, 1.5, "1h", timedelta.max, timedelta(days=4_000_000)],
    run_at=[5, NAIVE, "2030-01-01", SECOND],
    timeout=[5, timedelta(0), -SECOND, 1.5, "1h"],
    retries=[-1, "3", 1.5, True, SECOND],
    unique=[5, "", b"bytes"],
    on_commit=[5, "session", object(), asyncio],
)
async def test_enqueue(jobs: Jobs, option: str, value: Any) -> None:
    wrong = {option: value}
    task = jobs.task(work)
    refused(lambda: jobs.enqueue(work, **wrong), option)
    refused(lambda: jobs.using(**wrong).enqueue(work), option)
    refused(lambda: task.enqueue(**wrong), option)
    refused(lambda: task.using(**wrong).enqueue(), option)
    assert sum((await jobs.counts()).values()) == 0


async def test_enqueue_takes_either_delay_or_run_at(jobs: Jobs) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    refused(lambda: jobs.enqueue(work, delay=SECOND, run_at=later), "delay")
    refused(lambda: jobs.using(delay=SECOND, run_at=later).enqueue(work), "run_at")
    assert sum((await jobs.counts()).values()) == 0


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12)), timezone(timedelta(minutes=1))]
)
async def test_the_last_and_the_first_date_are_accepted_or_refused_but_never_shown_wrongly(
    jobs: Jobs, zone: timezone
) -> None:
    for at in (datetime.max.replace(tzinfo=zone), datetime.min.replace(tzinfo=zone)):
        try:
            at.astimezone(UTC)
        except OverflowError:
            refused(lambda at=at: jobs.enqueue(work, run_at=at), "run_at")  # type: ignore[misc]
        else:
            job = jobs.enqueue(work, run_at=at)
            assert job.run_at is None or job.run_at == at
            await job.cancel()
            await job.wait(LONG)


async def test_no_option_at_all_is_no_option(jobs: Jobs) -> None:
    job = jobs.enqueue(
        work, queue=None, delay=None, run_at=None, timeout=None, retries=None, unique=None, on_commit=None
    )
    assert (await job.wait(LONG)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("function", [5, None, "name", [work], {}, b"", object(), asyncio], ids=shown)
async def test_enqueue_what_is_no_function(jobs: Jobs, function: Any) -> None:
    refused(lambda: jobs.enqueue(function), "function")
    refused(lambda: jobs.using().enqueue(function), "function")
    if function is not None:  # the same as @jobs.task()
        refused(lambda: jobs.task(function), "function")
    assert sum((await jobs.counts()).values()) == 0


async def test_a_function_that_cannot_be_called_so(jobs: Jobs) -> None:
    for args, kwargs, named in (
        ((), {}, "number"),
        ((1, 2), {}, "too many"),
        ((1,), {"number": 2}, "number"),
        ((1,), {"flg": True}, "flg"),
        ((), {"flag": True}, "number"),
    ):
        message = refused(lambda args=args, kwargs=kwargs: jobs.enqueue(precise, *args, **kwargs), named)  # type: ignore[misc]
        assert "precise(number: int" in message
    assert sum((await jobs.counts()).values()) == 0


async def test_using(jobs: Jobs) -> None:
    refused(lambda: jobs.using(quue="email"), "quue")
    refused(lambda: jobs.task(work).using(retry=3), "retry")


async def test_a_misspelt_option_of_enqueue_is_an_argument_that_the_function_does_not_take(jobs: Jobs) -> None:
    refused(lambda: jobs.enqueue(precise, 1, quue="email"), "quue")


# Odd but right names


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "..",
        ".",
        "/",
        "__proto__",
        "constructor",
        "👩‍👩‍👧‍👦",
        "\u202eright to left",
        "مرحبا",
        " ",
        "\n",
        "\t tab",
        "%2e%2e",
        "a?b=c&d#e",
        "<script>",
        "'\";--",
        "x" * 200,
        "é",
        "e\u0301",
        "None",
        "null",
        "\x7f",
        "\ufeff",
    ],
)
async def test_odd_queue_names_are_names_like_others(jobs: Jobs, name: str) -> None:
    job = jobs.enqueue(work, queue=name)
    assert job.queue == name
    assert [info.name for info in await jobs.queues()] == [name]
    assert [found.id for found in await jobs.find(queue=name)] == [job.id]
    await jobs.pause(name)
    await jobs.resume(name)
    await job.wait(LONG)
    assert await jobs.queues() == []


async def test_names_that_look_alike_do_not_collide(jobs: Jobs) -> None:
    go = asyncio.Event()

    async def hold() -> None:
        await go.wait()

    names = ["é", "e\u0301", "a", "a ", " a", "A", "a\u200b"]
    held = [jobs.enqueue(hold, queue=name) for name in names]
    await asyncio.sleep(0)
    assert sorted(info.name for info in await jobs.queues()) == sorted(names)
    assert {job.state for job in held} == {JobState.RUNNING}
    go.set()
    await jobs.join()


@pytest.mark.parametrize("name", ["", "x" * 201, "x" * 10_240, "a\0", "\ud800", "\udfff tail", "\0"])
async def test_queue_names_that_cannot_be_are_refused_everywhere(jobs: Jobs, name: str) -> None:
    refused(lambda: jobs.enqueue(work, queue=name), "queue")
    refused(lambda: jobs.task(queue=name)(work), "queue")
    refused(lambda: Jobs(queues={name: 2}), "queue")
    for verb in (jobs.pause, jobs.resume, jobs.cancel_waiting):
        with pytest.raises(JobsError, match="queue"):
            await verb(name)
    assert await jobs.queues() == []


async def test_a_refused_queue_name_is_not_repeated_at_length(jobs: Jobs) -> None:
    message = refused(lambda: jobs.enqueue(work, queue="\0" + "x" * 150), "queue")
    assert len(refused(lambda: jobs.enqueue(work, queue="x" * 1_000_000), "queue")) < 500
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 600, "x" * 500),
        ("", ""),
        ("a\0b", "a\ufffdb"),
        ("\ud800", "?"),
        ("a\nb", "a\nb"),
        ("👩‍👩‍👧‍👦", "👩‍👩‍👧‍👦"),
    ],
)
async def test_names_for_people_are_cut_and_cleaned(jobs: Jobs, name: str, kept: str) -> None:
    job = jobs.enqueue(work, name=name)
    assert job.name == kept
    job.name.encode()
    await job.wait(LONG)


# Tasks


@table(
    key=[5, "", b"key"],
    queue=[5, "", "x" * 201, "\0"],
    retries=[-1, "3", 1.5, True],
    timeout=[5, timedelta(0), -SECOND],
    every=[5, "1h", timedelta(0), -SECOND, timedelta(milliseconds=1), timedelta.max],
    cron=[5, "", "nonsense", "61 * * * *", "0 0 31 2 *", "* * * *"],
    timezone=["UTC", 5],
    start_after=[SECOND, 5],
    atomic=[True, "yes", 1],
    keep_result=["yes", 1],
    colour=["red"],
)
async def test_task(jobs: Jobs, option: str, value: Any) -> None:
    wrong: dict[str, Any] = {option: value}
    refused(lambda: jobs.task(**wrong)(work), option)
    assert await jobs.tasks() == []


async def test_task_schedules(jobs: Jobs) -> None:
    hour = timedelta(hours=1)
    refused(lambda: jobs.task(every=hour, cron="0 3 * * *")(work), "every")
    refused(lambda: jobs.task(cron="0 3 * * *", timezone="Mars/Olympus")(work), "timezone")
    refused(lambda: jobs.task(cron="0 3 * * *", timezone=5)(work), "timezone")  # type: ignore[call-overload]
    refused(lambda: jobs.task(cron="0 3 * * *", start_after=hour)(work), "start_after")
    refused(lambda: jobs.task(every=hour, start_after=-hour)(work), "start_after")
    refused(lambda: jobs.task(every=hour, start_after=5)(work), "start_after")  # type: ignore[call-overload]
    refused(lambda: jobs.task(every=hour, timezone="UTC")(work), "timezone")
    refused(lambda: jobs.task(every=hour)(precise), "number")
    assert await jobs.tasks() == []


async def test_a_task_is_declared_once(jobs: Jobs) -> None:
    task = jobs.task(work)
    refused(lambda: jobs.task(work), "key")
    refused(lambda: jobs.task(task), "function")
    refused(lambda: jobs.task(key=task.key)(precise), "key")
    assert len(await jobs.tasks()) == 1


# Retry


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("times", -1),
        ("times", "3"),
        ("times", 1.5),
        ("times", True),
        ("times", None),
        ("base", 5),
        ("base", -SECOND),
        ("cap", 5),
        ("cap", -SECOND),
        ("cap", None),
        ("factor", 0.5),
        ("factor", 0),
        ("factor", -1),
        ("factor", "2"),
        ("factor", float("inf")),
        ("factor", float("nan")),
        ("factor", None),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", "0"),
        ("jitter", float("nan")),
        ("jitter", None),
        ("on", 5),
        ("on", "ValueError"),
        ("on", (ValueError, 5)),
        ("on", (int,)),
        ("on", ValueError()),
        ("on", None),
        ("on", ()),
    ],
)
def test_retry(option: str, value: Any) -> None:
    options: dict[str, Any] = {"times": 1, option: value}
    refused(lambda: Retry(**options), option)


def test_retry_takes_one_exception_for_a_tuple_of_one() -> None:
    assert Retry(1, on=ValueError).on == (ValueError,)  # type: ignore[arg-type]
    assert Retry(1, on=[ValueError, KeyError]).on == (ValueError, KeyError)  # type: ignore[arg-type]


# Looking and acting


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("state", "bogus"),
        ("state", 5),
        ("queue", 5),
        ("queue", b"q"),
        ("task", 5),
        ("text", 5),
        ("text", b"t"),
        ("limit", 0),
        ("limit", -1),
        ("limit", "5"),
        ("limit", 1.5),
        ("limit", True),
        ("limit", None),
        ("before", 5),
        ("before", b"id"),
    ],
)
async def test_find(jobs: Jobs, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(JobsError, match=option) as caught:
        await jobs.find(**options)
    assert isinstance(caught.value, TypeError | ValueError)


async def test_find_takes_states_by_name_and_finds_nothing_of_what_is_not_there(jobs: Jobs) -> None:
    job = await jobs.enqueue(work).wait(LONG)
    assert [found.id for found in await jobs.find(state="succeeded")] == [job.id]
    assert [found.id for found in await jobs.find(state=JobState.SUCCEEDED)] == [job.id]
    assert await jobs.find(queue="none", task="none", text="none", before="none") == []
    assert await jobs.find(before="\ud800") == []
    assert await jobs.find(text="\ud800\0") == []
    assert len(await jobs.find(limit=10**30)) == 1


@pytest.mark.parametrize("timeout", [5, 1.5, "1s", -SECOND, True])
async def test_wait_and_result(jobs: Jobs, timeout: Any) -> None:
    job = await jobs.enqueue(work).wait(LONG)
    unfinished = jobs.enqueue(work, delay=timedelta(hours=1))
    for one in (job, unfinished):
        for verb in (one.wait, one.result):
            with pytest.raises(JobsError, match="timeout") as caught:
                await verb(timeout)
            assert isinstance(caught.value, TypeError | ValueError)


async def test_a_wait_of_no_time_at_all_times_out(jobs: Jobs) -> None:
    job = jobs.enqueue(work, delay=timedelta(hours=1))
    with pytest.raises(TimeoutError, match="had not ended"):
        await job.wait(timedelta(0))
    with pytest.raises(TimeoutError):
        await job.result(timedelta(milliseconds=1))


@pytest.mark.parametrize("queue", [5, None, b"q"])
async def test_pause_resume_and_cancel_waiting(jobs: Jobs, queue: Any) -> None:
    for verb in (jobs.pause, jobs.resume, jobs.cancel_waiting):
        with pytest.raises(InvalidOptionType, match="queue"):
            await verb(queue)


@pytest.mark.parametrize("id", [5, None, b"id", "", "nonsense", "\ud800", "0" * 10_000, "\0"])
async def test_ids_that_are_none(jobs: Jobs, id: Any) -> None:
    for verb in (jobs.get, jobs.cancel, jobs.retry, jobs.release, jobs.place):
        with pytest.raises(JobsError, match="id"):
            await verb(id)


@pytest.mark.parametrize("reason", [5, None, b"because"])
async def test_the_reason_of_a_cancel(jobs: Jobs, reason: Any) -> None:
    job = jobs.enqueue(work, delay=timedelta(hours=1))
    with pytest.raises(JobsError, match="reason"):
        await job.cancel(reason)
    with pytest.raises(JobsError, match="reason"):
        await jobs.cancel(job.id, reason)
    assert job.state is JobState.SCHEDULED


@pytest.mark.parametrize("listener", [5, None, work])
async def test_subscribe(jobs: Jobs, listener: Any) -> None:
    with pytest.raises(InvalidOptionType, match="plain function"):
        jobs.subscribe(listener)


# The middleware


async def app(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("jobs", 5),
        ("jobs", None),
        ("jobs", Jobs),
        ("path", "jobs"),
        ("path", "/"),
        ("path", ""),
        ("path", 5),
        ("path", "//"),
        ("state", ""),
        ("state", 5),
        ("state", "a b"),
        ("state", None),
    ],
)
def test_middleware(option: str, value: Any) -> None:
    options: dict[str, Any] = {"jobs": Jobs(authorize="local"), option: value}
    refused(lambda: JobsMiddleware(app, **options), option)


# current_job()


async def test_progress_that_is_no_number(jobs: Jobs) -> None:
    from asgi_jobs import current_job

    async def report(done: Any, total: Any) -> None:
        current_job().progress(done, total)

    for done, total, named in (("5", 10, "done"), (True, 10, "done"), (None, 10, "done"), (5, "10", "total")):
        job: Job = await jobs.enqueue(report, done, total).wait(LONG)
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert named in job.error.message
    assert (await jobs.enqueue(report, 5, None).wait(LONG)).state is JobState.SUCCEEDED


async def test_delays_up_to_a_century_are_dates_that_can_be_shown() -> None:
    async with Jobs(clock=FakeClock(), authorize="local") as jobs:
        job = jobs.enqueue(work, delay=timedelta(days=36_500))
        assert job.run_at is not None
        assert job.run_at.year in (2125, 2126)


def test_every_refusal_is_an_error_of_ours_and_of_pythons() -> None:
    assert issubclass(InvalidOption, JobsError)
    assert issubclass(InvalidOption, ValueError)
    assert issubclass(InvalidOptionType, JobsError)
    assert issubclass(InvalidOptionType, TypeError)
    assert issubclass(InvalidCall, JobsError)
    assert issubclass(InvalidCall, TypeError)
