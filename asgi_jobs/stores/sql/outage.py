"""One log line when the database stops answering, one when it answers again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from asgi_jobs.errors import StoreError

CALM = 5.0
"""Seconds without another failure after which it is over: on a full disk a small write may succeed now and then."""
logger = logging.getLogger("asgi_jobs")


class Outage:
    """Whether the database answers, as far as its last user knows."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: float | None = None
        self._until: float | None = None
        self._of_writes = False
        self.trouble: str | None = None

    def failed(self, error: StoreError, *, writing: bool) -> None:
        """Somebody got no answer."""
        if self._since is None:
            self._since = self._monotonic()
            logger.error("%s. Nothing that was accepted is lost; work goes on when it answers", _sentence(error))
        self._until = None
        self._of_writes = self._of_writes or writing
        self.trouble = str(error)

    def worked(self, *, writing: bool) -> None:
        """Somebody got an answer. From a full disk can be read, which does not end its trouble."""
        if self._since is not None and (writing or not self._of_writes or self._until is not None):
            self._recovered(self._since)

    def _recovered(self, since: float) -> None:
        self.trouble = None
        now = self._monotonic()
        if self._until is None:
            self._until = now
        if now - self._until >= CALM:
            logger.warning("The store answers again, after %.1f s", self._until - since)
            self._since = self._until = None
            self._of_writes = False


def _sentence(error: StoreError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
