"""The figures of the memory store."""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import footprint, host, latency, page, throughput
from benchmarks.scale import Scale
from benchmarks.table import Row

GROUPS: dict[str, Callable[[Scale], list[Row]]] = {
    "throughput": throughput.against_the_idiom,
    "peers": throughput.against_libraries,
    "enqueue": latency.enqueue_cost,
    "wake": latency.wake,
    "bytes": footprint.rows,
    "host": host.rows,
    "page": page.rows,
}
"""What can be picked with ``--rows``."""


def measured(scale: Scale, groups: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each group, as soon as they are there."""
    for group in groups:
        yield group, GROUPS[group](scale)
