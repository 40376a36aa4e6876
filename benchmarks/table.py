"""Results as a Markdown table."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line: our figure, what it is held against, and the goal (``met=None``: for information)."""

    figure: str
    ours: str
    against: str = ""
    theirs: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts of the columns."""
        mark = {True: "ok", False: "missed", None: ""}[self.met]
        times = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.figure, self.ours, self.against, self.theirs, times, self.goal, mark)


HEADINGS = ("figure", "asgi_jobs", "against", "theirs", "ratio", "goal", "")


def rendered(rows: Iterable[Row]) -> str:
    """All rows, the columns padded so that it reads in a terminal too."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([_line(lines[0], widths), f"|{rule}|", *(_line(line, widths) for line in lines[1:])])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def at_least(figure: str, ours: str, against: str, theirs: str, ratio: float, goal: float) -> Row:
    """A row whose ratio must reach the goal."""
    return Row(figure, ours, against, theirs, ratio, f"≥ {goal:g}", ratio >= goal)


def at_most(figure: str, value: float, goal: float, unit: str) -> Row:
    """A row whose value must not exceed the goal, in one unit."""
    return Row(figure, f"{value:.3g} {unit}", goal=f"≤ {goal:g} {unit}", met=value <= goal)


def per_second(rates: Sequence[float]) -> str:
    """The median of rates, in words."""
    return f"{statistics.median(rates):,.0f}/s"


def written(page: str, marks: str, text: str) -> str:
    """A page with the text between its two marks, `<!-- marks: begin -->` and `<!-- marks: end -->`.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = page.partition(f"<!-- {marks}: begin -->\n")
    _, end, after = rest.partition(f"<!-- {marks}: end -->")
    if not (begin and end):
        raise ValueError(f"the page has no marks <!-- {marks}: begin --> and <!-- {marks}: end -->")
    return f"{before}{begin}{text}\n{end}{after}"
