"""Processes that are started, killed with -9 at any moment and replaced, and the journal in which that stands."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.journal import Journal, Kind

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Child:
    """One process: its name, which is new at every start, its role, its number."""

    name: str
    role: str
    pid: int


class Crew:
    """The processes that live now; each calls `main(ROLE, NAME, FOLDER, ARGUMENTS…)` of a module.

    Args:
        module: what each of them runs.
        folder: where their journals and their output go.
        arguments: what all of them are told.
    """

    def __init__(self, module: str, folder: Path, arguments: Sequence[str]) -> None:
        self.journal = Journal(folder, "crew")
        self.living: list[Child] = []
        self.complaints: list[str] = []
        self._folder = folder
        self._arguments = arguments
        self._numbers = count(1)
        command = [sys.executable, "-m", "benchmarks.nursery", module]
        self._nursery = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )

    def start(self, role: str) -> Child:
        """Start one more."""
        name = f"{role}-{next(self._numbers)}"
        pid = self._ask("start", str(self._log(name)), role, name, str(self._folder), *self._arguments)
        child = Child(name, role, pid)
        self.living.append(child)
        return child

    def kill(self, child: Child) -> None:
        """Kill one with -9, which it cannot notice."""
        self.journal.write_of(child.name, Kind.KILLED)
        os.kill(child.pid, signal.SIGKILL)
        self._ask("wait", child.pid)
        self.living.remove(child)

    def replace(self, chance: random.Random) -> None:
        """Kill any one, and start another in its place at once."""
        child = chance.choice(self.living)
        self.kill(child)
        self.start(child.role)

    def stop(self, role: str) -> None:
        """Ask all of a role to end, and wait until they have."""
        children = [child for child in self.living if child.role == role]
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
        for child in children:
            code = self._ask("wait", child.pid)
            self.living.remove(child)
            if code not in (0, -signal.SIGTERM):  # the latter: it had not even begun
                self._complain(child, code)

    def look(self) -> None:
        """Replace those that have ended though nobody has ended them."""
        for child in list(self.living):
            if (code := self._ask("poll", child.pid)) is not None:
                self.living.remove(child)
                self._complain(child, code)
                self.start(child.role)

    def close(self) -> None:
        """End what is left."""
        for child in list(self.living):
            self.kill(child)
        self._nursery.communicate()
        self.journal.close()

    def _ask(self, *question: Any) -> Any:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(question) + "\n")
        return json.loads(self._nursery.stdout.readline())

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _complain(self, child: Child, code: int) -> None:
        said = self._log(child.name).read_text(errors="replace")
        self.complaints.append(f"{child.name} has ended with {code}:\n{said[-4_000:]}")
