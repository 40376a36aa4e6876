"""B25: processes that enqueue and that run jobs are killed with -9 at random points, and nothing is lost."""

from __future__ import annotations

import pytest

from benchmarks.crash import Trial, rows, tried

KILLS = 20


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_nothing_is_lost_or_out_of_order_when_processes_are_killed(store: str) -> None:
    trial = Trial(store, KILLS, pace=0.8, runners=2, seed=7)

    outcome = tried(trial)

    assert outcome.found == []
    assert outcome.report.kills == KILLS
    assert outcome.report.cut_off > 0  # else the kills have hit nothing
    assert outcome.report.pairs > 100
    assert [row.ours for row in rows(trial, outcome) if row.goal] == ["0"] * 6
