"""Processes that enqueue and processes that run jobs are killed with -9, again and again: is anything lost?

What the processes wrote down is checked at the end, when all that was left has been run and one further job of
every queue has ended.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import postgres
from benchmarks.crash_app import LIMITS, QUEUES
from benchmarks.history import check
from benchmarks.journal import Journal, events
from benchmarks.processes import Crew
from benchmarks.table import Row
from benchmarks.verdict import Outcome, drained, table


@dataclass(frozen=True, slots=True)
class Trial:
    """How much is tried.

    Attributes:
        store: sqlite or postgresql.
        kills: how many processes are killed.
        longest: seconds after which no more are.
        pace: the longest time between two kills, in seconds.
        enqueuers, runners: how many processes of each kind live at once.
        patience: seconds within which everything has to end after the last kill.
        seed: of all that is random.
    """

    store: str = "sqlite"
    kills: int = 200
    longest: float = 1_800.0
    pace: float = 2.0
    enqueuers: int = 2
    runners: int = 3
    patience: float = 120.0
    seed: int = 1


def tried(trial: Trial) -> Outcome:
    """Make the trial."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asgi_jobs_crash_") as folder, _store(trial, Path(folder)) as store:
        complaints = _kill(trial, store, Path(folder))
        return Outcome(check(events(Path(folder)), LIMITS), complaints, time.monotonic() - begin)


@contextmanager
def _store(trial: Trial, folder: Path) -> Iterator[str]:
    if trial.store == "sqlite":
        yield f"sqlite+aiosqlite:///{folder / 'jobs.db'}"
        return
    with postgres.server() as server:
        yield postgres.for_asyncpg(server.create("crash"))


def _kill(trial: Trial, store: str, folder: Path) -> list[str]:
    crew = Crew("benchmarks.crash_app", folder, [store, str(trial.seed)])
    try:
        for role, number in (("run", trial.runners), ("enqueue", trial.enqueuers)):
            for _ in range(number):
                crew.start(role)
        _at_random_points(trial, crew)
        crew.stop("enqueue")
        asyncio.run(drained(store, Journal(folder, "end"), QUEUES, trial.patience))
        crew.look()
        crew.stop("run")
    finally:
        crew.close()
    return crew.complaints


def _at_random_points(trial: Trial, crew: Crew) -> None:
    chance, limit = random.Random(trial.seed), time.monotonic() + trial.longest
    for number in range(trial.kills):
        time.sleep(chance.uniform(0, trial.pace))
        if time.monotonic() > limit:
            break
        crew.look()
        crew.replace(chance)
        if sys.stderr.isatty():
            print(f"\r{number + 1} kills", end="", file=sys.stderr)


def rows(trial: Trial, outcome: Outcome) -> list[Row]:
    """The table of a trial."""
    report = outcome.report
    numbers = {
        "processes killed with -9": report.kills,
        "seconds": round(outcome.seconds),
        "jobs accepted": report.accepted,
        "runs": report.runs,
        "runs cut off by a kill": report.cut_off,
        "ran again after their end": report.ran_again,
        "given up after three deaths": report.given_up,
        "pairs whose order was checked": report.pairs,
    }
    return table(trial.store, numbers, outcome)
