"""How times, amounts and names are said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from asgi_jobs.dashboard import words

NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.184, "184 ms"),
        (0.9996, "1.0 s"),
        (1.25, "1.2 s"),
        (10, "10.0 s"),
        (19.96, "19 s"),
        (38, "38 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (13_680, "3 h 48 min"),
        (86_400 * 2 + 7_200, "2 d 2 h"),
        (-5, "0 ms"),
    ],
)
def test_what_something_took_is_as_precise_as_its_size_deserves(seconds: float, said: str) -> None:
    assert words.took(timedelta(seconds=seconds)) == said


def test_what_goes_on_is_said_in_whole_seconds_so_that_it_does_not_jump() -> None:
    moment = words.since(NOW - timedelta(seconds=4.9), NOW)
    assert (moment.text, moment.kind, moment.iso) == ("4 s", "up", "2026-03-29T11:59:55.100000Z")


@pytest.mark.parametrize(("seconds", "said"), [(4, "4 s ago"), (119, "1 min ago"), (13_719, "3 h 48 min ago")])
def test_the_past_is_said_by_the_minute(seconds: int, said: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW).text == said


def test_the_future_is_said_too_until_it_is_due() -> None:
    assert words.ahead(NOW + timedelta(seconds=38), NOW).text == "in 38 s"
    assert words.ahead(NOW - timedelta(seconds=1), NOW).text == "due now"


def test_a_time_of_day_is_utc_and_has_its_date_when_it_is_not_today() -> None:
    berlin = datetime.fromisoformat("2026-03-29T14:30:05+02:00")
    assert words.clock(berlin, NOW).text == "12:30:05"
    assert words.clock(NOW - timedelta(days=1), NOW).text == "2026-03-28 12:00:00"


def test_ordinals_know_the_teens() -> None:
    said = [words.ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1_003)]
    assert said == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1,003rd"]


@pytest.mark.parametrize(
    ("queued", "scheduled", "text"),
    [(12, 1, "12 jobs queued, 1 scheduled"), (1, 0, "1 job queued"), (0, 1_200, "1,200 jobs scheduled"), (0, 0, "")],
)
def test_what_has_not_started_is_named_as_the_counts_name_it(queued: int, scheduled: int, text: str) -> None:
    assert words.waiting(queued, scheduled) == text


def test_amounts_agree_with_their_noun() -> None:
    assert words.amount(1, "job") == "1 job"
    assert words.amount(1_284, "job") == "1,284 jobs"
    assert words.amount(2, "try", "tries") == "2 tries"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("shop.mail:send", "send"),
        ("shop.mail:Mailer.send", "send"),
        ("shop.mail:outer.<locals>.inner", "inner"),
        ("shop.mail:view.<locals>.<lambda>", "<lambda>"),
        ("nightly", "nightly"),
        ("", ""),
    ],
)
def test_a_task_is_called_by_the_last_part_of_its_key(key: str, name: str) -> None:
    assert words.short_task(key) == name
