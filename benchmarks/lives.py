"""The lives of jobs, put together from what many processes wrote."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.journal import Event, Kind

NEVER = math.inf


@dataclass(slots=True)
class Run:
    """From the first to the last line of a job's code, once."""

    job: str
    process: str
    started: int
    ended: float = NEVER
    outcome: str | None = None


@dataclass(slots=True)
class Life:
    """All that is known of one job."""

    job: str
    queue: str | None
    caller: str
    called: int
    delayed: bool = False
    probe: bool = False
    by_commit: bool = False
    expected: str = "ok"
    accepted: float = NEVER
    excused: bool = False
    rolled_back: bool = False
    runs: list[Run] = field(default_factory=list)

    @property
    def first_run(self) -> Run:
        """The run that began first; only of a job that has run."""
        return self.runs[0]

    @property
    def first_start(self) -> float:
        """When its code began; a job that never ran begins never."""
        return self.runs[0].started if self.runs else NEVER

    @property
    def last_end(self) -> float:
        """When its code ended for the last time; a job that never ran keeps nobody waiting."""
        return max((run.ended for run in self.runs), default=-NEVER)

    @property
    def ended_well(self) -> bool:
        """Whether it has ended as it was meant to."""
        return any(run.outcome == self.expected for run in self.runs)


def lives_of(events: Iterable[Event]) -> dict[str, Life]:
    """The life of each job, by its number; the events come by time."""
    lives: dict[str, Life] = {}
    runs: dict[tuple[str, int], Run] = {}
    for event in events:
        if event.kind is Kind.CALLED:
            lives[event.job] = _called(event)
        elif event.kind is Kind.STARTED:
            run = runs[event.process, event.at] = Run(event.job, event.process, event.at)
            lives[event.job].runs.append(run)
        elif event.kind is Kind.ENDED:
            run = runs[event.process, event.facts["run"]]
            run.ended, run.outcome = event.at, event.facts["outcome"]
        elif event.kind is not Kind.KILLED:
            _marked(lives[event.job], event)
    return lives


def _called(event: Event) -> Life:
    life = Life(event.job, event.queue, event.process, event.at)
    life.delayed = event.facts.get("delayed", False)
    life.probe = event.facts.get("probe", False)
    life.by_commit = event.facts.get("by_commit", False)
    life.expected = "error" if event.facts.get("hopeless") else "ok"
    return life


def _marked(life: Life, event: Event) -> None:
    if event.kind is Kind.ACCEPTED:
        life.accepted = event.at
    elif event.kind is Kind.ROLLED_BACK:
        life.rolled_back = True
    else:
        life.excused = True
