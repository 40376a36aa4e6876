"""Many processes on one PostgreSQL, all of which enqueue and run jobs of the same queues: is anything out of order?"""

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks import postgres
from benchmarks.crash_app import LIMITS
from benchmarks.history import check
from benchmarks.journal import Event, Journal, Kind, events
from benchmarks.processes import Crew
from benchmarks.table import Row
from benchmarks.verdict import Outcome, drained, table


@dataclass(frozen=True, slots=True)
class Size:
    """How much is tried.

    Attributes:
        processes: how many of them.
        queues: how many names.
        jobs: how many jobs in all.
        patience: seconds within which everything has to end.
    """

    processes: int = 8
    queues: int = 500
    jobs: int = 50_000
    patience: float = 900.0


def tried(size: Size) -> tuple[Outcome, list[Row]]:
    """Let them work; what was found, and the table of it."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asgi_jobs_fleet_") as folder, postgres.server() as server:
        complaints = _worked(size, postgres.for_asyncpg(server.create("fleet")), Path(folder))
        history = events(Path(folder))
    outcome = Outcome(check(history, LIMITS), complaints, time.monotonic() - begin)
    return outcome, _rows(size, outcome, history)


def _worked(size: Size, store: str, folder: Path) -> list[str]:
    share = size.jobs // size.processes
    crew = Crew("benchmarks.fleet_app", folder, [store, str(share), str(size.queues)])
    try:
        for _ in range(size.processes):
            crew.start("process")
        queues = [f"queue {number}" for number in range(size.queues)]
        asyncio.run(drained(store, Journal(folder, "end"), queues, size.patience, size.jobs))
        crew.look()
        crew.stop("process")
    finally:
        crew.close()
    return crew.complaints


def _rows(size: Size, outcome: Outcome, history: list[Event]) -> list[Row]:
    started = [event for event in history if event.kind is Kind.STARTED]
    shares = Counter(event.process for event in started).values()
    seconds = (started[-1].at - started[0].at) / 1e9
    numbers = {
        "processes": size.processes,
        "queue names": size.queues,
        "jobs accepted": outcome.report.accepted,
        "runs": outcome.report.runs,
        "runs a second": round(len(started) / seconds),
        "runs in the busiest process": max(shares),
        "runs in the idlest process": min(shares),
        "pairs whose order was checked": outcome.report.pairs,
    }
    return table("postgresql", numbers, outcome)
