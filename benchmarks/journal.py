"""What processes write about their jobs while they may be killed at any moment: files of JSON lines.

Each process appends to a file of its own, one whole line a write, so that a kill can tear nothing but a last
line. Times are of CLOCK_MONOTONIC, which all processes of one machine share.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """What can happen."""

    CALLED = "called"
    """A process is about to call `enqueue`. Facts: `delayed`, `hopeless` (meant to fail), `probe` (sent at the end)."""
    ACCEPTED = "accepted"
    """Its `await`, or the commit it hangs on, has returned."""
    ROLLED_BACK = "rolled back"
    """The transaction that it hung on was taken back: it must never run."""
    CANCELLING = "cancelling"
    """Somebody is about to ask it to stop: that it never ends well is no loss from here on."""
    GAVE_UP = "gave up"
    """The store says that it has failed because its process died three times."""
    STARTED = "started"
    """The first line of its code. The time of this event names the run."""
    ENDED = "ended"
    """The last line of its code. Facts: `run`, `outcome`: ok, error or cancelled."""
    KILLED = "killed"
    """A process is about to be killed: `process` is the victim. It writes nothing more, or next to nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line: what happened when, in which process, to which job of which queue."""

    at: int
    kind: Kind
    process: str
    job: str = ""
    queue: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The file of one process.

    Args:
        folder: where all files of one history are.
        process: what this process is called; new at every start.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self.process = process
        self._file = os.open(folder / f"{process}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, kind: Kind, job: str = "", queue: str | None = None, **facts: Any) -> int:
        """Append an event of this process, now; gives its time."""
        return self.write_of(self.process, kind, job, queue, **facts)

    def write_of(self, process: str, kind: Kind, job: str = "", queue: str | None = None, **facts: Any) -> int:
        """Append an event of another process, which cannot write it."""
        at = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        line = json.dumps([at, kind, process, job, queue, facts]).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"the history of {self.process} could not be written")
        return at

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def events(folder: Path) -> list[Event]:
    """All that was written, by time."""
    found = [event for path in folder.glob("*.jsonl") for event in _lines(path)]
    return sorted(found, key=lambda event: event.at)


def _lines(path: Path) -> Iterator[Event]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):  # else it is the last one, torn by a kill
            at, kind, process, job, queue, facts = json.loads(line)
            yield Event(at, Kind(kind), process, job, queue, facts)
