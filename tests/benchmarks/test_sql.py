"""That the figures of databases are measured and printed; never how fast anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.commands import SQL
from benchmarks.sql import GROUPS
from benchmarks.table import written

LINES = {"sqlite": 4, "single": 4, "finished": 2, "growth": 8, "wake": 4}


def test_every_group_can_be_asked_for() -> None:
    assert tuple(GROUPS) == SQL


@pytest.mark.processes
@pytest.mark.postgresql
@pytest.mark.slow
@pytest.mark.parametrize("group", [group for group in GROUPS if group != "names"])  # which takes minutes
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the other libraries
def test_a_quick_run_prints_the_rows_of_its_group(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--quick", "--rows", group]) == 0

    heading, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert heading.split()[1] == "figure"
    assert len(rows) == LINES[group]


def test_a_table_is_written_between_its_marks() -> None:
    page = "before\n<!-- m: begin -->\nold\n<!-- m: end -->\nafter\n"

    once = written(page, "m", "new")

    assert once == "before\n<!-- m: begin -->\nnew\n<!-- m: end -->\nafter\n"
    assert written(once, "m", "new") == once


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="measured-sql: begin"):
        written("nothing\n", "measured-sql", "text")


@pytest.mark.slow
def test_a_measurement_goes_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- measured: begin -->\n<!-- measured: end -->\n")

    assert main(["memory", "--quick", "--rows", "wake", "--into", str(page)]) == 0

    assert capsys.readouterr().out.strip() in page.read_text()
