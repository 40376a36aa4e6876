"""A sample application in a process of its own, and what a test asks of it."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")
KEY = "a key for the tests of the sample"
SOON = timedelta(seconds=30)
POLL = 0.03


def until(probe: Callable[[], T | None], within: timedelta = SOON) -> T:
    """Ask until the answer is true, and return it; fail when the time is over."""
    deadline = time.monotonic() + within.total_seconds()
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {within} in vain; the last answer was {answer!r}"
        time.sleep(POLL)
    return answer


class Sample:
    """The application, started by `python -m sample_app` with a data directory of its own.

    Args:
        data: the directory.
        import_pause: how long an import rests after each batch, in seconds.
        store: where jobs are kept; memory when it is empty.
    """

    def __init__(self, data: Path, import_pause: float = 0.0, store: str = "") -> None:
        self.data = data
        self._output = data / "output.txt"
        environment = {
            **os.environ,
            "ASGI_JOBS_KEY": KEY,
            "PYTHONWARNINGS": "error",
            "SAMPLE_DATA": str(data),
            "SAMPLE_IMPORT_PAUSE": str(import_pause),
            "SAMPLE_STORE": store,
        }
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sample_app", "--port", "0"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.address, self.jobs_address = until(self._addresses)
        except BaseException:
            self.kill()
            raise
        self.client = httpx.Client(base_url=self.address, timeout=20)

    def _addresses(self) -> tuple[str, str] | None:
        assert self.process.poll() is None, f"the application has ended:\n{self.output}"
        found = re.findall(r"http://127\.0\.0\.1:\d+/\S*", self.output.partition("Airfield  ")[2])
        return (found[0].rstrip("/"), found[1]) if len(found) >= 2 else None

    @property
    def output(self) -> str:
        """What the process has printed and logged so far."""
        return self._output.read_text()

    # The application

    def page(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, self.output
        return answer.text

    def press(self, path: str, **more: Any) -> httpx.Response:
        """Send a form, and expect to be sent to a page."""
        answer = self.client.post(path, **more)
        assert answer.status_code == 303, self.output
        return answer

    def upload(self, tenant: str, content: bytes, name: str = "airports.csv") -> None:
        self.press(f"/tenants/{tenant}/upload", files={"file": (name, content, "text/csv")})

    def rows(self, tenant: str) -> int:
        """How many airports of a tenant are in the database, as another program sees it."""
        with closing(sqlite3.connect(self.data / "airfield.sqlite3")) as database:
            query = "SELECT count(*) FROM airports WHERE tenant = ?"
            count: int = database.execute(query, (tenant,)).fetchone()[0]
        return count

    # Its dashboard

    def open_dashboard(self) -> None:
        answer = self.client.get(self.jobs_address, follow_redirects=True)
        assert answer.status_code == 200, answer.text

    def ask(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/jobs{path}", params=params, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def jobs(self, **filters: str) -> list[dict[str, Any]]:
        """The jobs that match, newest first."""
        found: list[dict[str, Any]] = self.ask("/jobs", **filters)["jobs"]
        return found

    def job(self, **filters: str) -> dict[str, Any]:
        """The newest job that matches, with its log."""
        found: dict[str, Any] = self.ask(f"/jobs/{self.jobs(**filters)[0]['id']}")
        return found

    def ended(self, **filters: str) -> dict[str, Any]:
        """The newest job that matches, once it has ended."""

        def look() -> dict[str, Any] | None:
            job = self.job(**filters)
            return job if job["finished_at"] else None

        return until(look)

    # Its end

    def stop(self, number: int = signal.SIGTERM, within: timedelta = SOON) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within.total_seconds())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.kill()
