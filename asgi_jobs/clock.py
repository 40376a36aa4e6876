"""The one place that asks what time it is; tests put a clock of their own here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol


class Timer(Protocol):
    """Something that will happen, and can be called off."""

    def cancel(self) -> None:
        """Call it off; harmless when it has happened."""


class Clock:
    """Real time. Durations come from `monotonic`, dates from `time`."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    time: Callable[[], float] = staticmethod(time.time)

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Timer:
        """Call the function on the running loop, `seconds` from now."""
        return asyncio.get_running_loop().call_later(seconds, function, *args)


class Epoch:
    """What ties monotonic seconds to dates and a record's number to its id.

    Records hold monotonic seconds only, and share the epoch in which they were made: no duration is ever
    negative, and a clock that is set leaves the dates of older records as they were.
    """

    __slots__ = ("offset", "prefix")

    def __init__(self, prefix: str, offset: float) -> None:
        self.prefix = prefix
        self.offset = offset

    def date(self, monotonic: float) -> datetime:
        """The date of a monotonic time."""
        return datetime.fromtimestamp(monotonic + self.offset, UTC)


def in_words(length: timedelta) -> str:
    """A length of time in a sentence: "1 hour", "90 minutes", "0.5 seconds"."""
    seconds = length.total_seconds()
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return _amount(seconds / size, noun)
    return _amount(seconds, "second")


def _amount(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
