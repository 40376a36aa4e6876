"""The sample with its jobs in SQLite: what works in memory works, and a restart loses nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from sample_app import airports
from tests.sample_app.server import Sample, until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.xdist_group("sample sqlite")]

TOTAL = airports.count_lines(airports.bundled_file())
IN_TIME = timedelta(seconds=20)
Start = Callable[[float], Sample]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the sample, again and again in one directory; argument: how long an import rests after each batch."""
    started: list[Sample] = []

    def start(import_pause: float) -> Sample:
        sample = Sample(tmp_path, import_pause, store=str(tmp_path / "airfield.sqlite3"))
        started.append(sample)
        sample.open_dashboard()
        return sample

    yield start
    for sample in started:
        sample.__exit__()


def half_way(sample: Sample) -> bool:
    progress = sample.job(queue="import:northwind")["progress"]
    return progress is not None and 1000 < progress["done"] < TOTAL


def test_each_kind_of_job_works(start: Start) -> None:
    sample = start(0)
    sample.press("/people", data={"name": "Ana", "email": "ana@example.com"})
    sample.press("/tenants/northwind/import")
    sample.press("/reports")

    assert sample.ended(queue="import:northwind")["state"] == "succeeded"
    sample.press("/tenants/northwind/map")
    for job in ("ana@example.com", "Report", "Map"):
        assert sample.ended(q=job)["state"] == "succeeded"
    assert sample.rows("northwind") == TOTAL
    assert "Welcome to Airfield, Ana" in sample.page("/inbox")
    assert "Jobs are kept in SQLite" in sample.page("/")


def test_a_sign_up_that_is_rolled_back_leaves_no_job(start: Start) -> None:
    sample = start(0)
    for _ in range(2):
        sample.client.post("/people", data={"name": "Ana", "email": "ana@example.com"})

    assert len(sample.jobs(q="ana@example.com")) == 1
    with closing(sqlite3.connect(sample.data / "airfield.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM asgi_jobs WHERE name LIKE '%ana@%'").fetchone() == (1,)


def test_what_a_kill_cut_off_is_done_by_the_next_process(start: Start) -> None:
    sample = start(0.05)
    sample.press("/tenants/northwind/import")
    until(lambda: half_way(sample))
    sample.press("/tenants/northwind/import")
    sample.kill()

    sample = start(0)

    jobs = until(lambda: [job for job in sample.jobs(queue="import:northwind") if job["finished_at"]][1:])
    assert [job["state"] for job in sample.jobs(queue="import:northwind")] == ["succeeded"] * 2, jobs
    assert sample.rows("northwind") == TOTAL


def test_a_stop_loses_nothing_and_says_what_goes_back_to_its_place(start: Start) -> None:
    sample = start(60)  # an import that would take hours
    sample.press("/tenants/northwind/import")
    sample.press("/trouble/hang")
    until(lambda: len(sample.jobs(state="running")) == 2)

    code = sample.stop(within=IN_TIME)

    assert code == 0
    assert "Traceback" not in sample.output
    (line,) = (line for line in sample.output.splitlines() if "go back to their place" in line)
    assert "Import airportsdata, Northwind" in line
    assert "lost" not in sample.output

    sample = start(0)
    assert sample.ended(queue="import:northwind")["attempt"] == 1  # the one that was cut off is not counted
    until(lambda: sample.jobs(state="running", q="Parcel 1"))
