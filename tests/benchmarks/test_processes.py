"""Processes that are started, killed and replaced, and what is written of their ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.journal import Kind, events
from benchmarks.processes import Crew
from tests.servers.process import lives, until

pytestmark = pytest.mark.processes


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew("tests.benchmarks.child", tmp_path, ["told"])
    yield crew
    crew.close()


def _begun(folder: Path, name: str) -> bool:
    return any(event.process == name and event.kind is Kind.STARTED for event in events(folder))


def test_a_process_is_told_its_role_its_name_and_the_rest(crew: Crew, tmp_path: Path) -> None:
    child = crew.start("wait")

    until(lambda: _begun(tmp_path, child.name))

    (begun,) = events(tmp_path)
    assert (begun.process, begun.job) == ("wait-1", "told")
    assert lives(child.pid)


def test_a_process_that_is_killed_is_gone_and_its_death_is_written(crew: Crew, tmp_path: Path) -> None:
    child = crew.start("wait")

    crew.kill(child)

    assert not lives(child.pid)
    assert [event.process for event in events(tmp_path) if event.kind is Kind.KILLED] == [child.name]
    assert crew.complaints == []


def test_another_one_of_the_same_role_takes_its_place(crew: Crew) -> None:
    killed = crew.start("wait")

    crew.replace(random.Random(1))

    (child,) = crew.living
    assert (child.role, child.name) == ("wait", "wait-2")
    assert child.pid != killed.pid


def test_a_process_that_is_asked_to_end_ends_well(crew: Crew, tmp_path: Path) -> None:
    child = crew.start("wait")
    until(lambda: _begun(tmp_path, child.name))

    crew.stop("wait")

    assert crew.living == []
    assert crew.complaints == []


def test_a_process_that_ends_by_itself_is_complained_of_and_replaced(crew: Crew) -> None:
    crew.start("fail")

    def complaints() -> list[str]:
        crew.look()
        return crew.complaints

    until(complaints)

    assert "fail-1 has ended with 1" in crew.complaints[0]
    assert "ValueError: as told" in crew.complaints[0]
    assert crew.living[0].role == "fail"


def test_all_end_with_the_crew(tmp_path: Path) -> None:
    crew = Crew("tests.benchmarks.child", tmp_path, ["told"])
    pids = [crew.start("wait").pid for _ in range(3)]

    crew.close()

    assert not any(map(lives, pids))
