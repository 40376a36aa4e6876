"""Two web processes and two workers on PostgreSQL, killed one after the other while they work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
import pytest

from asgi_jobs.stores.sql.tables import State
from sample_app import airports
from sample_app.mail import MailServer
from tests.sample_app.server import KEY, until
from tests.servers.process import lives

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.xdist_group("fleet"),
    pytest.mark.timeout(300),
]

TOTAL = airports.count_lines(airports.bundled_file())
TENANTS = ("northwind", "globex", "initech")
RUNNING, SUCCEEDED = State.RUNNING, State.SUCCEEDED
MEMBERS = ("web1", "web2", "worker1", "worker2")
PATIENCE = timedelta(seconds=90)
"""What a busy machine needs for what takes half a minute: a worker's jobs are taken over 20 seconds after its death."""


class Fleet:
    """The fleet, started by `python -m sample_app.fleet` with a data directory of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data / "data"
        self.web: list[httpx.Client] = []
        self._output = data / "output.txt"
        environment = {**os.environ, "ASGI_JOBS_KEY": KEY, "SAMPLE_IMPORT_PAUSE": "0.03"}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sample_app.fleet", "--port", "0", "--data", str(self.data)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            until(lambda: all(self.ready(name) for name in MEMBERS), PATIENCE)
            self.web = [httpx.Client(base_url=self.address(name), timeout=10) for name in ("web1", "web2")]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.web:
            client.close()
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            for name in MEMBERS:
                self.kill(name)
            raise

    @property
    def output(self) -> str:
        return self._output.read_text()

    def lines(self, name: str) -> str:
        """What a member has printed, all its lives together."""
        return "\n".join(re.findall(rf"^{name} +\| (.*)$", self.output, re.MULTILINE))

    def ready(self, name: str) -> int:
        """How often a member has said that it is."""
        assert self.process.poll() is None, self.output
        return self.lines(name).count("Background jobs  http" if name.startswith("web") else "runs up to")

    def address(self, name: str) -> str:
        found: str = re.findall(r"Airfield +(http://127\.0\.0\.1:\d+)/", self.lines(name))[0]
        return found

    def pids(self, name: str = r"\w+") -> list[int]:
        return [int(pid) for pid in re.findall(rf"^{name} +\| process (\d+) has started", self.output, re.MULTILINE)]

    def kill(self, name: str) -> None:
        for pid in self.pids(name)[-1:]:
            os.kill(pid, signal.SIGKILL)

    # What people do

    def press(self, path: str, **form: str) -> int:
        """Send a form to whichever web process answers; gives the status."""
        return until(lambda: self._press(path, form), PATIENCE)

    def _press(self, path: str, form: dict[str, str]) -> int | None:
        for client in self.web:
            with suppress(httpx.TransportError):
                return client.post(path, data=form).status_code
        return None

    def sign_up(self, name: str) -> str:
        email = f"{name}@example.com"
        # Whoever lost the answer with the process asks again, and hears that all is done.
        assert self.press("/people", name=name, email=email) in (303, 409)
        return email

    # What is in the database, as another program sees it

    def select(self, query: str) -> list[tuple[Any, ...]]:
        (url,) = re.findall(r"postgres +\| (postgresql://\S+)", self.output)
        with psycopg.connect(url) as database:
            return database.execute(query).fetchall()

    def jobs(self) -> Counter[tuple[str, int]]:
        """How many jobs of each task are in each state, as their rows have it."""
        found = self.select("SELECT split_part(task, ':', 2), state, count(*) FROM asgi_jobs GROUP BY 1, 2")
        return Counter({(task, state): number for task, state, number in found})

    def addressed(self) -> Counter[str]:
        """How many messages have arrived for each address."""
        messages = MailServer(self.data / "mail")._read(limit=1000)
        return Counter(parseaddr(message.to)[1] for message in messages)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


def test_nothing_is_lost_though_each_process_is_killed_while_it_works(fleet: Fleet) -> None:
    emails = []
    for number, victim in enumerate(("worker1", "web1", "worker2", "web2")):
        if victim.startswith("worker"):
            assert [fleet.press(f"/tenants/{tenant}/import") for tenant in TENANTS] == [303] * 3
        emails += [fleet.sign_up(f"before{number}{letter}") for letter in "abcde"]
        until(lambda: fleet.jobs()["import_airports", RUNNING])
        fleet.kill(victim)
        emails += [fleet.sign_up(f"after{number}{letter}") for letter in "abcde"]
        until(lambda: fleet.ready(victim) == 2, PATIENCE)  # noqa: B023
    until(lambda: all(state == SUCCEEDED for _, state in fleet.jobs()), PATIENCE)

    assert fleet.jobs()["import_airports", SUCCEEDED] >= 2 * len(TENANTS)
    assert fleet.jobs()["send_welcome", SUCCEEDED] == len(emails)
    assert dict(fleet.select("SELECT tenant, count(*) FROM airports GROUP BY 1")) == dict.fromkeys(TENANTS, TOTAL)
    assert Counter(email for (email,) in fleet.select("SELECT email FROM people")) == Counter(emails)
    assert fleet.addressed().keys() == set(emails)  # each at least once
    assert "go back to their places" in fleet.output


def test_one_key_opens_the_page_of_either_process(fleet: Fleet) -> None:
    for address in ("web1", "web2"):
        with httpx.Client(base_url=fleet.address(address), follow_redirects=True) as visitor:
            closed = visitor.get("/jobs/")
            opened = visitor.get("/jobs/", params={"key": KEY})

        assert closed.status_code == 403
        assert "With <code>ASGI_JOBS_KEY</code> in its environment, that is the key." in closed.text
        assert opened.status_code == 200
        assert "Welcome after3e@example.com" in opened.text  # both show the jobs of all


def test_ctrl_c_ends_all_of_them_and_the_database_last(fleet: Fleet) -> None:
    fleet.process.send_signal(signal.SIGINT)

    assert fleet.process.wait(PATIENCE.total_seconds()) == 0
    assert not any(map(lives, fleet.pids()))
    for worker in ("worker1", "worker2"):
        assert fleet.lines(worker).endswith("The worker has stopped")  # and was not killed
    assert not (fleet.data / "postgresql" / "postmaster.pid").exists()
    assert "Traceback" not in fleet.output
