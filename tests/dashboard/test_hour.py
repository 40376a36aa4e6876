"""The last hour: minutes and the time, turned into what the overview draws."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from asgi_jobs import Jobs
from asgi_jobs.dashboard.hourview import HEIGHT, Chart, HourView, hour_view, longest_wait
from asgi_jobs.dashboard.pulse import take
from asgi_jobs.stores.base import Minute
from asgi_jobs.testing import FakeClock

from .conftest import Site
from .fleet import Shop
from .test_views import said

NOW = datetime(2026, 1, 1, 3, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUIET = [Minute()] * 60


def drawn(minutes: Sequence[Minute | None], waiting: float = 0.0) -> HourView:
    """What is drawn of the last minutes, after quiet ones."""
    view = hour_view([*QUIET[len(minutes) :], *minutes], waiting, NOW)
    assert view is not None
    return view


def bars(chart: Chart, colour: str) -> dict[int, float]:
    """Minutes ago and height of each bar of a colour."""
    path = dict(chart.bars)[colour]
    found = re.findall(r"M(\d+) [\d.]+v-([\d.]+)h4v\2z", path)
    assert len(found) == path.count("M")
    return {59 - int(x) // 5: float(height) for x, height in found}


async def fine() -> None:
    """Does what it should."""


async def broken() -> None:
    raise ValueError("out of paper")


def test_an_hour_in_which_nothing_ended_and_nothing_waits_is_not_drawn() -> None:
    assert hour_view(QUIET, 0.0, NOW) is None


def test_what_ended_is_counted_and_the_tallest_bar_is_the_busiest_minute() -> None:
    chart, _ = drawn([Minute(1_200, 0), Minute(60, 20), Minute(20, 0)]).charts
    assert said(chart.said) == "1,280 succeeded, 20 failed"
    assert chart.aside == "most: 1,200 a minute"
    assert chart.label.startswith("Jobs that ended, by the minute: 1,280 succeeded and 20 failed, at most 1,200")
    assert bars(chart, "ok")[2] == HEIGHT
    assert bars(chart, "bad")[1] > 0


def test_a_lone_failure_is_seen_among_thousands_and_the_bar_fits() -> None:
    chart, _ = drawn([Minute(9_999, 1)]).charts
    assert bars(chart, "bad")[0] >= 4
    assert bars(chart, "bad")[0] + bars(chart, "ok")[0] <= HEIGHT


def test_who_has_waited_three_minutes_had_waited_two_a_minute_ago() -> None:
    _, chart = drawn([Minute(1, 0, 1.4)], waiting=190).charts
    assert said(chart.said) == "Longest wait 3 min 10 s"
    assert chart.aside == "usually 1.4 s"
    assert set(bars(chart, "warn")) == {0, 1}  # more than two minutes
    assert set(bars(chart, "ok")) == {2, 3}
    ended = drawn([Minute(1, 0, 190.0)]).charts[1]
    assert (bars(ended, "warn"), bars(ended, "ok")) == (bars(chart, "warn"), bars(chart, "ok"))


def test_a_wait_that_goes_on_ticks_and_one_that_is_over_does_not() -> None:
    lasting, over = drawn([], waiting=5.0).charts[1], drawn([Minute(1, 0, 5.0)]).charts[1]
    assert "data-t" in "".join(part.__html__() for part in lasting.said if not isinstance(part, str))
    assert "data-t" not in "".join(part.__html__() for part in over.said if not isinstance(part, str))


def test_waits_of_milliseconds_do_not_look_like_mountains() -> None:
    chart = drawn([Minute(1, 0, 0.002)]).charts[1]
    assert bars(chart, "ok")[0] < HEIGHT / 20


def test_minutes_that_were_not_counted_yet_are_left_out_and_said() -> None:
    assert drawn([None, Minute(1)]).note == "Older minutes are still being counted"
    assert drawn([Minute(1)]).note == ""


async def test_what_waits_in_a_paused_queue_is_meant_to_wait() -> None:
    clock = FakeClock()
    async with Jobs(authorize="local", clock=clock) as jobs:
        await jobs.pause("email")
        jobs.enqueue(fine, queue="email")
        await clock.advance(MINUTE)
        assert longest_wait(await take(jobs), jobs.now()) == 0
        await jobs.pause("print")
        for queue in ("print", "letters"):
            jobs.enqueue(asyncio.Event().wait, queue=queue, timeout=MINUTE * 9)
            jobs.enqueue(fine, queue=queue)
        await clock.advance(MINUTE)
        assert longest_wait(await take(jobs), jobs.now()) == 60


async def test_the_overview_draws_the_last_hour_and_moves_it_by_the_minute_only(site: Site) -> None:
    clock = FakeClock()
    jobs = Jobs(authorize=lambda request: True, clock=clock)
    async with jobs:
        client = site(jobs)
        await jobs.enqueue(fine).wait()
        await jobs.enqueue(broken).wait()
        first = await client.get("/")
        assert 'role="img" aria-label="Jobs that ended, by the minute: 1 succeeded and 1 failed' in first.text
        assert '<b class="bad">1 failed</b>' in first.text
        known = {"if-none-match": first.headers["etag"]}
        await clock.advance(timedelta(seconds=1))
        assert (await client.get("/", headers=known)).status_code == 304
        await clock.advance(MINUTE)
        moved = await client.get("/", headers=known)
        assert moved.status_code == 200
        before, after = (re.findall(r'class="c-\w+" d="M(\d+)', page.text) for page in (first, moved))
        assert len(before) == 2
        assert [int(x) for x in after] == [int(x) - 5 for x in before]


async def test_an_hour_without_anything_is_unchanged_by_the_minute(site: Site) -> None:
    clock = FakeClock()
    jobs = Jobs(authorize=lambda request: True, clock=clock)
    async with jobs:
        jobs.enqueue(fine, delay=timedelta(hours=3))
        client = site(jobs)
        first = await client.get("/")
        assert "No job has ended." in first.text
        await clock.advance(2 * MINUTE)
        known = {"if-none-match": first.headers["etag"]}
        assert (await client.get("/", headers=known)).status_code == 304


async def test_what_ended_in_other_processes_is_in_the_last_hour(shop: Shop) -> None:
    await shop.open("worker-1")
    await (await shop.enqueue("fine")).wait()
    await (await shop.enqueue("broken")).wait()
    assert "1 succeeded and 1 failed, at most" in await shop.page("/")
