"""How a trial with many processes ends: all that is left is run, every queue is tried once more, then judged."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asgi_jobs import Jobs, JobState
from benchmarks.crash_app import build
from benchmarks.history import LOST, NOT_ALIVE, OUT_OF_ORDER, OVERLAPPING, RAN_ANYWAY, Report
from benchmarks.journal import Journal, Kind
from benchmarks.table import Row

KINDS = (LOST, OUT_OF_ORDER, OVERLAPPING, NOT_ALIVE, RAN_ANYWAY)
UNFINISHED = (JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial: the history's report, and processes that ended though nobody killed them."""

    report: Report
    complaints: list[str]
    seconds: float

    @property
    def found(self) -> list[str]:
        """Every fault, in words."""
        faults = [f"{fault.kind}, {fault.queue}: {fault.text}" for fault in self.report.faults]
        return [*faults, *self.complaints]


async def drained(store: str, journal: Journal, queues: Sequence[str], patience: float, expected: int = 0) -> None:
    """Let everything end, send one more job to every queue, and ask the store whom it has given up.

    Args:
        store: where the jobs are.
        journal: of this process.
        queues: all their names.
        patience: seconds that are waited for the end of all, twice.
        expected: how many there have to be before the end of all means anything.
    """
    jobs, work = build(store, journal, concurrency=0)
    async with jobs:
        for queue in queues:
            await jobs.resume(queue)
        await _all_ended(jobs, expected, patience)
        for number, queue in enumerate(queues):
            journal.write(Kind.CALLED, f"probe.{number}", queue, probe=True)
            await work.using(queue=queue, name=f"probe.{number}").enqueue(f"probe.{number}", 0.0, 0)
            journal.write(Kind.ACCEPTED, f"probe.{number}")
        await _all_ended(jobs, expected, patience)
        for job in await jobs.find(state=JobState.FAILED, limit=100_000):
            if job.error is not None and job.error.type.endswith("ProcessDied"):
                journal.write(Kind.GAVE_UP, job.name)
    journal.close()


async def _all_ended(jobs: Jobs, expected: int, patience: float) -> None:
    """Wait until no job is left, as long as there is hope; what is left then is found as lost."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        counts = await jobs.counts()
        if sum(counts.values()) >= expected and not any(counts[state] for state in UNFINISHED):
            return
        await asyncio.sleep(0.2)


def table(store: str, numbers: Mapping[str, int], outcome: Outcome) -> list[Row]:
    """What was done, and how many faults of each kind were found."""
    faults = {kind: outcome.report.count(kind) for kind in KINDS}
    faults["processes that ended by themselves"] = len(outcome.complaints)
    return [
        *(Row(f"{store}: {name}", f"{number:,}") for name, number in numbers.items()),
        *(Row(f"{store}: {name}", f"{number:,}", goal="0", met=not number) for name, number in faults.items()),
    ]
