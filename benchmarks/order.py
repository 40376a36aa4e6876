"""Whether jobs of one queue ran in the order in which they were enqueued.

A came before B when it was accepted before B's call began, or when one process called both in that order. Whatever
else overlapped in time may have gone either way: no promise, and nothing to check.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, permutations

from benchmarks.lives import NEVER, Life


@dataclass(slots=True)
class Order:
    """How many pairs had an order, and what was found in them."""

    pairs: int = 0
    texts: list[str] = field(default_factory=list)


def one_by_one(lives: Iterable[Life]) -> Order:
    """Of a queue that runs one job at a time: B starts after the last run of every A that came before it."""
    lives = [life for life in lives if not life.delayed]
    by_acceptance = sorted((life for life in lives if life.accepted < NEVER), key=lambda life: life.accepted)
    moments = [life.accepted for life in by_acceptance]
    latest = list(accumulate(by_acceptance, _later))
    order = Order()
    for life, unconfirmed in _with_unconfirmed(lives):
        accepted = bisect_left(moments, life.called)
        order.pairs += accepted + len(unconfirmed)
        for earlier in [*unconfirmed, *latest[max(0, accepted - 1) : accepted]]:
            if earlier.last_end > life.first_start:
                order.texts.append(_text(life, earlier))
                break
    return order


def _with_unconfirmed(lives: Iterable[Life]) -> Iterator[tuple[Life, list[Life]]]:
    """Each job, and those that its own process had called before and that were not accepted yet."""
    pending: dict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: life.called):
        unconfirmed = [other for other in pending[life.caller] if other.accepted >= life.called]
        if life.by_commit:  # it comes in the order of the commits
            yield life, []
        else:
            yield life, unconfirmed
            unconfirmed = [*unconfirmed, life]
        pending[life.caller] = unconfirmed


def _later(one: Life, other: Life) -> Life:
    return one if one.last_end >= other.last_end else other


def side_by_side(lives: Iterable[Life], kills: Iterable[int]) -> Order:
    """Of a queue that runs several: B does not *start* before an A that came before it.

    Only of runs in one process, whose lines are in order; and not where a process was killed while A waited:
    that may have been between its claim and its first line.
    """
    order, kills = Order(), sorted(kills)
    started = [life for life in lives if life.runs and not life.delayed]
    for earlier, life in permutations(started, 2):
        if earlier.accepted < life.called and _comparable(earlier, life, kills):
            order.pairs += 1
            if earlier.first_run.started > life.first_run.started:
                order.texts.append(_text(life, earlier))
    return order


def _comparable(earlier: Life, life: Life, kills: Sequence[int]) -> bool:
    first = earlier.first_run
    return first.process == life.first_run.process and (
        bisect_left(kills, earlier.called) == bisect_left(kills, first.started)
    )


def _text(life: Life, earlier: Life) -> str:
    return f"{life.job} started before {earlier.job} had ended, which was enqueued before it"
