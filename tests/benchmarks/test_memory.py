"""That the benchmarks run and print what they promise; never how fast anything is."""

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import percentile, ratio
from benchmarks.memory import GROUPS
from benchmarks.table import at_least, at_most, rendered

LINES = {"throughput": 6, "peers": 4, "enqueue": 5, "wake": 2, "bytes": 6, "host": 2, "page": 2}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_quick_run_prints_the_rows_of_its_group(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--quick", "--rows", group]) == 0

    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    heading, *rows = table
    assert heading.split()[1] == "figure"
    assert len(rows) >= LINES[group]
    assert len({row.count("|") for row in table}) == 1


def test_rows_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["memory", "--rows", "throughput,nothing"])

    assert "'nothing' is none of throughput" in capsys.readouterr().err


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    assert ratio([10, 20, 90], [10, 10, 10]) == 2


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], share) == value


def test_a_row_is_marked_by_its_goal() -> None:
    rows = [at_least("speed", "9/s", "other", "10/s", 0.9, 0.8), at_most("cost", 7.0, 4, "µs")]

    marks = [line.split("|")[-2].strip() for line in rendered(rows).splitlines()[2:]]

    assert marks == ["ok", "missed"]
