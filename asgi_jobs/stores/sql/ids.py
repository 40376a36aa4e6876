"""Ids that sort by the time of the call, made where the call is: `enqueue` can give one before anything is stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from secrets import choice

from asgi_jobs.clock import Epoch

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32; in the order of its characters
TIME_WIDTH = 9  # of milliseconds: until the year 3084
CHANCE_WIDTH = 7
SHAPE = re.compile(r"[0-9a-z]{10,24}[0-9a-f]{6}")


class Ids:
    """Epochs for new records: a record's id is its epoch's prefix and its number."""

    def __init__(self, time: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._time = time
        self._monotonic = monotonic
        self._chance = "".join(choice(ALPHABET) for _ in range(CHANCE_WIDTH))
        self._millisecond = -1
        self._epoch = Epoch("", 0.0)

    def epoch(self) -> Epoch:
        """The epoch of now; never an older one than before, whatever happens to the clock."""
        time = self._time()
        millisecond = int(time * 1_000)
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            self._epoch = Epoch(_digits(millisecond) + self._chance, time - self._monotonic())
        return self._epoch


def is_id(text: str) -> bool:
    """Whether this can be an id at all."""
    return SHAPE.fullmatch(text) is not None


def _digits(number: int) -> str:
    digits = []
    for _ in range(TIME_WIDTH):
        number, digit = divmod(number, 32)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
