"""What the processes of test_processes do."""

from __future__ import annotations

import signal
from pathlib import Path

from benchmarks.journal import Journal, Kind


def main(role: str, name: str, folder: str, told: str) -> None:
    if role == "fail":
        raise ValueError("as told")
    signal.signal(signal.SIGTERM, lambda *_: None)
    Journal(Path(folder), name).write(Kind.STARTED, told)
    signal.pause()
