"""Order and exclusivity of queues, fairness between them, and how many run at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from datetime import timedelta
from threading import Barrier, Thread

import pytest

from asgi_jobs import Job, Jobs, JobState
from asgi_jobs.testing import FakeClock, settle

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Diary:
    """Who started and ended when, and how many were running at the most."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.running = 0
        self.most = 0

    async def job(self, name: str, turns: int = 1, fails: bool = False) -> None:
        self.started.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if fails:
                raise ValueError(name)
        finally:
            self.running -= 1
            self.ended.append(name)


async def test_26_jobs_with_random_pauses_run_in_their_order_without_overlap(jobs: Jobs) -> None:
    diary, rng = Diary(), random.Random(1)
    for letter in LETTERS:
        jobs.enqueue(diary.job, letter, rng.randrange(12), queue="q")
    await jobs.join()
    assert "".join(diary.started) == "".join(diary.ended) == LETTERS
    assert diary.most == 1


async def test_when_every_second_job_fails_the_rest_run_in_order(jobs: Jobs) -> None:
    diary = Diary()
    made = [jobs.enqueue(diary.job, letter, 2, fails=n % 2 == 1, queue="q") for n, letter in enumerate(LETTERS)]
    await jobs.join()
    assert "".join(diary.ended) == LETTERS
    assert diary.most == 1
    assert [job.state for job in made] == [JobState.SUCCEEDED, JobState.FAILED] * 13


async def test_a_thousand_queues_of_twenty_jobs_from_fifty_tasks_keep_order_per_name_each_once(jobs: Jobs) -> None:
    running: Counter[str] = Counter()
    seen: dict[str, list[int]] = defaultdict(list)
    most_names = 0

    async def work(name: str, n: int) -> None:
        nonlocal most_names
        running[name] += 1
        assert running[name] == 1
        seen[name].append(n)
        most_names = max(most_names, sum(running.values()))
        await asyncio.sleep(0)
        running[name] -= 1

    async def produce(names: list[str]) -> None:
        for n in range(20):
            for name in names:
                jobs.enqueue(work, name, n, queue=name)
            await asyncio.sleep(0)

    names = [f"q{n}" for n in range(1_000)]
    await asyncio.gather(*(produce(names[n::50]) for n in range(50)))
    await jobs.join()
    assert seen == {name: list(range(20)) for name in names}
    assert most_names == 100  # concurrency
    assert (await jobs.counts())[JobState.SUCCEEDED] == 20_000
    assert await jobs.queues() == []


async def test_a_blocked_queue_does_not_delay_the_start_of_others(jobs: Jobs) -> None:
    gate = asyncio.Event()
    jobs.enqueue(gate.wait, queue="blocked")
    for _ in range(500):
        jobs.enqueue(gate.wait, queue="blocked")
    await settle()
    started = asyncio.Event()

    async def work() -> None:
        started.set()

    jobs.enqueue(work, queue="free")
    for _ in range(3):
        await asyncio.sleep(0)
    assert started.is_set()
    gate.set()


async def test_a_job_never_takes_a_step_in_the_stack_of_the_caller(jobs: Jobs) -> None:
    diary = Diary()
    jobs.enqueue(diary.job, "a")
    assert diary.started == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert diary.started == ["a"]


async def test_a_task_factory_that_starts_tasks_eagerly_changes_nothing(jobs: Jobs) -> None:
    diary = Diary()
    loop = asyncio.get_running_loop()
    seen: list[object] = []

    def factory(loop: asyncio.AbstractEventLoop, coro, **rest):  # type: ignore[no-untyped-def]
        seen.append(coro)
        return asyncio.Task(coro, loop=loop, **rest)

    loop.set_task_factory(factory)
    try:
        await jobs.enqueue(diary.job, "a", queue="q").wait()
    finally:
        loop.set_task_factory(None)
    assert diary.ended == ["a"]
    assert seen == []


async def test_jobs_without_a_queue_wait_for_nobody(jobs: Jobs) -> None:
    gate, diary = asyncio.Event(), Diary()
    for _ in range(10):
        jobs.enqueue(gate.wait)
    jobs.enqueue(diary.job, "free")
    await settle()
    assert diary.ended == ["free"]
    gate.set()


async def test_a_queue_with_n_slots_runs_n_at_once_and_starts_them_in_order() -> None:
    diary, rng = Diary(), random.Random(2)
    async with Jobs(authorize="local", queues={"wide": 4}) as jobs:
        for letter in LETTERS:
            jobs.enqueue(diary.job, letter, rng.randrange(1, 9), queue="wide")
        await jobs.join()
    assert "".join(diary.started) == LETTERS
    assert diary.most == 4


