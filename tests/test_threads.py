"""The engine's own threads: lent one at a time, kept, and never in anybody's way."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import Context, ContextVar
from datetime import timedelta
from weakref import ref

import anyio.to_thread
import pytest

from asgi_jobs import Jobs
from asgi_jobs.engine.threads import Threads
from asgi_jobs.testing import settle

var: ContextVar[str] = ContextVar("var", default="unset")


async def test_a_thread_calls_in_a_copy_of_the_context_and_gives_the_value() -> None:
    threads = Threads()
    thread = threads.lend()
    context = Context()
    context.run(var.set, "given")

    def work(a: int, b: int) -> tuple[str, int, bool]:
        seen = var.get()
        var.set("changed")
        return seen, a + b, threading.current_thread() is thread

    assert await thread.call(context, work, 1, 2) == ("given", 3, True)
    assert context.run(var.get) == "given"
    threads.take_back(thread)
    threads.close()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_what_is_raised_in_a_thread_is_raised_where_it_was_called_and_the_thread_goes_on(
    error: type[BaseException],
) -> None:
    threads = Threads()
    thread = threads.lend()

    def fails() -> None:
        raise error("from the thread")

    with pytest.raises(error):
        await thread.call(Context(), fails)
    assert await thread.call(Context(), lambda: 5) == 5
    threads.take_back(thread)
    threads.close()


async def test_threads_are_daemons_reused_and_ended_by_close() -> None:
    threads = Threads()
    first = threads.lend()
    second = threads.lend()
    assert first is not second
    assert first.daemon
    threads.take_back(first)
    assert threads.lend() is first
    threads.take_back(first)
    threads.take_back(second)
    threads.close()
    assert not first.is_alive()
    assert not second.is_alive()


async def test_a_thread_that_is_still_busy_is_not_lent_again() -> None:
    threads = Threads()
    thread = threads.lend()
    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert go.wait(10)

    call = asyncio.create_task(thread.call(Context(), work))
    assert await asyncio.to_thread(started.wait, 10)
    thread.given_up = True  # else the cancel would wait for the end of the code
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    threads.take_back(thread)
    other = threads.lend()
    assert other is not thread
    go.set()
    thread.join(10)
    assert not thread.is_alive()
    threads.take_back(other)
    threads.close()


async def test_a_cancel_is_heard_when_the_code_in_the_thread_has_ended() -> None:
    threads = Threads()
    thread = threads.lend()
    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert go.wait(10)

    call = asyncio.create_task(thread.call(Context(), work))
    assert await asyncio.to_thread(started.wait, 10)
    call.cancel()
    await settle()
    assert not call.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not thread.busy
    threads.take_back(thread)
    threads.close()


async def test_an_idle_thread_keeps_nothing_of_its_last_job_alive() -> None:
    class Thing:
        pass

    threads = Threads()
    thread = threads.lend()
    thing = Thing()
    watched = ref(thing)
    await thread.call(Context(), lambda given: None, thing)
    threads.take_back(thread)
    del thing
    for _ in range(100):  # the thread lets go a moment after it has answered
        gc.collect()
        if watched() is None:
            break
        await asyncio.sleep(0.01)
    assert watched() is None
    threads.close()


async def test_sync_jobs_leave_the_threads_of_request_handlers_alone(jobs: Jobs) -> None:
    """anyio's limiter of 40 is what request handlers of Starlette and FastAPI use."""
    gate = threading.Event()
    made = [jobs.enqueue(gate.wait, 10) for _ in range(20)]
    while any(job.state != "running" for job in made):
        await asyncio.sleep(0)
    limiter = anyio.to_thread.current_default_thread_limiter()
    assert limiter.borrowed_tokens == 0
    assert await asyncio.wait_for(anyio.to_thread.run_sync(lambda: "free"), 5) == "free"
    gate.set()
    await jobs.join()


async def test_no_thread_is_made_for_an_engine_without_sync_jobs(jobs: Jobs) -> None:
    await jobs.enqueue(asyncio.sleep, 0).wait()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asgi_jobs-")]


async def test_threads_are_reused_by_job_after_job(jobs: Jobs) -> None:
    seen = {await jobs.enqueue(threading.get_ident).result() for _ in range(20)}
    assert len(seen) == 1


async def test_a_stuck_thread_does_not_hold_up_the_stop() -> None:
    started, go = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        go.wait(20)

    async with asyncio.timeout(10):
        async with Jobs(authorize="local", shutdown_timeout=timedelta(milliseconds=100)) as jobs:
            job = jobs.enqueue(stuck)
            assert await asyncio.to_thread(started.wait, 10)
    assert job.state == "running"  # and said so: its code has not ended
    go.set()
    await asyncio.sleep(0.05)
