"""How times, amounts and names are said: pure text, the same in the page and in its script."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as the page shows it.

    Attributes:
        text: what is read, true when the page was made.
        iso: the time itself, UTC, for `<time datetime>`.
        kind: how the script keeps the text true: "up" counts since, "ago" and "in" are relative, "at" stands.
    """

    text: str
    iso: str
    kind: str

    def __html__(self) -> str:
        """As a template shows it."""
        return f'<time datetime="{self.iso}" data-t="{self.kind}">{self.text}</time>'


def took(length: timedelta) -> str:
    """How long something took, with the precision that its size deserves.

    >>> took(timedelta(milliseconds=184)), took(timedelta(seconds=10)), took(timedelta(seconds=192))
    ('184 ms', '10.0 s', '3 min 12 s')
    """
    seconds = max(length.total_seconds(), 0)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    return f"{seconds:.1f} s" if seconds < 19.95 else lasting(length)


def lasting(length: timedelta) -> str:
    """How long something has lasted so far: whole seconds, so that a figure which ticks stands still."""
    seconds = max(int(length.total_seconds()), 0)
    if seconds < MINUTE:
        return f"{seconds} s"
    if seconds < HOUR:
        return _pair(seconds, MINUTE, "min", 1, "s")
    if seconds < DAY:
        return _pair(seconds, HOUR, "h", MINUTE, "min")
    return _pair(seconds, DAY, "d", HOUR, "h")


def _pair(seconds: int, size: int, unit: str, small: int, small_unit: str) -> str:
    rest = seconds % size // small
    return f"{seconds // size} {unit} {rest} {small_unit}" if rest else f"{seconds // size} {unit}"


def coarse(length: timedelta) -> str:
    """A distance in time, said by the minute: "41 min", "3 h 48 min"."""
    seconds = max(int(length.total_seconds()), 0)
    return lasting(timedelta(seconds=seconds - seconds % MINUTE if seconds >= MINUTE else seconds))


def since(start: datetime, now: datetime) -> Moment:
    """A duration that goes on."""
    return Moment(lasting(now - start), iso(start), "up")


def ago(then: datetime, now: datetime) -> Moment:
    """A time that has passed."""
    return Moment(f"{coarse(now - then)} ago", iso(then), "ago")


def ahead(then: datetime, now: datetime) -> Moment:
    """A time to come."""
    return Moment(f"in {coarse(then - now)}" if then > now else "due now", iso(then), "in")


def clock(then: datetime, now: datetime | None = None) -> Moment:
    """A time of day, in UTC; with its date when that is not today's."""
    utc = then.astimezone(UTC)
    today = now is None or utc.date() == now.astimezone(UTC).date()
    return Moment(f"{utc:%H:%M:%S}" if today else f"{utc:%Y-%m-%d %H:%M:%S}", iso(then), "at")


def iso(then: datetime) -> str:
    """ISO 8601 in UTC, as JSON and `<time datetime>` have it."""
    return then.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th … 11th, 12th, 13th … 21st."""
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"


def amount(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 job", "1,284 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def waiting(queued: int, scheduled: int) -> str:
    """Jobs that have not started, named as the counts name them: "12 jobs queued, 1 scheduled"."""
    if not queued:
        return f"{amount(scheduled, 'job')} scheduled" if scheduled else ""
    return f"{amount(queued, 'job')} queued" + (f", {scheduled:,} scheduled" if scheduled else "")


def all_of(amount: str) -> str:
    """All of so many, as a link says it: "All 6 tasks", and not "All 1 task"."""
    return amount if amount.startswith("1 ") else f"All {amount}"


def times(number: int) -> str:
    """How often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def figure(number: float) -> str:
    """A number of progress: whole where it is whole."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:,.1f}"


def short_task(key: str) -> str:
    """The function's own name: the last part of `module:qualname`."""
    return key.rpartition(":")[2].replace("<locals>.", "").rpartition(".")[2] or key


def module_of(key: str) -> str:
    """The module part of `module:qualname`."""
    return key.rpartition(":")[0]


def short_type(dotted: str) -> str:
    """An exception's own name."""
    return dotted.rpartition(".")[2]


def digest(name: str) -> str:
    """A short name for an element: queue names hold any character, ids hold few."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
