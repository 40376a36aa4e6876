"""B34: several processes on one PostgreSQL, many queues; the history is checked for order and overlap."""

from __future__ import annotations

import pytest

from benchmarks.fleet import Size, tried


@pytest.mark.processes
@pytest.mark.postgresql
@pytest.mark.slow
def test_many_processes_keep_the_order_of_every_queue() -> None:
    outcome, rows = tried(Size(processes=4, queues=100, jobs=1_200))

    assert outcome.found == []
    assert outcome.report.accepted == 1_200 + 100
    assert [row.ours for row in rows if row.goal] == ["0"] * 6
