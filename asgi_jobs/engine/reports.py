"""What running jobs say of themselves, and where those that take long wait: told to the store while they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asgi_jobs.job import WaitingAt

if TYPE_CHECKING:
    from asgi_jobs.clock import Clock
    from asgi_jobs.engine.run import Run
    from asgi_jobs.frames import Frame
    from asgi_jobs.stores.base import DurableStore

EVERY = 1.0
"""Seconds between two reports."""
LOOK_EVERY = 10.0
"""Seconds between two looks at where a job waits."""
FRAMES = 8


@dataclass(frozen=True, slots=True)
class Told:
    """What the store knows of a run."""

    moved: float | None = None  # its last progress or log line
    looked: float | None = None  # when it was seen where it waits


NOTHING = Told()


class Reports:
    """Reports on the runs of this process: what has changed since the last time.

    Args:
        store: where to.
        clock: says when.
        running: gives the runs of this process.
        stuck_after: seconds after which a run is looked at.
    """

    def __init__(
        self, store: DurableStore, clock: Clock, running: Callable[[], Collection[Run]], stuck_after: float
    ) -> None:
        self._store = store
        self._clock = clock
        self._running = running
        self._stuck_after = stuck_after
        self._told: dict[Run, Told] = {}

    async def report(self) -> float:
        """Report; gives the seconds until the next time."""
        now = self._clock.monotonic()
        known = {run: self._told.get(run, NOTHING) for run in tuple(self._running())}
        new = {run: self._look(run, told, now) for run, told in known.items()}
        changed = [run.record for run, told in new.items() if told != known[run]]
        if changed:
            await self._store.report(changed)
        self._told = new  # not before: what was not told is told the next time
        return EVERY

    def _look(self, run: Run, told: Told, now: float) -> Told:
        record, details = run.record, run.record.detail()
        looked = told.looked
        if now - (record.started or now) >= self._stuck_after and (looked is None or now - looked >= LOOK_EVERY):
            frames = run.stack()
            if frames:
                details.waiting_at = WaitingAt(_top(frames), record.epoch.date(now))
                looked = now
        return Told(details.moved, looked)


def _top(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The innermost ones, and the application's own innermost one in any case."""
    top = list(frames[:FRAMES])
    own = next((frame for frame in frames if frame.own), None)
    if own is not None and own not in top:
        top[-1] = own
    return tuple(top)
