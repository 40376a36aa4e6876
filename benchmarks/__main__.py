"""The command: ``python -m benchmarks memory [--quick] [--rows throughput,wake]``."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from benchmarks import memory
from benchmarks.peers import LIBRARIES
from benchmarks.scale import QUICK, Scale
from benchmarks.table import Row, rendered


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print it as one table."""
    options = _parser().parse_args(arguments)
    scale = QUICK if options.quick else Scale()
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    rows: list[Row] = []
    for group, measured in memory.measured(scale, options.rows):
        print(f"{group}: done", file=sys.stderr)
        rows += measured
    print(machine(), rendered(rows), sep="\n\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast asgi_jobs is.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("memory", help="the memory store, side by side with others")
    command.add_argument("--quick", action="store_true", help="small counts: only to see that it runs")
    command.add_argument("--rounds", type=int, help="samples of each contender (default: 9)")
    command.add_argument("--rows", type=_groups, default=list(memory.GROUPS), help=", ".join(memory.GROUPS))
    return parser


def _groups(text: str) -> list[str]:
    groups = text.split(",")
    if unknown := [group for group in groups if group not in memory.GROUPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(memory.GROUPS)}")
    return groups


def machine() -> str:
    """What the figures depend on: interpreter, system, cores, versions."""
    names = ["asgi-jobs", *(peer.distribution for peer in LIBRARIES if peer.distribution)]
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{python}, {system}, load average {_load()}; {versions}."


def _load() -> str:
    """Whether others used the machine too: then even ratios are doubtful."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
