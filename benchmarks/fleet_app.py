"""One of the processes of `benchmarks.fleet`: it enqueues its share, and runs what comes."""

import asyncio
import logging
import random
from pathlib import Path

from asgi_jobs import Retry
from benchmarks.crash_app import Work, asked_to_end, build
from benchmarks.journal import Journal, Kind

CHUNK = 100
"""So many calls are made one after another before the first is awaited."""


async def work_along(store: str, journal: Journal, share: int, queues: int) -> None:
    """Enqueue, run, and go on running until asked to end."""
    stop = asked_to_end()
    jobs, work = build(store, journal, concurrency=100)
    async with jobs:
        for first in range(0, share, CHUNK):
            await _enqueue(work, journal, range(first, min(first + CHUNK, share)), queues)
        await stop.wait()


async def _enqueue(work: Work, journal: Journal, numbers: range, queues: int) -> None:
    chance, under_way = random.Random(f"{journal.process} {numbers.start}"), {}
    for number in (f"{journal.process}.{n}" for n in numbers):
        queue, failures = f"queue {chance.randrange(queues)}", int(chance.random() < 0.02)
        journal.write(Kind.CALLED, number, queue)
        configured = work.using(queue=queue, name=number, retries=Retry(failures))
        under_way[number] = configured.enqueue(number, chance.uniform(0, 0.01), failures)
    for number, job in under_way.items():
        await job
        journal.write(Kind.ACCEPTED, number)


def main(_role: str, name: str, folder: str, store: str, share: str, queues: str) -> None:
    """Be one of the processes."""
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(work_along(store, Journal(Path(folder), name), int(share), int(queues)))
