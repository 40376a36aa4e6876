"""The figures of the stores in a database: side by side with others on the same server, every commit on disk."""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import sql_growth, sql_throughput, sql_wake
from benchmarks.places import Places
from benchmarks.scale import SqlScale
from benchmarks.table import Row

GROUPS: dict[str, Callable[[SqlScale, Places], list[Row]]] = {
    "sqlite": sql_throughput.on_sqlite,
    "names": sql_throughput.many_names,
    "single": sql_throughput.one_name,
    "finished": sql_growth.beside_finished,
    "growth": sql_growth.behind_waiting,
    "wake": sql_wake.in_another_process,
}
"""What can be picked with ``--rows``."""


def measured(scale: SqlScale, groups: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each group, as soon as they are there."""
    with Places() as places:
        for group in groups:
            yield group, GROUPS[group](scale, places)
