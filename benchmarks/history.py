"""Whether a history of jobs keeps the promises: nothing lost, in order, one at a time, every queue alive.

What is written by processes that are killed (`benchmarks.journal`) is all that this looks at: no store, no log.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from benchmarks import order
from benchmarks.journal import Event, Kind
from benchmarks.lives import NEVER, Life, Run, lives_of

LOST = "lost"
OUT_OF_ORDER = "out of order"
OVERLAPPING = "overlapping"
NOT_ALIVE = "not alive"
RAN_ANYWAY = "ran though rolled back"


@dataclass(frozen=True, slots=True)
class Fault:
    """A promise that was not kept."""

    kind: str
    queue: str | None
    text: str


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    jobs: int
    accepted: int
    runs: int
    cut_off: int
    ran_again: int
    given_up: int
    kills: int
    pairs: int
    faults: list[Fault]

    def count(self, kind: str) -> int:
        """How many faults of a kind there are."""
        return sum(fault.kind == kind for fault in self.faults)


def check(events: Iterable[Event], limits: Mapping[str, int] | None = None) -> Report:
    """Look through a whole history.

    Args:
        events: by time.
        limits: queues that run more than one job at once, and how many.
    """
    events = list(events)
    lives = lives_of(events)
    kills = {event.process: event.at for event in events if event.kind is Kind.KILLED}
    runs = [run for life in lives.values() for run in life.runs]
    cut_off = sum(_cut_off(run, kills) for run in runs)
    faults, pairs = [*_lost(lives.values()), *_not_rolled_back(lives.values())], 0
    for queue, members in _by_queue(lives.values()).items():
        limit = (limits or {}).get(queue, 1)
        late = order.one_by_one(members) if limit == 1 else order.side_by_side(members, kills.values())
        faults += [Fault(OUT_OF_ORDER, queue, text) for text in late.texts]
        faults += [*_overlaps(queue, members, limit), *_silence(queue, members)]
        pairs += late.pairs
    return Report(
        jobs=len(lives),
        accepted=sum(life.accepted < NEVER for life in lives.values()),
        runs=len(runs),
        cut_off=cut_off,
        ran_again=sum(sum(run.outcome == "ok" for run in life.runs) > 1 for life in lives.values()),
        given_up=sum(event.kind is Kind.GAVE_UP for event in events),
        kills=len(kills),
        pairs=pairs,
        faults=faults,
    )


def _cut_off(run: Run, kills: Mapping[str, int]) -> bool:
    """Whether a kill ended the run; it then ended at the kill, and not before it began."""
    if run.ended < NEVER or run.process not in kills:
        return False
    run.ended = max(run.started, kills[run.process])
    return True


def _by_queue(lives: Iterable[Life]) -> dict[str, list[Life]]:
    queues: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        if life.queue is not None:
            queues[life.queue].append(life)
    return queues


def _lost(lives: Iterable[Life]) -> Iterator[Fault]:
    for life in lives:
        if life.accepted < NEVER and not life.excused and not life.ended_well:
            yield Fault(LOST, life.queue, f"{life.job} was accepted and never ended ({len(life.runs)} runs)")


def _not_rolled_back(lives: Iterable[Life]) -> Iterator[Fault]:
    for life in lives:
        if life.rolled_back and life.runs:
            yield Fault(RAN_ANYWAY, life.queue, f"{life.job} ran, though its transaction was rolled back")


def _silence(queue: str, lives: Iterable[Life]) -> Iterator[Fault]:
    """The queue is alive when a job that was sent after all the others has ended."""
    if not any(life.probe and life.ended_well for life in lives):
        yield Fault(NOT_ALIVE, queue, "no job that was sent at the end has ended")


def _overlaps(queue: str, lives: Iterable[Life], limit: int) -> Iterator[Fault]:
    under_way: list[tuple[float, int, str]] = []
    for run in sorted((run for life in lives for run in life.runs), key=lambda run: run.started):
        while under_way and under_way[0][0] <= run.started:
            heappop(under_way)
        if len(under_way) >= limit:
            beside = ", ".join(job for _, _, job in under_way)
            yield Fault(OVERLAPPING, queue, f"{run.job} started in {run.process} beside {beside}")
        heappush(under_way, (run.ended, run.started, run.job))
