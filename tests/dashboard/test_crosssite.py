"""Writes come from this site, or from no browser at all."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from starlette.datastructures import Headers

from asgi_jobs import Jobs, JobState
from asgi_jobs.dashboard.crosssite import same_site

from .conftest import Site

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://test"}, False),
        ({"origin": "http://test"}, True),
        ({"origin": "https://test"}, True),  # TLS ends at a proxy
        ({"origin": "http://TEST:80"}, True),
        ({"origin": "http://test:8000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://test.evil.example"}, False),
        ({"origin": "http://evil.example/test"}, False),
        ({"origin": "http://test@evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://admin.example"}, True),
        ({}, True),
    ],
)
def test_who_may_write(headers: dict[str, str], allowed: bool) -> None:
    assert same_site(Headers({"host": "test", **headers}), ("https://admin.example",)) is allowed


def test_null_is_no_origin_that_could_be_allowed() -> None:
    assert not same_site(Headers({"host": "test", "origin": "null"}), ("null",))


def test_of_two_headers_both_must_hold() -> None:
    twice = Headers(raw=[(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")])
    assert not same_site(twice)
    origins = Headers(raw=[(b"host", b"test"), (b"origin", b"http://test"), (b"origin", b"http://evil.example")])
    assert not same_site(origins)
    hosts = Headers(raw=[(b"host", b"evil.example"), (b"host", b"test"), (b"origin", b"http://evil.example")])
    assert not same_site(hosts)


@pytest.mark.parametrize("site_says", ["cross-site", "same-site", "none"])
async def test_another_site_cannot_press_a_button(site: Site, site_says: str) -> None:
    jobs = Jobs(authorize=lambda request: True)
    async with jobs:
        job = jobs.enqueue(print, "never", delay=HOUR)
        client = site(jobs)
        answer = await client.post(f"/jobs/{job.id}/cancel", headers={"sec-fetch-site": site_says})
        assert answer.status_code == 403
        assert job.state is JobState.SCHEDULED
        same: httpx.Response = await client.post(f"/jobs/{job.id}/cancel", headers={"sec-fetch-site": "same-origin"})
        assert same.status_code == 303
        assert job.state is JobState.CANCELLED
