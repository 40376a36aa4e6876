"""Waiting for jobs: from outside, from inside jobs, and the waits that could never end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from asgi_jobs import DeadlockError, Job, JobFailed, Jobs, ResultNotKept, current_job
from asgi_jobs.testing import FakeClock, settle

DEADLINE = 10


async def nothing() -> None:
    pass


async def value() -> int:
    return 42


# From outside


async def test_wait_gives_the_job_ended_however_it_ended(jobs: Jobs) -> None:
    async def fails() -> None:
        raise ValueError

    job = jobs.enqueue(fails)
    assert await job.wait() is job
    assert job.state == "failed"
    assert await job.wait() is job  # again, at once


async def test_many_may_wait_and_one_that_is_cancelled_disturbs_nobody(jobs: Jobs) -> None:
    gate = asyncio.Event()
    job = jobs.enqueue(gate.wait)
    waiters = [asyncio.create_task(job.wait()) for _ in range(3)]
    await settle()
    waiters[1].cancel()
    await settle()
    gate.set()
    assert await asyncio.gather(waiters[0], waiters[2]) == [job, job]
    assert waiters[1].cancelled()


async def test_a_wait_that_times_out_says_so_and_the_job_goes_on(jobs: Jobs) -> None:
    gate = asyncio.Event()
    job = jobs.enqueue(gate.wait, name="slow one")
    with pytest.raises(TimeoutError, match="slow one"):
        await job.wait(timeout=timedelta(milliseconds=10))
    with pytest.raises(TimeoutError):
        await job.result(timeout=timedelta(0))
    assert job.state == "running"
    gate.set()
    await job.wait(timeout=timedelta(seconds=10))
    assert job.state == "succeeded"


async def test_a_wait_for_a_finished_job_never_times_out(jobs: Jobs) -> None:
    job = await jobs.enqueue(value).wait()
    assert await job.wait(timeout=timedelta(0)) is job


async def test_waits_leave_nothing_behind(jobs: Jobs) -> None:
    gate = asyncio.Event()
    job = jobs.enqueue(gate.wait)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await job.wait(timeout=timedelta(0))
    waiters = jobs._engine.waiters
    assert not waiters.futures
    gate.set()
    await job.wait()
    assert not waiters.futures


async def test_waiting_from_another_loop(jobs: Jobs) -> None:
    job = jobs.enqueue(value)
    assert await asyncio.to_thread(lambda: asyncio.run(_result(job))) == 42


async def _result(job: Job) -> int:
    return int(await job.result())


async def test_awaiting_a_job_is_harmless_and_does_not_wait_for_its_end(jobs: Jobs) -> None:
    gate = asyncio.Event()
    job = await jobs.enqueue(gate.wait)
    assert await job is job
    assert job.state == "queued"
    gate.set()


# Values


async def test_result_gives_the_functions_value(jobs: Jobs) -> None:
    assert await jobs.enqueue(value).result() == 42
    assert await jobs.enqueue(nothing).result() is None
    assert await jobs.enqueue(lambda: "from a thread").result() == "from a thread"


async def test_result_may_be_asked_for_again_and_by_every_view(jobs: Jobs) -> None:
    job = jobs.enqueue(value)
    same = await jobs.get(job.id)
    assert [await job.result(), await same.result(), await job.result()] == [42] * 3


async def test_a_view_made_while_the_job_runs_gets_the_value(jobs: Jobs) -> None:
    gate = asyncio.Event()

    async def late() -> int:
        await gate.wait()
        return 7

    id = jobs.enqueue(late).id
    await settle()
    view = await jobs.get(id)
    gate.set()
    assert await view.result() == 7


async def test_a_value_that_nobody_looked_at_is_not_kept(jobs: Jobs) -> None:
    id = jobs.enqueue(value).id
    await jobs.join()
    with pytest.raises(ResultNotKept):
        await (await jobs.get(id)).result()


async def test_a_view_made_after_the_end_does_not_get_the_value_of_one_that_is_gone(jobs: Jobs) -> None:
    job = await jobs.enqueue(value).wait()
    id = job.id
    del job
    with pytest.raises(ResultNotKept):
        await (await jobs.get(id)).result()


# From inside jobs


async def test_a_job_may_wait_for_a_job_of_another_queue(jobs: Jobs) -> None:
    async def parent() -> int:
        return int(await jobs.enqueue(value, queue="other").result()) + 1

    assert await asyncio.wait_for(jobs.enqueue(parent, queue="q").result(), DEADLINE) == 43


async def refused(wait: Callable[[], object]) -> str:
    with pytest.raises(DeadlockError) as caught:
        await wait()  # type: ignore[misc]
    return str(caught.value)


async def test_a_job_that_waits_for_itself_is_refused(jobs: Jobs) -> None:
    async def work() -> str:
        return await refused(current_job().job.wait) + await refused(current_job().job.result)

    assert "itself" in await asyncio.wait_for(jobs.enqueue(work).result(), DEADLINE)


async def test_a_job_that_waits_for_one_behind_it_in_its_queue_is_refused(jobs: Jobs) -> None:
    async def work() -> str:
        return await refused(jobs.enqueue(nothing, queue="q", name="behind me").wait)

    assert "behind me" in await asyncio.wait_for(jobs.enqueue(work, queue="q").result(), DEADLINE)
    await jobs.join()


async def test_a_job_that_waits_for_a_delayed_one_of_its_queue_is_refused(jobs: Jobs) -> None:
    async def work() -> str:
        child = jobs.enqueue(nothing, queue="q", delay=timedelta(hours=1))
        said = await refused(child.wait)
        await child.cancel()
        return said

    await asyncio.wait_for(jobs.enqueue(work, queue="q").result(), DEADLINE)


async def test_a_job_that_waits_for_one_behind_it_in_its_paused_queue_is_refused(jobs: Jobs) -> None:
    async def work() -> str:
        await jobs.pause("q")
        return await refused(jobs.enqueue(nothing, queue="q").wait)

    await asyncio.wait_for(jobs.enqueue(work, queue="q").result(), DEADLINE)
    await jobs.resume("q")
    await jobs.join()


async def test_with_many_slots_and_as_many_waiting_jobs_the_answer_comes_at_once() -> None:
    async with Jobs(authorize="local", queues={"q": 30}) as jobs:
        ready = asyncio.Barrier(30)
        refusals = 0

        async def work() -> None:
            nonlocal refusals
            child = jobs.enqueue(nothing, queue="q")
            await ready.wait()
            try:
                await child.wait()
            except DeadlockError:
                refusals += 1

        for _ in range(30):
            jobs.enqueue(work, queue="q")
        await asyncio.wait_for(jobs.join(), DEADLINE)
        assert refusals == 1


async def test_with_a_second_slot_it_is_no_deadlock() -> None:
    async with Jobs(authorize="local", queues={"q": 2}) as jobs:

        async def work() -> int:
            return int(await jobs.enqueue(value, queue="q").result())

        assert await asyncio.wait_for(jobs.enqueue(work, queue="q").result(), DEADLINE) == 42


async def test_with_all_slots_waiting_for_the_same_queue_the_last_wait_is_refused() -> None:
    async with Jobs(authorize="local", queues={"q": 2}) as jobs:
        both = asyncio.Barrier(2)
        refusals = 0

        async def work() -> None:
            nonlocal refusals
            child = jobs.enqueue(nothing, queue="q")
            await both.wait()
            try:
                await child.wait()
            except DeadlockError:
                refusals += 1

        jobs.enqueue(work, queue="q")
        jobs.enqueue(work, queue="q")
        await asyncio.wait_for(jobs.join(), DEADLINE)
        assert refusals == 1


async def test_two_jobs_that_wait_for_each_other_are_no_deadlock_but_for_the_second(jobs: Jobs) -> None:
    made: dict[str, Job] = {}
    outcome: dict[str, str] = {}

    async def work(me: str, other: str) -> None:
        while len(made) < 2:
            await asyncio.sleep(0)
        try:
            await made[other].wait()
            outcome[me] = "waited"
        except DeadlockError:
            outcome[me] = "refused"

    made["a"] = jobs.enqueue(work, "a", "b", queue="x")
    made["b"] = jobs.enqueue(work, "b", "a", queue="y")
    await asyncio.wait_for(jobs.join(), DEADLINE)
    assert sorted(outcome.values()) == ["refused", "waited"]


async def test_a_chain_of_waits_through_queues_is_refused(jobs: Jobs) -> None:
    """a (queue x) waits for b (queue y), which waits for c (queue z), which waits for one behind a."""
    said: list[str] = []

    async def a() -> None:
        await jobs.enqueue(b, queue="y").wait()

    async def b() -> None:
        await jobs.enqueue(c, queue="z").wait()

    async def c() -> None:
        said.append(await refused(jobs.enqueue(nothing, queue="x", name="behind a").wait))

    jobs.enqueue(a, queue="x")
    await asyncio.wait_for(jobs.join(), DEADLINE)
    assert "behind a" in said[0]


async def test_a_wait_for_a_job_queued_behind_one_that_waits_for_this_one_is_refused(jobs: Jobs) -> None:
    """One (x) is waited for by two (y); one then waits for a job queued behind two."""
    ready = asyncio.Event()
    said: list[str] = []

    async def one() -> None:
        await ready.wait()
        await settle()
        said.append(await refused(jobs.enqueue(nothing, queue="y").wait))

    async def two(first: Job) -> None:
        ready.set()
        await first.wait()

    jobs.enqueue(two, jobs.enqueue(one, queue="x"), queue="y")
    await asyncio.wait_for(jobs.join(), DEADLINE)
    assert len(said) == 1


async def test_waiting_for_a_job_behind_another_that_ends_by_itself_is_no_deadlock(jobs: Jobs) -> None:
    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="y")

    async def work() -> int:
        child = jobs.enqueue(value, queue="y")
        asyncio.get_running_loop().call_soon(gate.set)
        return int(await child.result())

    assert await asyncio.wait_for(jobs.enqueue(work, queue="x").result(), DEADLINE) == 42


async def test_waiting_for_a_job_between_two_attempts_is_no_deadlock() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:

        async def flaky() -> None:
            if current_job().job.attempt == 1:
                raise ValueError

        held = jobs.enqueue(flaky, queue="y", retries=1)
        await settle()
        assert held.held
        job = jobs.enqueue(held.wait, queue="x")
        await clock.advance(timedelta(seconds=5))
        await asyncio.wait_for(job.wait(), DEADLINE)
        assert (held.state, job.state) == ("succeeded", "succeeded")


async def test_join_inside_a_job_is_refused(jobs: Jobs) -> None:
    async def work() -> str:
        return await refused(jobs.join)

    assert "join" in await asyncio.wait_for(jobs.enqueue(work).result(), DEADLINE)


async def test_a_job_of_one_engine_may_join_and_wait_in_another(jobs: Jobs) -> None:
    async with Jobs(authorize="local") as others:

        async def work() -> int:
            child = others.enqueue(value, queue="q")
            await others.join()
            return int(await child.result())

        assert await asyncio.wait_for(jobs.enqueue(work, queue="q").result(), DEADLINE) == 42


async def test_a_refused_wait_that_is_not_caught_fails_the_job_with_deadlock_error(jobs: Jobs) -> None:
    async def work() -> None:
        await jobs.enqueue(nothing, queue="q").wait()

    with pytest.raises(JobFailed, match="DeadlockError"):
        await jobs.enqueue(work, queue="q").result()


# Lending


async def test_a_job_that_waits_for_another_lends_its_place() -> None:
    async with Jobs(authorize="local", concurrency=1) as jobs:

        async def down(levels: int) -> int:
            return 1 + int(await jobs.enqueue(down, levels - 1).result()) if levels else 0

        assert await asyncio.wait_for(jobs.enqueue(down, 20).result(), DEADLINE) == 20


async def test_a_lent_place_is_taken_back() -> None:
    running = most = 0

    async with Jobs(authorize="local", concurrency=2) as jobs:

        async def counted() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await settle(3)
            running -= 1

        async def parent() -> None:
            for _ in range(3):
                await jobs.enqueue(counted).wait()
            await counted()

        for _ in range(10):
            jobs.enqueue(parent)
        await asyncio.wait_for(jobs.join(), DEADLINE)
        running = most = 0
        for _ in range(10):
            jobs.enqueue(counted)
        await asyncio.wait_for(jobs.join(), DEADLINE)
    assert most == 2


async def test_a_job_that_waits_for_several_lends_its_place_until_the_last_has_ended() -> None:
    async with Jobs(authorize="local", concurrency=1, shutdown_timeout=timedelta(milliseconds=50)) as jobs:

        async def parent() -> None:
            await asyncio.gather(*(jobs.enqueue(settle, 2).wait() for _ in range(4)))

        await asyncio.wait_for(jobs.enqueue(parent).wait(), 2)


async def test_a_wait_that_times_out_or_is_cancelled_takes_the_place_back() -> None:
    async with Jobs(authorize="local", concurrency=1) as jobs:
        gate = asyncio.Event()

        async def parent() -> None:
            child = jobs.enqueue(gate.wait)
            with pytest.raises(TimeoutError):
                await child.wait(timeout=timedelta(milliseconds=5))
            waiting = asyncio.create_task(child.wait())
            await settle()
            waiting.cancel()
            await settle()
            gate.set()

        await asyncio.wait_for(jobs.enqueue(parent).wait(), DEADLINE)
        await jobs.join()
        assert jobs._engine.dispatcher.lent == 0


async def test_a_job_that_waits_lends_its_place_in_max_sessions_too() -> None:
    async with Jobs(authorize="local", session_factory=async_sessionmaker(), max_sessions=1) as jobs:

        async def child(session: AsyncSession) -> int:
            return 1

        async def parent(session: AsyncSession) -> int:
            return 1 + int(await jobs.enqueue(child).result())

        assert await asyncio.wait_for(jobs.enqueue(parent).result(), DEADLINE) == 2


# join


async def test_join_waits_for_all_that_is_queued_or_runs_and_not_for_delays() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        await jobs.join()  # nothing to wait for
        gate = asyncio.Event()
        jobs.enqueue(gate.wait, queue="q")
        jobs.enqueue(nothing, queue="q")
        delayed = jobs.enqueue(nothing, delay=timedelta(hours=1))
        joined = [asyncio.create_task(jobs.join()) for _ in range(2)]
        await settle()
        assert not any(task.done() for task in joined)
        gate.set()
        await asyncio.gather(*joined)
        assert delayed.state == "scheduled"


async def test_join_ends_when_the_last_waiting_job_is_cancelled(jobs: Jobs) -> None:
    await jobs.pause("q")
    job = jobs.enqueue(nothing, queue="q")
    joined = asyncio.create_task(jobs.join())
    await settle()
    assert not joined.done()
    await job.cancel()
    await asyncio.wait_for(joined, DEADLINE)


async def test_join_waits_for_jobs_that_jobs_enqueue(jobs: Jobs) -> None:
    depths: list[int] = []

    async def down(levels: int) -> None:
        depths.append(levels)
        if levels:
            jobs.enqueue(down, levels - 1)

    jobs.enqueue(down, 10)
    await jobs.join()
    assert depths == list(range(10, -1, -1))
