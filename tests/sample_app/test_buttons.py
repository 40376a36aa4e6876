import re
from typing import Any

import pytest

from tests.sample_app.server import Sample, until

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("sample buttons")]


def test_the_job_that_fails_is_failed_with_its_traceback(sample: Sample) -> None:
    sample.press("/trouble/fail")

    job = sample.ended(q="Order shipped")
    page = sample.page("/trouble")

    assert job["state"] == "failed"
    assert job["error"]["type"] == "ConnectionError"
    assert job["error"]["message"] == "https://hooks.initech.example/orders did not answer"
    assert "in deliver_webhook" in job["error"]["traceback"]
    assert job["log"] == ["POST https://hooks.initech.example/orders"]
    assert f"/jobs/jobs/{job['id']}" in page
    assert "ConnectionError: https://hooks.initech.example/orders did not answer" in page


@pytest.mark.slow
def test_the_job_that_hangs_holds_up_its_queue_until_it_is_cancelled(sample: Sample) -> None:
    sample.press("/trouble/hang")

    def blocked() -> dict[str, Any] | None:
        queues = {queue["name"]: queue for queue in sample.ask("/queues")}
        return queues["courier"] if queues["courier"]["blocked_by"] else None

    hanging = sample.jobs(q="no answer")[0]
    behind = sample.jobs(queue="courier", state="queued")
    queue = until(blocked)

    assert hanging["state"] == "running"
    assert len(behind) == queue["queued"] == 3
    assert queue["blocked_by"] == hanging["id"]
    assert "call_courier" in sample.page(f"/jobs/jobs/{hanging['id']}")

    sample.client.post(f"/jobs/jobs/{hanging['id']}/cancel")
    until(lambda: all(sample.ask(f"/jobs/{job['id']}")["state"] == "succeeded" for job in behind))

    assert sample.ask(f"/jobs/{hanging['id']}")["state"] == "cancelled"


@pytest.mark.slow
def test_the_job_that_blocks_the_loop_is_named_with_its_line(sample: Sample) -> None:
    sample.press("/trouble/block")

    job = sample.ended(q="Compress")  # the first answer comes when the loop is free again

    assert job["state"] == "succeeded"
    until(lambda: re.findall(r"WARNING.*Compress the archive", sample.output))
    assert re.search(r"sample_app/jobs\.py:\d+", sample.output)
    assert "Compress the archive" in sample.page("/jobs/")


def test_the_report_is_made_on_demand(sample: Sample) -> None:
    assert "No report has been made yet" in sample.page("/reports")

    sample.press("/reports")
    job = sample.ended(queue="reports")
    page = sample.page("/reports")

    assert job["state"] == "succeeded", job["error"]
    assert job["name"] == "Report, on demand"
    assert not job["uncommitted"]
    assert "No report has been made yet" not in page
    assert "Northwind" in page


def test_the_heart_beats_by_itself(sample: Sample) -> None:
    until(lambda: re.findall(r"\d+ so far", sample.page("/reports")))

    job = sample.job(task="sample_app.jobs:heartbeat")

    assert job["source"] == "schedule"
    assert not job["uncommitted"]


def test_schedules_are_on_the_page_of_tasks(sample: Sample) -> None:
    tasks = {task["task"]: task for task in sample.ask("/tasks")}

    assert tasks["sample_app.jobs:nightly_report"]["schedule"]
    assert tasks["sample_app.jobs:nightly_report"]["next_run"][10:19] == "T03:00:00"
    assert tasks["sample_app.jobs:heartbeat"]["schedule"]
    assert tasks["sample_app.jobs:import_airports"]["needs_arguments"]


def test_health_is_well(sample: Sample) -> None:
    answer = sample.client.get("/health")

    assert answer.status_code == 200
    assert answer.json()["ok"] is True


@pytest.mark.parametrize("path", ["/", "/people", "/inbox", "/reports", "/trouble", "/tenants/globex"])
def test_every_page_has_a_strict_policy_and_needs_nothing_from_elsewhere(sample: Sample, path: str) -> None:
    answer = sample.client.get(path)

    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    links = re.findall(r'(?:src|href|action)="(\w+:[^"]*)"', answer.text)
    assert all(link.startswith(sample.address) for link in links), links
    assert not re.search(r"style=|<style|\son\w+=", answer.text)


def test_an_unknown_page_is_answered_in_the_same_dress(sample: Sample) -> None:
    answer = sample.client.get("/nowhere")

    assert answer.status_code == 404
    assert "Airfield" in answer.text
