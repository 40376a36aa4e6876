"""Brings forth processes in milliseconds: it has imported everything, and forks for each.

``python -m benchmarks.nursery MODULE`` reads one JSON list a line: ``["start", LOG, ARGUMENT…]`` forks a process that
calls ``MODULE.main(ARGUMENT…)`` and answers its pid; ``["poll", PID]`` and ``["wait", PID]`` answer its exit code,
or null. They all end with it.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Nursery:
    """The parent of all processes that run one module."""

    def __init__(self, module: str) -> None:
        self._main: Callable[..., None] = importlib.import_module(module).main
        self._codes: dict[int, int | None] = {}

    def start(self, log: str, *arguments: str) -> int:
        """Fork; the child never returns."""
        pid = os.fork()
        if pid == 0:
            self._be_born(log, arguments)
        self._codes[pid] = None
        return pid

    def poll(self, pid: int, options: int = os.WNOHANG) -> int | None:
        """How it has ended, as subprocess says it; None: it lives."""
        if self._codes[pid] is None:
            ended, status = os.waitpid(pid, options)
            if ended:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
        return self._codes[pid]

    def wait(self, pid: int) -> int | None:
        """Wait for its end."""
        return self.poll(pid, 0)

    def close(self) -> None:
        """Kill those that live."""
        for pid in self._codes:
            if self.poll(pid) is None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.wait(pid)

    def _be_born(self, log: str, arguments: tuple[str, ...]) -> None:
        code = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
                os.dup2(source, number)
            self._main(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def main(module: str) -> None:
    """Answer until nobody asks any more."""
    nursery = Nursery(module)
    answers: dict[str, Callable[..., Any]] = {"start": nursery.start, "poll": nursery.poll, "wait": nursery.wait}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides
    try:
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            print(json.dumps(answers[command](*arguments)), flush=True)
    finally:
        nursery.close()


if __name__ == "__main__":
    main(sys.argv[1])
