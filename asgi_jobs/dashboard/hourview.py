"""The last hour as two small charts, what ended and how long jobs had waited: minutes and now, turned into shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from asgi_jobs.dashboard import views, words
from asgi_jobs.dashboard.siteview import LONG_WAIT
from asgi_jobs.dashboard.views import Parts, Strong

if TYPE_CHECKING:
    from asgi_jobs.dashboard.pulse import Pulse
    from asgi_jobs.stores.base import Minute

NOTHING = (0, 0, 0.0)
HEIGHT, BAR, STEP = 56, 4, 5  # of the drawing, which is stretched to its place
LEAST, LEAST_FAILED = 1.5, 4.0  # what is there is seen, however little it is beside the rest
CALM = 1.0  # seconds: shorter waits do not fill the chart

Minutes: TypeAlias = "Sequence[Minute | None]"


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        said, aside: its two captions.
        label: the same for those who do not see it.
        bars: the colour and the path of each kind of bar.
    """

    said: Parts
    aside: str
    label: str
    bars: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HourView:
    """The last hour, as far as it is known."""

    charts: Sequence[Chart]
    note: str


def facts(minutes: Minutes, pulse: Pulse, now: datetime) -> object:
    """What is shown, and the minute when it moves though nothing ended: a wait that grows."""
    told = [(at, minute and tuple(minute)) for at, minute in enumerate(minutes) if minute != NOTHING]
    return told, int(now.timestamp() // 60) if longest_wait(pulse, now) else None


def longest_wait(pulse: Pulse, now: datetime) -> float:
    """Seconds that the first in line of any queue has waited; what waits in a paused one is meant to."""
    waits = [queue.oldest_wait for queue in pulse.queues if queue.oldest_wait and queue.paused_since is None]
    return max(waits) + (now - pulse.taken).total_seconds() if waits else 0.0


def hour_view(minutes: Minutes, waiting: float, now: datetime) -> HourView | None:
    """The last hour; None when nothing ended in it and nothing waits."""
    known = [minute for minute in minutes if minute is not None]
    ended = [minute for minute in known if minute.succeeded or minute.failed]
    if not ended and not waiting:
        return None
    note = "" if len(known) == len(minutes) else "Older minutes are still being counted"
    return HourView((_ended(minutes, ended), _waits(minutes, ended, waiting, now)), note)


def _ended(minutes: Minutes, ended: Sequence[Minute]) -> Chart:
    succeeded, failed = sum(minute.succeeded for minute in ended), sum(minute.failed for minute in ended)
    most = max((minute.succeeded + minute.failed for minute in ended), default=0)
    good, bad = [], []
    for at, minute in enumerate(minutes):
        if minute is not None and (minute.succeeded or minute.failed):
            top = _height(minute.failed, most, LEAST_FAILED)
            foot = min(_height(minute.succeeded, most), HEIGHT - top)
            good.append(_bar(at, 0, foot))
            bad.append(_bar(at, foot, top))
    unlucky = f"{failed:,} failed"
    return Chart(
        said=(Strong(f"{succeeded:,}"), " succeeded, ", Strong(unlucky, "bad") if failed else unlucky),
        aside=f"most: {most:,} a minute",
        label=f"Jobs that ended, by the minute: {succeeded:,} succeeded and {unlucky}, at most {most:,} in one",
        bars=(("ok", "".join(good)), ("bad", "".join(bad))),
    )


def _waits(minutes: Minutes, ended: Sequence[Minute], waiting: float, now: datetime) -> Chart:
    waits, limit = _by_minute(minutes, waiting), LONG_WAIT.total_seconds()
    longest = max(waits)
    most = max(longest, CALM)
    calm = [_bar(at, 0, _height(wait, most)) for at, wait in enumerate(waits) if wait <= limit]
    late = [_bar(at, 0, _height(wait, most)) for at, wait in enumerate(waits) if wait > limit]
    said = words.took(timedelta(seconds=longest))
    usual = f"usually {words.took(timedelta(seconds=median(minute.wait for minute in ended)))}" if ended else ""
    shown = views.lasts(waiting, now) if waiting == longest else said
    return Chart(
        said=("Longest wait ", Strong(shown, "warn" if late else "")),
        aside=usual,
        label=f"The longest wait for a start, by the minute: {said} at most{', ' if usual else ''}{usual}",
        bars=(("ok", "".join(calm)), ("warn", "".join(late))),
    )


def _by_minute(minutes: Minutes, waiting: float) -> list[float]:
    """The longest wait in each: whoever has waited for three minutes had waited for two a minute ago."""
    made = []
    for minute in reversed(minutes):
        waiting = max(waiting, minute.wait if minute is not None else 0.0)
        made.append(waiting)
        waiting = max(waiting - 60, 0.0)
    return made[::-1]


def _height(value: float, most: float, least: float = LEAST) -> float:
    return max(HEIGHT * value / most, least) if value else 0.0


def _bar(at: int, foot: float, height: float) -> str:
    """One bar of a path, at its minute, standing so far above the ground."""
    if not height:
        return ""
    return f"M{STEP * at} {HEIGHT - foot:.1f}v{-height:.1f}h{BAR}v{height:.1f}z"
