"""When a schedule ticks next: pure arithmetic on aware UTC datetimes, no clock and no state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from asgi_jobs.errors import InvalidOption, InvalidOptionType

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=36_525)
READABLE = 70
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
SINGLE = {"1 d": "day", "1 h": "hour", "1 min": "minute", "1 s": "second"}
REFERENCE = datetime(2024, 1, 1, tzinfo=UTC)
"""Where the search for a first tick starts at construction; any date does, a fixed one repeats."""


class Schedule(ABC):
    """What `Every` and `Cron` have in common. Ticks are aware UTC; datetimes passed in must be aware."""

    __slots__ = ()

    @abstractmethod
    def next(self, after: datetime) -> datetime:
        """The first tick later than `after`, itself a tick or, for `Cron`, any time."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule in words, for people."""

    @abstractmethod
    def _first(self, started: datetime) -> datetime:
        """The first tick of a schedule that has never ticked and is known since `started`."""

    @abstractmethod
    def _last_until(self, now: datetime, due: datetime) -> datetime:
        """The last tick not later than `now`, where `due` is one."""

    def next_tick(self, last: datetime | None, started: datetime) -> datetime:
        """When to run next. It lies in the past when ticks were missed.

        Args:
            last: The tick of the last run; None when there was none.
            started: Since when the schedule is known; counts only where `last` is None.
        """
        return self._first(_utc(started, "started")) if last is None else self.next(last)

    def latest_due(self, last: datetime | None, now: datetime, started: datetime | None = None) -> datetime | None:
        """The tick to run now, or None when none is due: of several that were missed the latest alone.

        Args:
            last: The tick of the last run; None when there was none.
            now: The time that decides.
            started: Since when the schedule is known, by default since now; counts only without `last`.
        """
        now = _utc(now, "now")
        due = self.next_tick(last, now if started is None else started)
        return None if due > now else self._last_until(now, due)


@dataclass(frozen=True, slots=True)
class Every(Schedule):
    """A tick each `period`, counted from the last tick; the first one `start_after` (one period) from start.

    Raises:
        InvalidOption: The period is not between a second and a century, or `start_after` is negative.
        InvalidOptionType: One of them is not a timedelta.
    """

    period: timedelta
    start_after: timedelta | None = None

    def __post_init__(self) -> None:
        _check_timedelta(self.period, "every", SHORTEST)
        if self.start_after is not None:
            _check_timedelta(self.start_after, "start_after", timedelta(0))

    def next(self, after: datetime) -> datetime:
        """The tick that follows the tick `after`."""
        return _utc(after, "after") + self.period

    def describe(self) -> str:
        """The period in its two largest units: "every 6 h", "every 1 h 30 min"."""
        rest, parts = self.period.total_seconds(), []
        for unit, size in UNITS:
            whole, rest = divmod(rest, size)
            parts += [f"{whole:.0f} {unit}"] if whole else []
        parts += [f"{rest:.3f}".rstrip("0").rstrip(".") + " s"] if rest >= 0.001 else []
        text = " ".join(parts[:2])
        return f"every {SINGLE.get(text, text)}"

    def _first(self, started: datetime) -> datetime:
        return started + (self.period if self.start_after is None else self.start_after)

    def _last_until(self, now: datetime, due: datetime) -> datetime:
        return due + (now - due) // self.period * self.period


@dataclass(frozen=True, slots=True)
class Cron(Schedule):
    """The ticks of a cron expression, five fields or six with seconds first, in a time zone.

    Daylight saving follows Debian's cron, as cronsim has it: where neither minute nor hour begins with a
    star, a time that the clocks skip comes at the end of the gap, and one that they pass twice comes once,
    the first time. Expressions with a star follow the clock on the wall, through both passes.

    Raises:
        InvalidOption: No such cron expression or time zone, or an expression that never comes true.
        InvalidOptionType: One of them is not a string.
    """

    text: str
    timezone: str = "UTC"
    _zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", _zone(self.timezone))
        _check_text(self.text, "cron", "'0 3 * * *'")
        try:
            self.next(REFERENCE)
        except (CronSimError, ValueError, AssertionError) as error:
            raise InvalidOption(
                f"cron: {self.text!r} cannot work: {error}. "
                "Give minute, hour, day of month, month and day of week, such as '0 3 * * *' for 03:00 daily."
            ) from error
        except StopIteration:
            raise InvalidOption(f"cron: {self.text!r} never comes true. Is there such a day in such a month?") from None

    def next(self, after: datetime) -> datetime:
        """The first tick later than `after`, which need not be a tick."""
        after = _utc(after, "after")
        ticks = CronSim(self.text, after.astimezone(self._zone))
        # In an hour that is passed twice cronsim gives the first pass, which may lie before `after`.
        while (tick := next(ticks).astimezone(UTC)) <= after:
            pass
        return tick

    def describe(self) -> str:
        """The expression in English, as it stands where that would be long: "at 03:00 every day, UTC"."""
        english = CronSim(self.text, REFERENCE).explain()
        if len(english) > READABLE:
            return f"{' '.join(self.text.split())}, {self.timezone}"
        return f"{english[0].lower()}{english[1:]}, {self.timezone}"

    def _first(self, started: datetime) -> datetime:
        return self.next(started)

    def _last_until(self, now: datetime, due: datetime) -> datetime:
        # Halves the time in which the tick can lie: as many steps as a minute or a year has binary digits,
        # where walking would take one for each missed tick.
        tick, end = due, now
        while end - tick >= SHORTEST:
            middle = tick + (end - tick) / 2
            later = self.next(middle)
            if later <= now:
                tick = later
            else:
                end = middle
        return tick


def _utc(when: datetime, argument: str) -> datetime:
    if not isinstance(when, datetime):
        raise InvalidOptionType(f"{argument}: a datetime is wanted, not {when!r}.")
    if when.utcoffset() is None:
        raise InvalidOption(f"{argument}: {when!r} has no time zone. Make it aware, as datetime.now(UTC) is.")
    return when.astimezone(UTC)


def _check_timedelta(value: timedelta, argument: str, least: timedelta) -> None:
    if not isinstance(value, timedelta):
        raise InvalidOptionType(f"{argument}: a timedelta is wanted, such as timedelta(hours=6), not {value!r}.")
    if not least <= value <= LONGEST:
        bounds = f"between {least.total_seconds():.0f} s and {LONGEST.days} days"
        raise InvalidOption(f"{argument}: {value!r} is out of range. Give a timedelta {bounds}.")


def _check_text(value: str, argument: str, example: str) -> None:
    if not isinstance(value, str):
        raise InvalidOptionType(f"{argument}: a string is wanted, such as {example}, not {value!r}.")


def _zone(name: str) -> tzinfo:
    _check_text(name, "timezone", "'Europe/Berlin'")
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, no relative path, the name of a directory
        raise InvalidOption(
            f"timezone: {name!r} is unknown here. Give an IANA name such as 'Europe/Berlin'; "
            "where the system has no time zones, `pip install tzdata` brings them."
        ) from error
