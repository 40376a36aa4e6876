"""How an attempt ended: decided from values here, carried out elsewhere."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from enum import Enum, auto
from traceback import clear_frames
from typing import NamedTuple

from asgi_jobs.clock import in_words
from asgi_jobs.stores.base import Verdict
from asgi_jobs.task import Retry


class Stop(Enum):
    """Why an attempt was asked to stop."""

    CANCEL = auto()
    TIMEOUT = auto()
    SHUTDOWN = auto()
    LOST = auto()  # the job may not go on here: another process may have it, or will


class Ending(NamedTuple):
    """What is told to the store."""

    verdict: Verdict
    error: BaseException | None = None
    delay: float = 0.0


def decide(
    failure: BaseException | None,
    stop: Stop | None,
    *,
    heard: bool,
    timeout: timedelta | None,
    retry: Retry | None,
    attempt: int,
) -> Ending:
    """How an attempt ended, honestly.

    Args:
        failure: what its body or its scope raised.
        stop: why it was asked to stop.
        heard: a function in a thread has read that it should, so that its return means that it did.
        timeout: its time limit.
        retry: its policy, where another attempt is possible at all.
        attempt: its number.
    """
    if stop is Stop.TIMEOUT:
        where = failure.__traceback__ if failure is not None else None
        failure = _timed_out(timeout).with_traceback(where)
    elif failure is None and not (heard and stop is not None):
        return Ending(Verdict.SUCCEEDED)
    elif stop is not None and (failure is None or isinstance(failure, asyncio.CancelledError)):
        return Ending(Verdict.CANCELLED)
    delay = retry.decide(attempt, failure) if retry is not None else None
    return Ending(Verdict.FAILED, failure) if delay is None else Ending(Verdict.HELD, failure, delay)


def unsaid(stop: Stop | None, *, heard: bool, timeout: timedelta | None) -> BaseException | None:
    """The error of an attempt whose body returned as if nothing had been, though it is no success."""
    if stop is Stop.TIMEOUT:
        return _timed_out(timeout)
    return asyncio.CancelledError() if heard and stop is not None else None


def _timed_out(timeout: timedelta | None) -> TimeoutError:
    assert timeout is not None  # it has stopped the attempt
    return TimeoutError(f"timed out after {in_words(timeout)}")


def let_go(error: BaseException) -> None:
    """Free what the frames of an interrupted body hold.

    A cancel in the middle of a statement leaves a cursor in a cycle through the traceback, and with it, on
    SQLite, a lock on the database until the garbage collector comes by (seen with aiosqlite 0.22).
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        clear_frames(link.__traceback__)
        link = link.__context__
