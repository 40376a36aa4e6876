from datetime import datetime
from typing import Any

import pytest

from sample_app import airports
from tests.sample_app.server import Sample, until

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("sample import")]

HEADING = b"icao,name,country,lat,lon\n"
TOTAL = airports.count_lines(airports.bundled_file())


def half_way(sample: Sample, queue: str) -> dict[str, Any]:
    """The import of a queue, once some of its lines are checked and some are not."""

    def look() -> dict[str, Any] | None:
        job = sample.job(queue=queue)
        return job if job["progress"] and 1000 < job["progress"]["done"] < TOTAL else None

    return until(look)


def test_the_airports_of_the_package_are_imported(sample: Sample) -> None:
    sample.press("/tenants/northwind/import")

    running = half_way(sample, "import:northwind")
    job = sample.ended(queue="import:northwind")

    assert running["state"] == "running"
    assert running["progress"]["total"] == TOTAL
    assert job["state"] == "succeeded", job["error"]
    assert job["name"] == "Import airportsdata, Northwind"
    assert job["log"] == [
        f"airports.csv has {TOTAL:,} lines",
        f"All {TOTAL:,} airports are in order; writing them in one transaction",
        f"{TOTAL:,} airports imported",
    ]
    assert sample.rows("northwind") == TOTAL == 28_298
    assert f"{TOTAL:,} airports" in sample.page("/tenants/northwind")
    assert f"/jobs/jobs/{job['id']}" in sample.page("/tenants/northwind")


def test_an_import_cancelled_half_way_changes_nothing(sample: Sample) -> None:
    sample.upload("globex", HEADING + b"KJFK,Kennedy,US,40.6,-73.8\n")
    sample.ended(queue="import:globex")
    sample.press("/tenants/globex/import")
    job = half_way(sample, "import:globex")

    sample.press(f"/tenants/globex/imports/{job['id']}/cancel")
    job = sample.ended(queue="import:globex")

    assert job["state"] == "cancelled"
    assert job["cancel_reason"] == "Cancelled on the tenant's page"
    assert job["progress"]["done"] < TOTAL
    assert sample.rows("globex") == 1


def test_an_import_cancelled_while_it_writes_still_writes_all_and_locks_nobody_out(sample: Sample) -> None:
    sample.press("/tenants/initech/import")
    until(lambda: len(sample.job(queue="import:initech")["log"]) >= 2)  # the second line says that it writes

    sample.press(f"/tenants/initech/imports/{sample.job(queue='import:initech')['id']}/cancel")
    job = sample.ended(queue="import:initech")
    sample.press("/people", data={"name": "After", "email": "after@example.com"})

    assert job["state"] == "succeeded"
    assert sample.rows("initech") == TOTAL


def test_a_bad_line_fails_the_import_and_changes_nothing(sample: Sample) -> None:
    sample.upload("initech", HEADING + b"KJFK,Kennedy,US,40.6,-73.8\n")
    sample.ended(queue="import:initech")

    sample.upload("initech", HEADING + b"EGLL,Heathrow,GB,51.5,-0.5\nEDDF,Frankfurt,DE,150,8.6\n", "europe.csv")
    job = sample.ended(queue="import:initech")

    assert job["state"] == "failed"
    assert job["name"] == "Import europe.csv, Initech"
    assert job["error"]["message"] == "line 3: lat: Input should be less than or equal to 90, got '150'"
    assert "line 3: lat" in sample.page("/tenants/initech")
    assert sample.rows("initech") == 1


def test_a_failed_upload_can_be_run_again(sample: Sample) -> None:
    sample.upload("initech", HEADING + b"EDDF,Frankfurt,DE,150,8.6\n", "again.csv")
    failed = sample.ended(q="again.csv")

    answer = sample.client.post(f"/jobs/jobs/{failed['id']}/retry", headers={"Accept": "application/json"})
    job = sample.ended(q="again.csv")

    assert answer.status_code == 200
    assert job["retry_of"] == failed["id"]
    assert failed["error"]["message"] == job["error"]["message"]  # the file was still there
    assert job["error"]["message"].startswith("line 2: lat: ")


def test_imports_of_one_tenant_run_one_after_another_others_beside_them(sample: Sample) -> None:
    for tenant in ("globex", "globex", "initech"):
        sample.press(f"/tenants/{tenant}/import")
    half_way(sample, "import:initech")
    second, first = sample.jobs(queue="import:globex")[:2]
    other = sample.jobs(queue="import:initech")[0]

    assert (first["state"], second["state"], other["state"]) == ("running", "queued", "running")
    assert "Waits in the queue import:globex" in sample.page("/tenants/globex")

    for job in (first, second, other):
        until(lambda: sample.ask(f"/jobs/{job['id']}")["finished_at"])  # noqa: B023
    first, second = (sample.ask(f"/jobs/{job['id']}") for job in (first, second))

    assert first["state"] == second["state"] == "succeeded"
    assert datetime.fromisoformat(first["finished_at"]) <= datetime.fromisoformat(second["started_at"])
    assert sample.rows("globex") == TOTAL


def test_nobody_meets_a_locked_database_while_imports_write(sample: Sample) -> None:
    for tenant in ("northwind", "globex", "initech"):
        sample.press(f"/tenants/{tenant}/import")
    number = 0

    def all_have_ended() -> bool:
        nonlocal number
        number += 1
        sample.press("/people", data={"name": f"Writer {number}", "email": f"writer{number}@example.com"})
        sample.press("/reports")
        sample.page("/tenants/northwind")
        return all(sample.jobs(queue=f"import:{t}")[0]["finished_at"] for t in ("northwind", "globex", "initech"))

    until(all_have_ended)
    sample.ended(queue="reports")

    assert not sample.jobs(state="failed", q="report")
    assert not sample.jobs(state="failed", q="writer")
    assert "database is locked" not in sample.output


def test_an_import_of_another_tenant_cannot_be_cancelled(sample: Sample) -> None:
    sample.upload("northwind", HEADING)
    job = sample.ended(queue="import:northwind")

    assert sample.client.post(f"/tenants/globex/imports/{job['id']}/cancel").status_code == 404
    assert sample.client.post("/tenants/globex/imports/unknown/cancel").status_code == 404


def test_an_upload_that_is_too_large_is_refused(sample: Sample) -> None:
    before = len(list((sample.data / "uploads").iterdir()))

    answer = sample.client.post(
        "/tenants/globex/upload", files={"file": ("large.csv", b"x" * (8 * 1024 * 1024 + 1), "text/csv")}
    )

    assert answer.status_code == 413
    assert "At most 8 MB" in answer.text
    assert len(list((sample.data / "uploads").iterdir())) == before
    assert not sample.jobs(q="large.csv")


def test_an_upload_without_a_file_is_refused(sample: Sample) -> None:
    answer = sample.client.post("/tenants/globex/upload", files={"file": ("", b"", "text/csv")})

    assert answer.status_code == 422
    assert "choose a CSV file" in answer.text


def test_an_unknown_tenant_has_no_page(sample: Sample) -> None:
    answer = sample.client.get("/tenants/umbrella")

    assert answer.status_code == 404
    assert "There is no such tenant." in answer.text
