"""What can be measured and tried from the command line. Other libraries are imported by the commands that need them."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import crash, fleet
from benchmarks.machine import machine
from benchmarks.scale import PAGE_QUICK, QUICK, SQL_QUICK, PageScale, Scale, SqlScale
from benchmarks.table import Row, rendered, written
from benchmarks.verdict import Outcome

MEMORY = ("throughput", "peers", "enqueue", "wake", "bytes", "host", "page")
SHOWN = 30
"""So many faults are printed; the table says how many there are."""
STORES = ("memory", "sqlite", "postgresql")
SQL = ("sqlite", "names", "single", "finished", "growth", "wake")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what is parsed has a `run`."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast asgi_jobs is, and how safe.")
    commands = made.add_subparsers(dest="command", required=True)
    _measuring(commands.add_parser("memory", help="the memory store, side by side with others"), MEMORY, memory, 9)
    _measuring(commands.add_parser("sql", help="stores in a database, side by side with others"), SQL, sql, 3)
    _looking(commands.add_parser("page", help="every page over a million records, in each store"))
    _crashing(commands.add_parser("crash", help="kill -9 at random points: is anything lost?"))
    _as_a_fleet(commands.add_parser("fleet", help="many processes on one PostgreSQL: is anything out of order?"))
    return made


def _measuring(
    command: argparse.ArgumentParser, groups: Sequence[str], run: Callable[[argparse.Namespace], int], rounds: int
) -> None:
    command.add_argument("--quick", action="store_true", help="small counts: only to see that it runs")
    command.add_argument("--rounds", type=int, help=f"samples of each contender (default: {rounds})")
    command.add_argument("--rows", type=_picked_of(groups), default=list(groups), help=", ".join(groups))
    command.add_argument("--into", type=Path, metavar="FILE", help="write it between its marks in this file, too")
    command.set_defaults(run=run)


def _looking(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quick", action="store_true", help="small counts: only to see that it runs")
    command.add_argument("--stores", type=_picked_of(STORES), default=list(STORES), help=", ".join(STORES))
    command.set_defaults(run=looked_at)


def _crashing(command: argparse.ArgumentParser) -> None:
    usual = crash.Trial()
    command.add_argument("--store", choices=("sqlite", "postgresql"), default=usual.store)
    command.add_argument("--kills", type=int, default=usual.kills, help=f"default: {usual.kills}")
    command.add_argument("--minutes", type=float, default=usual.longest / 60, help="kill nobody after so many")
    command.add_argument("--seed", type=int, default=usual.seed)
    command.set_defaults(run=killed)


def _as_a_fleet(command: argparse.ArgumentParser) -> None:
    usual = fleet.Size()
    for name in ("processes", "queues", "jobs"):
        command.add_argument(
            f"--{name}", type=int, default=getattr(usual, name), help=f"default: {getattr(usual, name):,}"
        )
    command.set_defaults(run=together)


def memory(options: argparse.Namespace) -> int:
    """Measure the memory store."""
    from benchmarks import memory
    from benchmarks.peers import LIBRARIES

    scale = QUICK if options.quick else Scale()
    scale = replace(scale, rounds=options.rounds or scale.rounds)
    about = machine(peer.distribution for peer in LIBRARIES)
    return _print("measured", about, memory.measured(scale, options.rows), options.into)


def sql(options: argparse.Namespace) -> int:
    """Measure the stores in a database."""
    from benchmarks import sql
    from benchmarks.peers.databases import LIBRARIES

    scale = SQL_QUICK if options.quick else SqlScale()
    scale = replace(scale, rounds=options.rounds or scale.rounds)
    about = machine(peer.distribution for peer in LIBRARIES)
    return _print("measured-sql", about, sql.measured(scale, options.rows), options.into)


def looked_at(options: argparse.Namespace) -> int:
    """Measure the pages."""
    from benchmarks import pages

    scale = PAGE_QUICK if options.quick else PageScale()
    print(machine([]), rendered(pages.rows(scale, options.stores)), sep="\n\n")
    return 0


def killed(options: argparse.Namespace) -> int:
    """Kill processes; the exit code says whether anything was found."""
    trial = crash.Trial(options.store, options.kills, options.minutes * 60, seed=options.seed)
    outcome = crash.tried(trial)
    return _judged(outcome, crash.rows(trial, outcome))


def together(options: argparse.Namespace) -> int:
    """Let many processes work; the exit code says whether anything was found."""
    return _judged(*fleet.tried(fleet.Size(options.processes, options.queues, options.jobs)))


def _judged(outcome: Outcome, rows: list[Row]) -> int:
    print(machine([]), rendered(rows), *outcome.found[:SHOWN], sep="\n\n")
    return 1 if outcome.found else 0


def _print(marks: str, about: str, measured: Iterable[tuple[str, list[Row]]], into: Path | None) -> int:
    rows: list[Row] = []
    for group, further in measured:
        print(f"{group}: done", file=sys.stderr)
        rows += further
    text = f"{about}\n\n{rendered(rows)}"
    print(text)
    if into is not None:
        into.write_text(written(into.read_text(), marks, text))
    return 0


def _picked_of(groups: Sequence[str]) -> Callable[[str], list[str]]:
    def picked(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [group for group in chosen if group not in groups]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(groups)}")
        return chosen

    return picked
