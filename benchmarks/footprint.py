"""Bytes a job takes while it waits and when it has ended; run in a fresh process each.

``python -m benchmarks.footprint COUNT SHAPE METER RETENTION`` prints one JSON object.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import monotonic

from asgi_jobs import Jobs
from benchmarks.latency import BREATH
from benchmarks.peers.ours import allow, noop
from benchmarks.scale import Scale
from benchmarks.table import Row, at_most

SHAPES: dict[str, Callable[[int], str | None]] = {
    "no queue": lambda number: None,
    "a name per job": lambda number: f"name {number}",
}

MEANINGFUL = 10_000
"""Of fewer records resident memory, which grows by pages, says nothing."""


def rows(scale: Scale) -> list[Row]:
    """By tracemalloc, which sees each allocation; by resident memory, which the machine has to have."""
    out = []
    for shape in SHAPES:
        traced = _measured(scale, shape, "tracemalloc")
        out += [
            at_most(f"bytes a waiting job, {shape}", traced["waiting"], 700, "B"),
            at_most(f"bytes a finished record, {shape}", traced["finished"], 500, "B"),
            at_most(f"left after cleanup, a job, {shape}", traced["left"], 5, "B"),
        ]
        if scale.records >= MEANINGFUL and Path("/proc/self/statm").exists():
            seen = _measured(scale, shape, "resident")
            text = f"{seen['waiting']:.0f} / {seen['finished']:.0f} / {seen['left']:.0f} B"
            out.append(Row(f"resident: waiting / finished / left, {shape}", text))
    return out


def _measured(scale: Scale, shape: str, meter: str) -> dict[str, float]:
    arguments = [str(scale.records), shape, meter, str(scale.retention)]
    command = [sys.executable, "-m", "benchmarks.footprint", *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    figures: dict[str, float] = json.loads(out.stdout)
    return figures


def resident() -> int:
    """Resident bytes of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def traced() -> int:
    """Bytes that Python has allocated since tracemalloc began."""
    return tracemalloc.get_traced_memory()[0]


async def lifetime(
    count: int, name: Callable[[int], str | None], used: Callable[[], int], retention: timedelta
) -> dict[str, float]:
    """Let jobs wait, end and be forgotten; the bytes of each stage over the baseline, a job."""
    jobs = Jobs(
        authorize=allow,
        concurrency=1,
        max_queued=count + 10,
        max_finished=count + 10,
        retention=retention,
        cleanup_interval=timedelta(seconds=1),
    )
    async with jobs:
        released = asyncio.Event()
        jobs.enqueue(released.wait)
        await asyncio.sleep(0.1)
        base = _settled(used)
        for number in range(count):
            jobs.enqueue(noop, number, queue=name(number))
            if number % BREATH == 0:
                await asyncio.sleep(0)
        waiting = _settled(used) - base
        released.set()
        await jobs.join()
        finished = _settled(used) - base
        await _forgotten(jobs)
        left = _settled(used) - base
    return {"waiting": waiting / count, "finished": finished / count, "left": left / count}


def _settled(used: Callable[[], int]) -> int:
    gc.collect()
    return used()


async def _forgotten(jobs: Jobs) -> None:
    limit = monotonic() + 60
    while sum((await jobs.counts()).values()):
        if monotonic() > limit:
            raise TimeoutError("records outlived their retention")
        await asyncio.sleep(0.2)


def main(count: str, shape: str, meter: str, retention: str) -> None:
    """Measure in this process and print."""
    if meter == "tracemalloc":
        tracemalloc.start()
    used = traced if meter == "tracemalloc" else resident
    figures = lifetime(int(count), SHAPES[shape], used, timedelta(seconds=float(retention)))
    print(json.dumps(asyncio.run(figures)))


if __name__ == "__main__":
    main(*sys.argv[1:])
