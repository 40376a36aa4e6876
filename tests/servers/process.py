"""A server in a process of its own: started, asked and ended by its pid, its output read to the end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")
SOON = timedelta(seconds=30)
POLL = 0.02
ROOT = Path(__file__).parents[2]
JSON = {"Accept": "application/json"}
KEY = "a key for the tests of servers"


def until(probe: Callable[[], T | None], within: timedelta = SOON) -> T:
    """Ask until the answer is true, and return it; fail when the time is over."""
    deadline = time.monotonic() + within.total_seconds()
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {within} in vain; the last answer was {answer!r}"
        time.sleep(POLL)
    return answer


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else is given, for a server that shares its ports but cannot choose one."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class Process:
    """A process in a group of its own, which ends with the `with` at the latest.

    Args:
        command: what follows `python -m`.
        environment: what the application reads; None takes one away.
    """

    def __init__(self, *command: str, environment: dict[str, str | None] | None = None) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="asgi_jobs_server_", suffix=".txt")  # noqa: SIM115
        self._last_words = ""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        wanted = {"PYTHONUNBUFFERED": "1", "ASGI_JOBS_KEY": KEY, **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=inherited | {name: value for name, value in wanted.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):  # it, and whatever it has started
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._last_words = self.output
        self._file.close()

    @property
    def output(self) -> str:
        """What the process has printed and logged so far."""
        return self._last_words or Path(self._file.name).read_text()

    @property
    def told(self) -> list[str]:
        """What the application itself has said, in order."""
        return re.findall(r"^\[(.*)\]$", self.output, re.MULTILINE)

    @property
    def warnings(self) -> list[str]:
        """The lines in which jobs are said to be lost."""
        return [line for line in self.output.splitlines() if "lost at shutdown" in line]

    def says(self, text: str, times: int = 1, within: timedelta = SOON) -> None:
        """Wait until the text stands in the output, so many times."""
        deadline = time.monotonic() + within.total_seconds()
        while self.output.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not in the output:\n{self.output}"
            time.sleep(POLL)

    def send(self, *numbers: int) -> None:
        """Send signals to the main process."""
        for number in numbers:
            self.process.send_signal(number)

    def ended(self, within: timedelta = SOON) -> int:
        """Wait for the end; gives the exit code."""
        try:
            return self.process.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process has not ended within {within}:\n{self.output}") from None

    def stop(self, number: int = signal.SIGTERM, within: timedelta = SOON) -> int:
        """Send a signal, and wait for the end; gives the exit code."""
        self.send(number)
        return self.ended(within)


class Server(Process):
    """A web server.

    Args:
        command: what follows `python -m`.
        environment: what the application reads; None takes one away.
        port: where it listens; None: its output says so.
    """

    def __init__(self, *command: str, environment: dict[str, str | None], port: int | None = None) -> None:
        super().__init__(*command, environment=environment)
        self._port = port
        self.client = httpx.Client(timeout=20, headers={"Connection": "close"})

    # Its life

    def __enter__(self) -> Self:
        try:
            self.address = f"http://127.0.0.1:{until(self._listening)}"
            self.client.base_url = httpx.URL(self.address)
            until(self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        super().__exit__()

    def _listening(self) -> int | None:
        self.assert_alive()
        if self._port is not None:
            return self._port
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.output)
        return int(found[1]) if found else None

    def _answers(self) -> bool:
        self.assert_alive()
        with suppress(httpx.TransportError):
            return self.client.get("/ready").status_code < 500
        return False

    def assert_alive(self) -> None:
        assert self.process.poll() is None, f"the server has ended:\n{self.output}"

    # What it serves

    def post(self, path: str) -> str:
        """Ask the application to enqueue something; gives the job's id."""
        answer = self.client.post(path)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}\n{self.output}"
        id: str = answer.json()["id"]
        return id

    def page(self, path: str = "/jobs/") -> Any:
        """The page's data."""
        answer = self.client.get(path, headers=JSON)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}\n{self.output}"
        return answer.json()

    def job(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.page(f"/jobs/jobs/{id}")
        return found

    def wait_for(self, id: str, *states: str) -> dict[str, Any]:
        """Wait until the job is in one of the states."""
        return until(lambda: job if (job := self.job(id))["state"] in states else None)


def uvicorn(app: str, *more: str, **environment: str | None) -> Server:
    return Server("uvicorn", app, "--port", "0", *more, environment=environment)


def hypercorn(app: str, *more: str, **environment: str | None) -> Server:
    return Server("hypercorn", app, "--bind", "127.0.0.1:0", *more, environment=environment)


@contextmanager
def granian(app: str, *more: str, **environment: str | None) -> Iterator[Server]:
    with reserved_port() as port:
        options = ("--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), *more)
        with Server("granian", app, *options, port=port, environment=environment) as server:
            yield server


def children(pid: int) -> Sequence[int]:
    """The processes that a process has started and that still live."""
    names = (path.name for path in Path("/proc").glob("[0-9]*"))
    return [int(name) for name in names if _stat(int(name))[1:] == [str(pid)] and lives(int(name))]


def lives(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    return _stat(pid)[:1] not in ([], ["Z"])


def _stat(pid: int) -> list[str]:
    """A process's state, and its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []
