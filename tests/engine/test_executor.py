"""One attempt: what it runs in, what it is told, and what can be seen of it meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from weakref import ref

import anyio
import anyio.to_thread
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from asgi_jobs import Job, Jobs, NoCurrentJob, Retry, current_job
from asgi_jobs.testing import FakeClock, settle

outside = contextvars.ContextVar("outside", default="unset")


# current_job


def test_there_is_no_current_job_outside_of_jobs() -> None:
    with pytest.raises(NoCurrentJob):
        current_job()


async def test_current_job_in_an_async_job(jobs: Jobs) -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return current_job().job.id

    job = jobs.enqueue(work)
    assert await job.result() == job.id


async def test_current_job_in_a_thread_job(jobs: Jobs) -> None:
    job = jobs.enqueue(lambda: current_job().job)
    assert await job.result() is job


async def test_current_job_in_what_a_job_starts_with_asyncio(jobs: Jobs) -> None:
    def here() -> str:
        return current_job().job.id

    async def here_async() -> str:
        return here()

    async def work() -> set[str]:
        child = asyncio.create_task(here_async())
        return {await asyncio.to_thread(here), await child, *await asyncio.gather(here_async(), here_async())}

    job = jobs.enqueue(work)
    assert await job.result() == {job.id}


async def test_current_job_in_what_a_job_starts_with_anyio(jobs: Jobs) -> None:
    seen: list[str] = []

    def here() -> None:
        seen.append(current_job().job.id)

    async def here_async() -> None:
        here()

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(here_async)
            group.start_soon(anyio.to_thread.run_sync, here)

    job = await jobs.enqueue(work).wait()
    assert seen == [job.id, job.id]


async def test_concurrent_jobs_each_see_themselves(jobs: Jobs) -> None:
    async def work() -> str:
        for _ in range(5):
            await asyncio.sleep(0)
        return current_job().job.id

    made = [jobs.enqueue(work, queue=f"q{n % 3}") for n in range(30)]
    assert [await job.result() for job in made] == [job.id for job in made]


async def test_claim_grows_with_each_attempt(jobs: Jobs) -> None:
    seen: list[int] = []

    async def work() -> None:
        seen.append(current_job().claim)
        if len(seen) < 3:
            raise ValueError

    await jobs.enqueue(work, retries=Retry(2, base=timedelta(0))).wait()
    assert seen == sorted(set(seen))
    assert len(seen) == 3


async def test_cancelled_is_false_until_it_is_asked_for(jobs: Jobs) -> None:
    seen: list[bool] = []

    async def work() -> None:
        seen.append(current_job().cancelled)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(current_job().cancelled)

    job = jobs.enqueue(work)
    await settle()
    await job.cancel()
    await job.wait()
    assert seen == [False, True]


# Context


async def test_each_attempt_has_a_fresh_empty_context(jobs: Jobs) -> None:
    async def work() -> tuple[str, list[str]]:
        names = [var.name for var in contextvars.copy_context()]
        seen = outside.get()
        outside.set("inside")
        return seen, names

    outside.set("caller's")
    for _ in range(2):
        seen, names = await jobs.enqueue(work).result()
        assert seen == "unset"
        assert names == ["asgi_jobs_current"]
    assert await jobs.enqueue(outside.get).result() == "unset"
    assert outside.get() == "caller's"


async def test_a_job_has_a_task_of_its_own_named_after_it(jobs: Jobs) -> None:
    async def work() -> tuple[asyncio.Task[Any] | None, str]:
        task = asyncio.current_task()
        assert task is not None
        return task, task.get_name()

    one, two = jobs.enqueue(work, name="one"), jobs.enqueue(work, name="two")
    (first, name), (second, _) = await one.result(), await two.result()
    assert first is not second
    assert first is not asyncio.current_task()
    assert name == "one"


async def test_sync_functions_run_in_daemon_threads_of_the_engines_own(jobs: Jobs) -> None:
    thread = await jobs.enqueue(threading.current_thread).result()
    assert thread.daemon
    assert thread.name.startswith("asgi_jobs")


async def test_a_function_that_returns_an_awaitable_has_it_awaited(jobs: Jobs) -> None:
    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    assert await jobs.enqueue(lambda: inner(1)).result() == 2


async def test_the_task_of_a_job_is_kept_alive_while_it_waits(jobs: Jobs) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.02, future.set_result, 5)
        return await future

    job = jobs.enqueue(work)
    await settle()
    gc.collect()
    assert await job.result() == 5


async def test_an_ended_job_lets_go_of_its_arguments_value_and_task(jobs: Jobs) -> None:
    class Thing:
        pass

    async def work(thing: Thing) -> Thing:
        await asyncio.sleep(0)
        return Thing()

    thing = Thing()
    argument = ref(thing)
    job: Job | None = jobs.enqueue(work, thing)
    assert job is not None
    value = ref(await job.result())
    id = job.id
    del thing
    gc.collect()
    assert argument() is None
    assert value() is not None  # the live view has it
    job = None
    gc.collect()
    assert value() is None
    assert (await jobs.get(id)).state == "succeeded"


# Progress and log


async def test_progress_is_kept_as_last_reported(jobs: Jobs) -> None:
    async def work() -> None:
        current_job().progress(1, 3)
        current_job().progress(2, 3, "pages")

    job = await jobs.enqueue(work).wait()
    assert job.progress is not None
    assert (job.progress.done, job.progress.total, job.progress.text) == (2, 3, "pages")
    assert job.started_at is not None
    assert job.started_at <= job.progress.at


async def test_progress_without_a_total_and_a_long_text_that_is_cut(jobs: Jobs) -> None:
    async def work() -> None:
        current_job().progress(0.5, text="x" * 2_000)

    job = await jobs.enqueue(work).wait()
    assert job.progress is not None
    assert (job.progress.done, job.progress.total, len(job.progress.text)) == (0.5, None, 500)


@pytest.mark.parametrize("wrong", [("1",), (None,), (True,), (1, "2")])
async def test_progress_that_is_no_number_is_an_error_in_the_job(jobs: Jobs, wrong: tuple[Any, ...]) -> None:
    async def work() -> None:
        with pytest.raises(TypeError, match="progress"):
            current_job().progress(*wrong)

    assert (await jobs.enqueue(work).wait()).state == "succeeded"


async def test_the_last_200_log_lines_are_kept_each_of_at_most_1000_characters(jobs: Jobs) -> None:
    async def work() -> None:
        for n in range(250):
            current_job().log(str(n))
        current_job().log("x" * 3_000)

    job = await jobs.enqueue(work).wait()
    assert len(job.log) == 200
    assert (job.log[0], job.log[-2], len(job.log[-1])) == ("51", "249", 1_000)
    assert job.log_count == 251
    assert all(job.enqueued_at <= line.at for line in job.log)


async def test_a_text_of_several_lines_is_several_log_lines(jobs: Jobs) -> None:
    async def work() -> None:
        current_job().log("one\ntwo\r\nthree")
        current_job().log("")
        current_job().log(5)  # type: ignore[arg-type]

    job = await jobs.enqueue(work).wait()
    assert job.log == ["one", "two", "three", "", "5"]


async def test_progress_and_log_from_a_thread_are_seen_at_once(jobs: Jobs) -> None:
    said, look = threading.Event(), threading.Event()

    def work() -> None:
        current_job().progress(1, 2)
        current_job().log("half")
        said.set()
        assert look.wait(10)

    before = jobs.revision
    job = jobs.enqueue(work)
    assert await asyncio.to_thread(said.wait, 10)
    assert job.progress is not None
    assert (job.progress.done, job.log) == (1, ["half"])
    assert jobs.revision > before
    look.set()
    await job.wait()


async def test_progress_and_log_outlive_the_next_attempt() -> None:
    clock = FakeClock()

    async def work() -> None:
        current_job().log(f"attempt {current_job().job.attempt}")
        if current_job().job.attempt == 1:
            raise ValueError

    async with Jobs(authorize="local", clock=clock) as jobs:
        job = jobs.enqueue(work, retries=1)
        await clock.advance(timedelta(seconds=5))
    assert job.log == ["attempt 1", "attempt 2"]


# Where it waits


async def test_stack_shows_where_an_async_job_waits_innermost_first(jobs: Jobs) -> None:
    gate = asyncio.Event()

    async def inner() -> None:
        await gate.wait()

    async def outer() -> None:
        await inner()

    job = jobs.enqueue(outer)
    assert job.stack() is None
    await settle()
    stack = job.stack()
    assert stack is not None
    own = [frame.function for frame in stack if frame.own]
    assert [name.rpartition(".")[2] for name in own] == ["inner", "outer"]
    gate.set()
    await job.wait()
    assert job.stack() is None


async def test_stack_shows_where_a_thread_job_is(jobs: Jobs) -> None:
    started, go = threading.Event(), threading.Event()

    def in_the_thread() -> None:
        started.set()
        assert go.wait(10)

    job = jobs.enqueue(in_the_thread)
    assert await asyncio.to_thread(started.wait, 10)
    stack = job.stack()
    assert stack is not None
    assert any("in_the_thread" in frame.function for frame in stack)
    go.set()
    await job.wait()
    assert job.stack() is None


# What somebody else does to its task


@pytest.mark.parametrize("injected", [False, True])
async def test_the_outcome_is_handed_in_though_the_task_is_cancelled_before_its_first_step(injected: bool) -> None:
    async def plain() -> None: ...

    async def with_session(session: AsyncSession) -> None: ...

    work: Callable[..., Any] = with_session if injected else plain
    async with Jobs(authorize="local", session_factory=async_sessionmaker()) as jobs:
        before = asyncio.all_tasks()
        job = jobs.enqueue(work, queue="q")
        behind = jobs.enqueue(work, queue="q")
        while not (found := asyncio.all_tasks() - before):
            await asyncio.sleep(0)
        for task in found:
            task.cancel()
        await asyncio.wait_for(jobs.join(), 10)
        assert job.state == "failed"
        assert behind.state == "succeeded"


async def test_a_thread_job_whose_task_somebody_cancels_keeps_its_queue_until_its_code_has_ended(jobs: Jobs) -> None:
    started, go = threading.Event(), threading.Event()
    ended: list[str] = []

    def work() -> None:
        started.set()
        assert go.wait(10)
        ended.append("thread")

    before = asyncio.all_tasks()
    job = jobs.enqueue(work, queue="q")
    behind = jobs.enqueue(lambda: ended.append("behind"), queue="q")
    await settle()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await settle()
    early = list(ended)
    go.set()
    await asyncio.wait_for(jobs.join(), 10)
    with suppress(AssertionError):
        assert started.is_set()
    assert early == []
    assert ended == ["thread", "behind"]
    assert job.finished_at is not None
    assert behind.state == "succeeded"
