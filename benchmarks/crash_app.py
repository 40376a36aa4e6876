"""The processes that `benchmarks.crash` kills: one that enqueues, one that runs jobs.

Both use the public interface only, and write down
what they do. Not public is how soon the others take over from a process that has died: here after a second, for a
user's 20 seconds would leave nobody alive for long enough.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from asgi_jobs import Job, Jobs, Retry, Task, current_job
from asgi_jobs.stores.sql import SqlStore
from benchmarks.journal import Journal, Kind

Work = Task[[str, float, int], Coroutine[Any, Any, None]]
Sessions = async_sessionmaker[AsyncSession]

QUEUES = tuple(f"queue {number}" for number in range(24))
LIMITS = {"queue 0": 3, "queue 1": 2}
CALLERS = 3
"""How many callers enqueue at once in a process."""


def build(store: str, journal: Journal, *, concurrency: int) -> tuple[Jobs, Work]:
    """The application, the same in every process: one task, which writes down what it does."""
    SqlStore.grace, SqlStore.beat = 0.5, 0.1
    jobs = Jobs(
        store=store,
        queues=LIMITS,
        concurrency=concurrency,
        authorize="local",
        retention=timedelta(days=1),
        shutdown_timeout=timedelta(seconds=10),
    )

    @jobs.task(key="work")
    async def work(number: str, seconds: float, failures: int) -> None:
        """Take a while; fail as often as wanted."""
        run, outcome = journal.write(Kind.STARTED, number), "error"
        try:
            await asyncio.sleep(seconds)
            if current_job().job.attempt <= failures:
                raise RuntimeError("as wanted")
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            await asyncio.sleep(seconds)  # the clean-up: nobody else may begin before its end
            raise
        finally:
            journal.write(Kind.ENDED, number, run=run, outcome=outcome)

    return jobs, work


class Caller:
    """One of several in a process that enqueue, cancel, pause and resume as it comes."""

    def __init__(self, jobs: Jobs, work: Work, journal: Journal, sessions: Sessions | None, seed: str) -> None:
        self.jobs = jobs
        self.work = work
        self.journal = journal
        self.sessions = sessions
        self.chance = random.Random(seed)
        self.numbers = (f"{seed}.{number}" for number in count(1))
        self.recent: list[Job] = []

    async def act(self) -> None:
        """Do one thing."""
        actions = {self.enqueue: 80, self.enqueue_by_commit: 8, self.cancel: 3, self.pause: 2, self.resume: 7}
        (action,) = self.chance.choices(list(actions), list(actions.values()))
        await action()

    async def enqueue(self) -> None:
        """Call for one or several, then wait until all are accepted."""
        numbers = [next(self.numbers) for _ in range(self.chance.choice((1, 2, 5)))]
        for number, job in [(number, self.call(number)) for number in numbers]:
            self.recent = [*self.recent[-9:], await job]
            self.journal.write(Kind.ACCEPTED, number)

    def call(self, number: str) -> Job:
        """One call, with whatever policy."""
        failures = self.chance.choice((0, 0, 0, 0, 0, 0, 1, 2))
        hopeless = failures == 2 and self.chance.random() < 0.3
        delay = timedelta(seconds=self.chance.uniform(0.05, 0.5)) if self.chance.random() < 0.05 else None
        queue = None if self.chance.random() < 0.05 else self.chance.choice(QUEUES)
        retry = Retry(1 if hopeless else failures, base=timedelta(milliseconds=20))
        self.journal.write(Kind.CALLED, number, queue, delayed=delay is not None, hopeless=hopeless)
        configured = self.work.using(queue=queue, name=number, retries=retry, delay=delay)
        return configured.enqueue(number, self.chance.choice((0.0, 0.05, 0.1, 0.5)), failures)

    async def enqueue_by_commit(self) -> None:
        """Enqueue with a transaction that stays open for a while, and is sometimes taken back."""
        if self.sessions is None:
            return
        number, queue = next(self.numbers), self.chance.choice(QUEUES)
        async with self.sessions() as session:
            self.journal.write(Kind.CALLED, number, queue, by_commit=True)
            self.work.using(queue=queue, name=number, on_commit=session).enqueue(number, 0.02, 0)
            await asyncio.sleep(self.chance.uniform(0, 0.2))
            if self.chance.random() < 0.2:
                self.journal.write(Kind.ROLLED_BACK, number)
                await session.rollback()
            else:
                await session.commit()
                self.journal.write(Kind.ACCEPTED, number)

    async def cancel(self) -> None:
        """Ask a job to stop that may wait, run or have ended."""
        if self.recent:
            job = self.chance.choice(self.recent)
            self.journal.write(Kind.CANCELLING, job.name)
            await job.cancel(reason="as it comes")

    async def pause(self) -> None:
        """Let a queue stand for a while; who is killed meanwhile leaves that to the others."""
        await self.jobs.pause(self.chance.choice(QUEUES))

    async def resume(self) -> None:
        """Let a queue go on, if it stands."""
        await self.jobs.resume(self.chance.choice(QUEUES))


async def enqueue(store: str, journal: Journal, seed: int) -> None:
    """Enqueue until asked to end."""
    stop = asked_to_end()
    jobs, work = build(store, journal, concurrency=0)
    postgresql = store.startswith("postgresql")  # a session of SQLite would have to begin with BEGIN, and hold up all
    sessions = async_sessionmaker(create_async_engine(store)) if postgresql else None

    async def call(caller: Caller) -> None:
        while not stop.is_set():
            await caller.act()
            await asyncio.sleep(caller.chance.uniform(0, 0.1))

    async with jobs, asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            caller = Caller(jobs, work, journal, sessions, f"{seed}.{journal.process}.{number}")
            group.create_task(call(caller))


async def run(store: str, journal: Journal, seed: int) -> None:
    """Run jobs until asked to end."""
    stop = asked_to_end()
    jobs, _ = build(store, journal, concurrency=100)
    async with jobs:
        await stop.wait()


ROLES: dict[str, Callable[[str, Journal, int], Coroutine[Any, Any, None]]] = {"enqueue": enqueue, "run": run}


def asked_to_end() -> asyncio.Event:
    """Set when the process is told to end."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


def main(role: str, name: str, folder: str, store: str, seed: str) -> None:
    """Be one of the processes."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(ROLES[role](store, Journal(Path(folder), name), int(seed)))
