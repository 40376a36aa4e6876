"""Whatever happens to jobs in whatever order (B6): the promises hold in every state that Hypothesis finds."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asgi_jobs import Event, Job, Jobs, JobState, Retry, current_job
from asgi_jobs.testing import FakeClock, settle

QUEUES = {"narrow": 1, "other": 1, "wide": 2}
FINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
queues = st.sampled_from([*QUEUES, None])
which = st.integers(min_value=0, max_value=10**6)


class Machine(RuleBasedStateMachine):
    """A `Jobs` with a clock of its own on a loop of its own; each job does what the machine tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.jobs = Jobs(
            authorize="local",
            clock=self.clock,
            concurrency=3,
            queues={"wide": 2},
            max_queued=30,
            retention=timedelta(hours=1),
            shutdown_timeout=timedelta(0),
        )
        self.all: dict[str, Job] = {}
        self.orders: dict[str, asyncio.Future[str]] = {}
        self.running: Counter[str | None] = Counter()
        self.first_starts: defaultdict[str, list[int]] = defaultdict(list)
        self.delayed: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.paused: set[str] = set()
        self.overlaps: list[str] = []

    def do(self, action: Any) -> Any:
        async def act() -> Any:
            result = await action
            await settle()
            return result

        return self.loop.run_until_complete(act())

    def ask(self, question: Any) -> Any:
        return self.loop.run_until_complete(question)

    # What jobs do

    async def body(self) -> None:
        job = current_job().job
        queue = job.queue
        self.running[queue] += 1
        if queue is not None and self.running[queue] > QUEUES[queue]:
            self.overlaps.append(f"{self.running[queue]} in {queue}")
        if queue is not None and job.attempt == 1 and job.id not in self.delayed and job.retry_of is None:
            self.first_starts[queue].append(int(job.name))
        order = self.orders[job.id] = asyncio.get_running_loop().create_future()
        try:
            told = await order
            if told == "fail":
                raise ValueError(told)
        finally:
            for _ in range(2):
                await asyncio.sleep(0)
            self.running[queue] -= 1
            self.orders.pop(job.id, None)

    def listen(self, event: Event) -> None:
        if event.kind == "started":
            self.attempts[event.job.id, "start"] += 1
        elif event.kind != "enqueued":
            self.attempts[event.job.id, "end"] += event.job.started_at is not None or event.kind == "retrying"
        if event.kind in ("succeeded", "failed", "cancelled", "interrupted"):
            self.ends[event.job.id] += 1

    # What happens

    @initialize()
    def start(self) -> None:
        self.jobs.subscribe(self.listen)
        self.do(self.jobs.__aenter__())

    @rule(
        queue=queues,
        delay=st.sampled_from([None, None, 5]),
        retries=st.sampled_from([0, 1, 2]),
        timeout=st.sampled_from([None, None, 7]),
        unique=st.sampled_from([None, None, None, "key"]),
    )
    def enqueue(
        self, queue: str | None, delay: int | None, retries: int, timeout: int | None, unique: str | None
    ) -> None:
        async def enqueue() -> None:
            waiting = sum(job.state in (JobState.QUEUED, JobState.SCHEDULED) for job in self.all.values())
            if waiting >= 30:
                return
            job = self.jobs.enqueue(
                self.body,
                queue=queue,
                name=str(len(self.all)),
                delay=timedelta(seconds=delay) if delay else None,
                retries=Retry(retries, jitter=0, base=timedelta(seconds=retries - 1)) if retries else None,
                timeout=timedelta(seconds=timeout) if timeout else None,
                unique=unique,
            )
            if unique is None:
                assert job.id not in self.all
            self.all[job.id] = job
            if delay:
                self.delayed.add(job.id)

        self.do(enqueue())

    @precondition(lambda self: self.orders)
    @rule(number=which, told=st.sampled_from(["succeed", "succeed", "fail"]))
    def let_end(self, number: int, told: str) -> None:
        async def tell() -> None:
            order = list(self.orders.values())[number % len(self.orders)]
            if not order.done():
                order.set_result(told)

        self.do(tell())

    @precondition(lambda self: self.all)
    @rule(number=which)
    def cancel(self, number: int) -> None:
        job = list(self.all.values())[number % len(self.all)]
        before = job.state
        self.do(self.jobs.cancel(job.id))
        if before in FINAL:
            assert job.state is before
        elif before is not JobState.RUNNING:
            assert job.state is JobState.CANCELLED

    @precondition(lambda self: self.all)
    @rule(number=which)
    def cancel_while_others_end(self, number: int) -> None:
        async def both() -> None:
            for order in list(self.orders.values()):
                if not order.done():
                    order.set_result("succeed")
            await list(self.all.values())[number % len(self.all)].cancel()

        self.do(both())

    @rule(queue=st.sampled_from([*QUEUES]))
    def pause(self, queue: str) -> None:
        self.do(self.jobs.pause(queue))
        self.paused.add(queue)

    @rule(queue=st.sampled_from([*QUEUES]))
    def resume(self, queue: str) -> None:
        self.do(self.jobs.resume(queue))
        self.paused.discard(queue)

    @rule(seconds=st.sampled_from([0.5, 1, 3, 8]))
    def pass_time(self, seconds: float) -> None:
        self.do(self.clock.advance(timedelta(seconds=seconds)))

    @precondition(lambda self: any(job.state in FINAL for job in self.all.values()))
    @rule(number=which)
    def run_again(self, number: int) -> None:
        finished = [job for job in self.all.values() if job.state in (JobState.FAILED, JobState.CANCELLED)]
        waiting = sum(job.state in (JobState.QUEUED, JobState.SCHEDULED) for job in self.all.values())
        if not finished or waiting >= 30:
            return
        old = finished[number % len(finished)]
        job = self.do(self.jobs.retry(old.id))
        self.all[job.id] = job
        assert job.retry_of == old.id

    @rule()
    def shut_down_and_start_again(self) -> None:
        paused = set(self.paused)
        self.do(self.jobs.__aexit__(None, None, None))
        assert {job.state for job in self.all.values()} <= FINAL
        assert self.running.total() == 0
        self.do(self.jobs.__aenter__())
        assert {info.name for info in self.do(self.jobs.queues()) if info.paused_since} == paused

    # What always holds

    @invariant()
    def no_queue_ever_ran_more_than_it_may(self) -> None:
        assert self.overlaps == []

    @invariant()
    def jobs_of_a_queue_start_in_the_order_of_enqueue(self) -> None:
        for queue, started in self.first_starts.items():
            assert started == sorted(started), queue

    @invariant()
    def counts_add_up(self) -> None:
        counts = self.ask(self.jobs.counts())
        assert counts == {state: sum(job.state is state for job in self.all.values()) for state in JobState}

    @invariant()
    def every_finished_job_was_told_of_once_and_no_other(self) -> None:
        ended = {id for id, job in self.all.items() if job.state in FINAL}
        assert set(self.ends) == ended
        assert set(self.ends.values()) <= {1}

    @invariant()
    def there_is_one_end_event_for_each_start_event_of_an_ended_attempt(self) -> None:
        for id, job in self.all.items():
            started, ended = self.attempts[id, "start"], self.attempts[id, "end"]
            assert started - ended == (job.state is JobState.RUNNING), (job, started, ended)

    @invariant()
    def queues_tell_what_runs_and_waits(self) -> None:
        unfinished = [job for job in self.all.values() if job.state not in FINAL]
        for info in self.ask(self.jobs.queues()):
            mine = [job for job in unfinished if job.queue == info.name]
            assert info.running == sum(job.state is JobState.RUNNING for job in mine)
            assert info.queued == sum(job.state is JobState.QUEUED and not job.held for job in mine)

    @invariant()
    def nothing_stands_still_that_may_start(self) -> None:
        running = sum(job.state is JobState.RUNNING for job in self.all.values())
        if running == 3:
            return
        for job in self.all.values():
            if job.state is JobState.QUEUED:
                assert job.queue is not None, f"{job} could start"
                slots = sum(
                    other.queue == job.queue and (other.state is JobState.RUNNING or other.held)
                    for other in self.all.values()
                )
                assert job.queue in self.paused or slots >= QUEUES[job.queue], f"{job} could start"

    def teardown(self) -> None:
        try:
            self.do(self.jobs.__aexit__(None, None, None))
            assert asyncio.all_tasks(self.loop) == set()
            assert {job.state for job in self.all.values()} <= FINAL
        finally:
            self.loop.close()


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logger = logging.getLogger("asgi_jobs")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


class TestMachine(Machine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
