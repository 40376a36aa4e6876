"""A traceback's text, taken apart again: the application's own frames are what a reader looks for."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'^[ |+]*File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_NEW_TRACEBACK = re.compile(r"^[ |+]*(?:\+ Exception Group )?Traceback \(most recent call last\)")
_OURS = str(Path(__file__).parents[1])  # by where it lies: a checkout may have our name as well
_FOREIGN = ("site-packages", "dist-packages", "<frozen ", "<string>")
_STDLIB = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} - {None})


@dataclass(frozen=True, slots=True)
class TraceFrame:
    """One frame of a traceback."""

    at: str
    function: str
    code: str
    own: bool


def frames_in(traceback: str) -> list[TraceFrame]:
    """The frames of the exception that came out last, innermost first."""
    frames: list[TraceFrame] = []
    lines = traceback.splitlines()
    for number, line in enumerate(lines):
        if _NEW_TRACEBACK.match(line):
            frames = []
        elif found := _FRAME.match(line):
            following = lines[number + 1] if number + 1 < len(lines) else ""
            frames.append(_frame(found, following))
    return frames[::-1]


def own_frames(traceback: str) -> list[TraceFrame]:
    """The application's frames, innermost first; where there is none, the place of the error."""
    frames = frames_in(traceback)
    return [frame for frame in frames if frame.own] or frames[:1]


def count_frames(traceback: str) -> int:
    """How many frames the whole text has, causes included."""
    return sum(1 for line in traceback.splitlines() if _FRAME.match(line))


def _frame(found: re.Match[str], following: str) -> TraceFrame:
    file = found["file"]
    code = following.strip(" |+\t")
    if _FRAME.match(following) or set(code) <= set("^~ "):
        code = ""
    at = f"{shortened(file)}:{found['line']}"
    return TraceFrame(at, found["function"] or "", code, is_own(file))


def is_own(file: str) -> bool:
    """Whether a file is the application's: not a library's, not Python's, not ours."""
    return not any(mark in file for mark in _FOREIGN) and not file.startswith((*_STDLIB, _OURS))


def shortened(file: str) -> str:
    """A path without what every path of the application begins with."""
    for mark in ("site-packages/", "dist-packages/"):
        if mark in file:
            return file.rpartition(mark)[2]
    here = f"{Path.cwd()}/"
    return file.removeprefix(here) if file.startswith(here) else "/".join(file.split("/")[-3:])
