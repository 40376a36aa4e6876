import re
import signal
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from tests.sample_app.server import KEY, Sample, until

pytestmark = [pytest.mark.processes, pytest.mark.slow]

Start = Callable[[float], Sample]
IN_TIME = timedelta(seconds=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_names_the_jobs_that_are_lost_and_ends_well(start: Start, number: int) -> None:
    sample = start(60)  # an import that would take hours
    sample.press("/tenants/northwind/import")
    sample.press("/trouble/hang")
    until(lambda: len(sample.jobs(state="running")) == 2)

    code = sample.stop(number, IN_TIME)
    warnings = [line for line in sample.output.splitlines() if "WARNING" in line and "lost" in line]

    assert code == 0
    assert "Traceback" not in sample.output
    for name in ("Import airportsdata, Northwind", "Parcel 1, no answer", "Parcel 4"):
        assert any(name in line for line in warnings), sample.output
    assert sample.rows("northwind") == 0


def test_a_stop_without_jobs_warns_of_nothing(start: Start) -> None:
    sample = start(0)

    code = sample.stop(signal.SIGINT, IN_TIME)

    assert code == 0
    assert not re.search("lost|ERROR|Traceback", sample.output), sample.output


def test_a_stop_lets_a_short_job_end(start: Start) -> None:
    sample = start(0.01)  # an import that takes about two seconds
    sample.press("/tenants/northwind/import")
    until(lambda: sample.jobs(state="running"))

    code = sample.stop(within=IN_TIME)

    assert code == 0
    assert sample.rows("northwind") > 28_000
    assert not re.search("lost|ERROR|Traceback", sample.output), sample.output


def test_the_printed_address_opens_the_jobs_page_at_the_first_click(start: Start) -> None:
    sample = start(0)

    with httpx.Client(follow_redirects=True) as visitor:
        refused = visitor.get(f"{sample.address}/jobs/")
        opened = visitor.get(sample.jobs_address)

    assert refused.status_code == 403
    assert opened.status_code == 200
    assert "Airfield jobs" in opened.text
    assert KEY not in str(opened.url)
