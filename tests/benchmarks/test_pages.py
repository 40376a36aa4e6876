"""That the measurement of the pages runs on each store, and finds each page; never how fast anything is."""

import pytest

from benchmarks.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_a_quick_run_prints_a_row_for_each_page(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", "--quick", "--stores", store]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 7
