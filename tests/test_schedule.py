from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgi_jobs.errors import InvalidOption, InvalidOptionType, JobsError
from asgi_jobs.schedule import Cron, Every

START = datetime(2025, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAIVE = datetime(2025, 1, 1)  # noqa: DTZ001
FROM_2001 = datetime(2001, 1, 1)  # noqa: DTZ001
TO_2035 = datetime(2035, 1, 1)  # noqa: DTZ001
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Pacific/Apia")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def wrong(value: object) -> Any:
    """A value that the type checker would refuse."""
    return value


def local_ticks(cron: Cron, start: str, count: int) -> list[str]:
    """The next ticks after a UTC time, as the clock on the wall shows them, with the offset."""
    ticks, tick = [], at(start)
    for _ in range(count):
        tick = cron.next(tick)
        ticks.append(tick.astimezone(ZoneInfo(cron.timezone)).strftime("%d %H:%M %z"))
    return ticks


def test_every_ticks_one_period_after_the_last_tick_not_after_the_start() -> None:
    every = Every(6 * HOUR)

    assert every.next_tick(START, started=START + 5 * HOUR) == START + 6 * HOUR


def test_every_ticks_first_one_period_after_the_start_or_as_long_as_start_after_says() -> None:
    assert Every(6 * HOUR).next_tick(None, started=START) == START + 6 * HOUR
    assert Every(6 * HOUR, start_after=HOUR).next_tick(None, started=START) == START + HOUR
    assert Every(6 * HOUR, start_after=timedelta(0)).next_tick(None, started=START) == START


def test_every_gives_one_tick_for_all_that_were_missed_and_stays_on_its_grid() -> None:
    every = Every(6 * HOUR)

    due = every.latest_due(START, now=START + 20 * HOUR)

    assert due == START + 18 * HOUR
    assert every.latest_due(due, now=START + 20 * HOUR) is None
    assert every.next(due) == START + 24 * HOUR


def test_a_tick_is_due_at_its_very_moment_and_not_before() -> None:
    every = Every(HOUR)

    assert every.latest_due(START, now=START + HOUR) == START + HOUR
    assert every.latest_due(START, now=START + HOUR - timedelta(microseconds=1)) is None
    assert every.latest_due(START, now=START - HOUR) is None  # a clock that was set back


def test_before_the_first_run_a_tick_is_due_counted_from_the_start() -> None:
    every = Every(HOUR)

    assert every.latest_due(None, now=START + HOUR / 2, started=START) is None
    assert every.latest_due(None, now=START + 3.5 * HOUR, started=START) == START + 3 * HOUR
    assert every.latest_due(None, now=START) is None


def test_cron_ticks_in_its_time_zone_and_answers_in_utc() -> None:
    tick = Cron("0 3 * * *", "Europe/Berlin").next(START)

    assert tick == at("2025-06-02 01:00")
    assert tick.tzinfo is UTC


def test_a_cron_tick_is_followed_by_the_next_one_never_by_itself() -> None:
    cron = Cron("0 3 * * *")

    assert cron.next(at("2025-06-02 03:00")) == at("2025-06-03 03:00")
    assert cron.next(at("2025-06-02 02:59:59.999999")) == at("2025-06-02 03:00")


def test_cron_first_ticks_at_its_first_time_after_the_start() -> None:
    assert Cron("0 3 * * *").next_tick(None, started=START) == at("2025-06-02 03:00")


def test_cron_gives_the_latest_of_the_ticks_that_were_missed() -> None:
    cron = Cron("0 3 * * *")

    assert cron.latest_due(at("2025-06-01 03:00"), now=at("2025-06-09 02:59")) == at("2025-06-08 03:00")
    assert cron.latest_due(at("2025-06-08 03:00"), now=at("2025-06-09 02:59")) is None
    assert cron.latest_due(at("2025-06-08 03:00"), now=at("2025-06-09 03:00")) == at("2025-06-09 03:00")


def test_seconds_can_stand_first() -> None:
    assert Cron("*/10 * * * * *").next(START) == START + timedelta(seconds=10)


def test_a_time_that_the_clocks_skip_comes_at_the_end_of_the_gap() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")

    assert local_ticks(cron, "2025-03-29 00:00", 3) == ["29 02:30 +0100", "30 03:00 +0200", "31 02:30 +0200"]


def test_a_time_that_the_clocks_pass_twice_comes_once_the_first_time() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")

    assert local_ticks(cron, "2025-10-25 00:00", 3) == ["25 02:30 +0200", "26 02:30 +0200", "27 02:30 +0100"]


def test_asked_within_the_second_pass_it_does_not_answer_with_the_first() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")

    assert cron.next(at("2025-10-26 01:15")) == at("2025-10-27 01:30")


def test_with_a_star_it_follows_the_clock_on_the_wall_through_gap_and_second_pass() -> None:
    hourly = Cron("30 * * * *", "Europe/Berlin")

    assert local_ticks(hourly, "2025-03-30 00:00", 2) == ["30 01:30 +0100", "30 03:30 +0200"]
    assert local_ticks(hourly, "2025-10-26 00:00", 3) == [
        "26 02:30 +0200",
        "26 02:30 +0100",
        "26 03:30 +0100",
    ]


def test_half_an_hour_of_daylight_saving_works_alike() -> None:
    zone = "Australia/Lord_Howe"  # 2025-10-05 02:00 becomes 02:30, 2025-04-06 02:00 becomes 01:30

    skipped = local_ticks(Cron("15 2 * * *", zone), "2025-10-03 12:00", 3)
    twice = local_ticks(Cron("45 1 * * *", zone), "2025-04-04 12:00", 3)

    assert skipped == ["04 02:15 +1030", "05 02:30 +1100", "06 02:15 +1100"]
    assert twice == ["05 01:45 +1100", "06 01:45 +1100", "07 01:45 +1030"]


@settings(deadline=None, max_examples=60)
@given(
    text=st.sampled_from(["30 2 * * *", "0 0 * * *", "*/20 * * * *", "*/5 2 * * *", "0 0 29 2 *", "9 1 L * *"]),
    zone=st.sampled_from(ZONES),
    after=st.datetimes(FROM_2001, TO_2035, timezones=st.just(UTC)),
)
@example(text="30 2 * * *", zone="Europe/Berlin", after=at("2025-10-26 01:15"))  # in the second pass
@example(text="*/5 2 * * *", zone="Europe/Berlin", after=at("2025-10-26 01:55"))
def test_the_next_tick_is_later_aware_utc_and_a_whole_second(text: str, zone: str, after: datetime) -> None:
    tick = Cron(text, zone).next(after)

    assert tick > after
    assert tick.tzinfo is UTC
    assert tick.microsecond == 0


@settings(deadline=None, max_examples=60)
@given(
    text=st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 12 * * MON", "5,6,7 1-3 * * *", "*/5 * * * SUN"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    last=st.datetimes(FROM_2001, TO_2035, timezones=st.just(UTC)),
    missed=st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_the_latest_due_cron_tick_is_the_one_that_walking_finds(
    text: str, zone: str, last: datetime, missed: timedelta
) -> None:
    cron, now = Cron(text, zone), last + missed
    walked, tick = None, cron.next(last)
    while tick <= now:
        walked, tick = tick, cron.next(tick)

    assert cron.latest_due(last, now) == walked


def test_times_of_any_zone_are_understood() -> None:
    in_tokyo = START.astimezone(timezone(9 * HOUR))

    assert Every(HOUR).next(in_tokyo) == START + HOUR
    assert Every(HOUR).next(in_tokyo).tzinfo is UTC


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (timedelta(hours=6), "every 6 h"),
        (timedelta(minutes=15), "every 15 min"),
        (timedelta(minutes=90), "every 1 h 30 min"),
        (timedelta(days=1), "every day"),
        (timedelta(hours=1), "every hour"),
        (timedelta(seconds=1.5), "every 1.5 s"),
        (timedelta(days=7, seconds=1), "every 7 d 1 s"),
    ],
)
def test_every_describes_itself(period: timedelta, words: str) -> None:
    assert Every(period).describe() == words


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        (Cron("0 3 * * *"), "at 03:00 every day, UTC"),
        (Cron("0 9 * * MON-FRI", "Europe/Berlin"), "at 09:00 on Monday through Friday, Europe/Berlin"),
        (Cron("5 * * * *"), "at minute 5 of every hour, UTC"),
        (Cron("1,7,12,40  */3 1-7,9 * 5#2"), "1,7,12,40 */3 1-7,9 * 5#2, UTC"),
    ],
)
def test_cron_describes_itself_as_the_expression_where_words_would_be_many(cron: Cron, words: str) -> None:
    assert cron.describe() == words


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Every(timedelta(0)), r"^every: .* between 1 s and"),
        (lambda: Every(-HOUR), r"^every: .* between 1 s and"),
        (lambda: Every(timedelta(milliseconds=999)), r"^every: .* between 1 s and"),
        (lambda: Every(timedelta.max), r"^every: .* between 1 s and"),
        (lambda: Every(HOUR, start_after=-HOUR), r"^start_after: .* between 0 s and"),
        (
            lambda: Cron("whenever"),
            r"^cron: 'whenever' cannot work: Wrong number of fields\. Give ",
        ),
        (lambda: Cron("60 * * * *"), r"^cron: .* Bad minute"),
        (lambda: Cron("0 0 * * 5#2/2"), r"^cron: .* Bad day-of-week"),
        (lambda: Cron("0 0 31 2 *"), r"^cron: '0 0 31 2 \*' cannot work: Bad day-of-month"),
        (lambda: Cron("0 0 */31 * 1#5"), r"^cron: .* never comes true"),
        (
            lambda: Cron("0 3 * * *", "Mars/Olympus"),
            r"^timezone: 'Mars/Olympus' is unknown .* 'Europe/",
        ),
        (lambda: Cron("0 3 * * *", "Europe"), r"^timezone: 'Europe' is unknown"),
        (lambda: Cron("0 3 * * *", "../etc/passwd"), r"^timezone: .* is unknown"),
        (lambda: Every(HOUR).next(NAIVE), r"^after: .* datetime\.now\(UTC\)"),
        (lambda: Cron("* * * * *").latest_due(START, NAIVE), r"^now: .* aware"),
        (lambda: Every(HOUR).next_tick(None, NAIVE), r"^started: .* aware"),
    ],
)
def test_a_value_that_cannot_work_is_refused_and_named(make: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says) as caught:
        make()

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, JobsError)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Every(wrong(3600)), r"^every: a timedelta is wanted, .* not 3600"),
        (lambda: Every(HOUR, start_after=wrong(60)), r"^start_after: a timedelta is wanted"),
        (lambda: Cron(wrong(5)), r"^cron: a string is wanted"),
        (lambda: Cron("0 3 * * *", wrong(ZoneInfo("Europe/Berlin"))), r"^timezone: a string is wanted"),
        (lambda: Every(HOUR).next(wrong("tomorrow")), r"^after: a datetime is wanted"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_and_named(make: Any, says: str) -> None:
    with pytest.raises(InvalidOptionType, match=says) as caught:
        make()

    assert isinstance(caught.value, TypeError)


def test_schedules_are_values() -> None:
    assert Cron("0 3 * * *") == Cron("0 3 * * *", "UTC")
    assert hash(Every(HOUR)) == hash(Every(HOUR))
    assert repr(Cron("0 3 * * *")) == "Cron(text='0 3 * * *', timezone='UTC')"
