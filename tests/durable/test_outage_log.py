"""What is said of an outage: one line when it begins, one when it is over."""

from __future__ import annotations

import pytest

from asgi_jobs import StoreAway, StoreUnusable
from asgi_jobs.stores.sql.outage import Outage

CALM = 5.0


class Telling:
    """An outage, a clock, and what was logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asgi_jobs.stores.sql.outage.CALM", CALM)
        self.now = 1_000.0
        self.outage = Outage(lambda: self.now)
        self._caplog = caplog

    @property
    def lines(self) -> list[str]:
        return [f"{one.levelname} {one.message}" for one in self._caplog.records]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Telling:
    return Telling(caplog, monkeypatch)


def test_many_failures_are_one_outage(told: Telling) -> None:
    for _ in range(3):
        told.outage.failed(StoreAway("the store is away"), writing=False)
        told.now += 10
    assert told.lines == ["ERROR The store is away. Nothing that was accepted is lost; work goes on when it answers"]
    assert told.outage.trouble == "the store is away"


def test_it_is_over_at_once_for_health_and_for_the_log_when_it_has_lasted(told: Telling) -> None:
    told.outage.failed(StoreAway("the store is away"), writing=False)
    told.now += 60
    told.outage.worked(writing=False)
    assert told.outage.trouble is None
    assert len(told.lines) == 1
    told.now += CALM
    told.outage.worked(writing=False)
    assert told.lines[1:] == ["WARNING The store answers again, after 60.0 s"]


def test_a_success_between_two_failures_ends_nothing(told: Telling) -> None:
    for _ in range(5):
        told.outage.failed(StoreUnusable("the disk is full"), writing=True)
        told.now += CALM / 2
        told.outage.worked(writing=True)
    assert len(told.lines) == 1


def test_what_can_be_read_does_not_end_the_trouble_of_what_cannot_be_written(told: Telling) -> None:
    told.outage.failed(StoreUnusable("the disk is full"), writing=True)
    told.outage.worked(writing=False)
    assert told.outage.trouble == "the disk is full"
    told.outage.worked(writing=True)
    assert told.outage.trouble is None


def test_a_store_that_works_says_nothing(told: Telling) -> None:
    told.outage.worked(writing=True)
    assert told.lines == []
