"""How times are taken: interleaved rounds, medians, ratios within a round."""

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.peers.contender import Contender


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender with the queue names of each of its bursts."""

    label: str
    contender: Contender
    bursts: Sequence[Sequence[str | None]]


def interleaved(entries: Sequence[Entry], rounds: int) -> dict[str, list[float]]:
    """Jobs per second of each entry, one figure a round; each round begins with another entry."""
    return in_turn({entry.label: partial(_rate, entry) for entry in entries}, rounds)


def in_turn(samples: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Take a sample of each in every round; each round begins with another one."""
    values: dict[str, list[float]] = {label: [] for label in samples}
    labels = list(samples)
    for turn in range(rounds):
        shift = turn % len(labels)
        for label in [*labels[shift:], *labels[:shift]]:
            values[label].append(samples[label]())
    return values


def _rate(entry: Entry) -> float:
    return sum(map(len, entry.bursts)) / asyncio.run(_timed(entry))


async def _timed(entry: Entry) -> float:
    async with entry.contender.open() as burst:
        gc.collect()
        begin = time.perf_counter()
        for names in entry.bursts:
            await burst(names)
        return time.perf_counter() - begin


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios, which a slow spell of the machine does not move."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
