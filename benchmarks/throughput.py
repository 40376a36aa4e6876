"""Enqueue to recorded end: against the idiom that records nothing, and against other libraries.

The size of a burst matters: thousands of tasks alive at once are a burden to the interpreter's collector,
which an engine that runs a hundred at a time does not have. So the bursts are those of a busy request, and a
big one is shown beside them.
"""

from collections.abc import Callable, Sequence

from benchmarks.measure import Entry, interleaved, ratio
from benchmarks.peers import IDIOM, LIBRARIES, OURS, OURS_FULL, Contender
from benchmarks.scale import Scale
from benchmarks.table import Row, at_least, per_second

Name = Callable[[int], str | None]

FULL = "no queue, record list full"
SHAPES: dict[str, tuple[Contender, Name, float]] = {
    "no queue": (OURS, lambda number: None, 0.8),
    FULL: (OURS_FULL, lambda number: None, 0.8),
    "100 names": (OURS, lambda number: f"name {number % 100}", 0.8),
    "a name per job": (OURS, lambda number: f"name {number}", 0.8),
    "one single name": (OURS, lambda number: "name", 0.5),
}
"""How jobs are named, by whom they are run, and the least ratio to the idiom."""


def against_the_idiom(scale: Scale) -> list[Row]:
    """Every shape of queue names; the steady state in which each end drops an old record; one big burst."""
    rates = interleaved([Entry(IDIOM.name, IDIOM, _bursts(scale)), *_entries(scale)], scale.rounds)
    rows = [_row(label, rates[label], IDIOM.name, rates[IDIOM.name], SHAPES[label][2]) for label in SHAPES]
    return [*rows, _in_one_burst(scale)]


def against_libraries(scale: Scale) -> list[Row]:
    """The same jobs in one burst, which suits those with threads best; fewer: the slowest needs its time."""
    names: Sequence[str | None] = [None] * (scale.burst * scale.bursts // 4)
    rates = interleaved([Entry(peer.name, peer, [names]) for peer in (OURS, *LIBRARIES)], scale.rounds)
    return [_row("no queue", rates[OURS.name], peer.name, rates[peer.name], 4) for peer in LIBRARIES]


def _entries(scale: Scale) -> list[Entry]:
    return [Entry(label, contender, _bursts(scale, name)) for label, (contender, name, _) in SHAPES.items()]


def _bursts(scale: Scale, name: Name = lambda number: None) -> list[Sequence[str | None]]:
    starts = range(0, scale.burst * scale.bursts, scale.burst)
    return [[name(number) for number in range(start, start + scale.burst)] for start in starts]


def _in_one_burst(scale: Scale) -> Row:
    count = scale.burst * scale.bursts
    names: Sequence[str | None] = [None] * count
    rates = interleaved([Entry(peer.name, peer, [names]) for peer in (IDIOM, OURS)], scale.rounds)
    return _row(f"no queue, {count:,} at once", rates[OURS.name], IDIOM.name, rates[IDIOM.name], 0.8)


def _row(shape: str, ours: Sequence[float], against: str, theirs: Sequence[float], goal: float) -> Row:
    figure = f"empty jobs, {shape}"
    return at_least(figure, per_second(ours), against, per_second(theirs), ratio(ours, theirs), goal)