async def test_no_more_jobs_run_at_once_than_the_concurrency() -> None:
    diary = Diary()
    async with Jobs(authorize="local", concurrency=3) as jobs:
        for letter in LETTERS:
            jobs.enqueue(diary.job, letter, 3, queue=letter)
        await jobs.join()
    assert "".join(diary.started) == LETTERS
    assert diary.most == 3


async def test_no_more_sync_jobs_run_at_once_than_there_are_threads_and_the_others_are_queued() -> None:
    gate = Barrier(3, timeout=10)
    async with Jobs(authorize="local", threads=2) as jobs:
        made = [jobs.enqueue(gate.wait, queue=str(n)) for n in range(4)]
        await settle()
        assert [job.state for job in made] == ["running", "running", "queued", "queued"]
        await asyncio.to_thread(gate.wait)
        await asyncio.gather(*(job.wait() for job in made[:2]))
        await asyncio.to_thread(gate.wait)
        await jobs.join()
        assert {job.state for job in made} == {JobState.SUCCEEDED}


async def test_the_end_of_a_job_starts_the_next_one_without_any_timer() -> None:
    diary = Diary()
    async with Jobs(authorize="local", clock=FakeClock()) as jobs:  # time stands still
        for letter in LETTERS:
            jobs.enqueue(diary.job, letter, queue="q")
        await asyncio.wait_for(jobs.join(), 10)
    assert "".join(diary.ended) == LETTERS


async def test_with_a_hundred_deep_queues_and_as_many_places_a_late_job_starts_within_the_next_round(
    jobs: Jobs,
) -> None:
    starts: list[str] = []
    rounds = asyncio.Condition()
    go = asyncio.Event()

    async def deep(name: str) -> None:
        starts.append(name)
        async with rounds:
            rounds.notify_all()
        await go.wait()
        await asyncio.sleep(0)

    for n in range(100):
        for _ in range(10):
            jobs.enqueue(deep, f"deep{n}", queue=f"deep{n}")
    async with rounds:
        await rounds.wait_for(lambda: len(starts) == 100)
    assert len(set(starts)) == 100
    jobs.enqueue(deep, "late", queue="late")
    go.set()
    await jobs.join()
    assert starts.index("late") < 200


async def test_an_endless_producer_on_one_name_starves_nobody() -> None:
    done = asyncio.Event()
    async with Jobs(authorize="local", concurrency=1) as jobs:

        async def greedy() -> None:
            if not done.is_set():
                jobs.enqueue(greedy, queue="greedy")
                jobs.enqueue(greedy, queue="greedy")

        async def modest() -> None:
            done.set()

        jobs.enqueue(greedy, queue="greedy")
        await settle(50)
        jobs.enqueue(modest, queue="modest")
        await asyncio.wait_for(jobs.join(), 10)
    assert done.is_set()


async def test_a_job_may_enqueue_into_its_own_queue(jobs: Jobs) -> None:
    diary = Diary()

    async def parent() -> None:
        jobs.enqueue(diary.job, "child", queue="q")
        await diary.job("parent")

    jobs.enqueue(parent, queue="q")
    await jobs.join()
    assert diary.started == diary.ended == ["parent", "child"]


async def test_jobs_enqueued_from_many_threads_keep_the_order_of_each_threads_calls(jobs: Jobs) -> None:
    seen: list[tuple[int, int]] = []
    overlap = 0
    busy = False

    async def work(thread: int, n: int) -> None:
        nonlocal overlap, busy
        overlap += busy
        busy = True
        await asyncio.sleep(0)
        seen.append((thread, n))
        busy = False

    def produce(thread: int) -> None:
        for n in range(50):
            jobs.enqueue(work, thread, n, queue="q")

    threads = [Thread(target=produce, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await jobs.join()
    for thread_number in range(4):
        assert [n for thread, n in seen if thread == thread_number] == list(range(50))
    assert overlap == 0


async def test_the_next_job_starts_only_when_the_last_ones_clean_up_has_ended(jobs: Jobs) -> None:
    diary = Diary()

    async def first() -> None:
        try:
            await diary.job("first")
        finally:
            await settle(5)
            diary.ended.append("clean-up")

    jobs.enqueue(first, queue="q")
    jobs.enqueue(diary.job, "second", queue="q")
    await jobs.join()
    assert diary.ended == ["first", "clean-up", "second"]


@pytest.mark.parametrize("place", ["delay", "retry"])
async def test_a_job_that_waits_for_its_time_keeps_the_loop_idle(place: str) -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:

        async def work() -> None:
            if place == "retry" and job.attempt == 1:
                raise ValueError

        wait = timedelta(minutes=5) if place == "delay" else timedelta(0)
        job: Job = jobs.enqueue(work, delay=wait, retries=1)
        await settle()
        assert str(job.state) == "scheduled"
        await clock.advance(timedelta(minutes=6))
        assert str(job.state) == "succeeded"
