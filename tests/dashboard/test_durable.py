"""The page on a database: what is told of jobs that run elsewhere, what a poll costs, and a database that is away."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from asgi_jobs import Jobs, StoreAway, StoreUnusable
from asgi_jobs.dashboard import routes
from asgi_jobs.info import Place
from asgi_jobs.job import Progress
from asgi_jobs.testing import FakeClock

from .conftest import Site
from .fleet import JSON, Shop
from .test_json import JOB, JOB_IN_LIST, QUEUE, TASK
from .test_workers import text_of

T = TypeVar("T")
HOUR = timedelta(hours=1)
sqlite = pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
"""For what does not depend on the database."""
PAGES = ("/", "/jobs", "/jobs?state=queued", "/queues", "/tasks", "/workers")


async def looked_at(jobs: Jobs) -> None:
    """Its process tells the others now where its jobs wait; it does so by itself each second."""
    durable = jobs._engine.durable
    assert durable is not None
    await durable.reports.report()


# The same pages as in memory


async def test_the_json_of_every_address_has_the_shape_that_it_has_in_memory(shop: Shop) -> None:
    await shop.open("worker-1")
    failed = await (await shop.enqueue("broken", queue="email", name="Receipt 7")).wait()
    await shop.enqueue("fine", delay=HOUR, queue="email")
    overview = await shop.data("/")
    assert set(overview) == {"counts", "queues", "tasks", "jobs"}
    assert overview["counts"] | {"scheduled": 1, "failed": 1} == overview["counts"]
    assert [set(queue) for queue in overview["queues"]] == [QUEUE]
    assert [set(task) for task in overview["tasks"]] == [TASK] * 4
    listed = await shop.data("/jobs?state=failed")
    assert (set(listed), [set(job) for job in listed["jobs"]]) == ({"jobs", "next"}, [JOB_IN_LIST])
    job = await shop.data(f"/jobs/{failed.id}")
    assert set(job) == JOB
    assert (job["state"], job["log"], len(job["attempts"])) == ("failed", ["began"], 1)
    assert "out of paper" in job["error"]["traceback"]
    assert [queue["name"] for queue in await shop.data("/queues")] == ["email"]
    assert [task["task"] for task in await shop.data("/tasks")] == [task.key for task in shop.tasks.values()]


async def test_a_job_page_shows_what_another_process_has_written(shop: Shop) -> None:
    await shop.open("worker-1")
    failed = await (await shop.enqueue("broken", name="Receipt 7")).wait()
    page = await shop.page(f"/jobs/{failed.id}")
    for said in ("<bdi>Receipt 7</bdi>", "ValueError", "out of paper", "began", "Last ran in", "Run again"):
        assert said in page, said


async def test_places_are_told_behind_a_job_that_runs_elsewhere(shop: Shop) -> None:
    await shop.open("worker-1")
    await shop.running("hold", queue="email", name="Long letter")
    await shop.enqueue("fine", queue="email", name="Short letter")
    last = await shop.enqueue("fine", queue="email", name="Postcard")
    listed, page = text_of(await shop.page("/jobs")), text_of(await shop.page(f"/jobs/{last.id}"))
    assert "Next in line, behind Long letter" in listed
    assert "2nd, behind Short letter" in listed
    assert "It is 2nd ." in page
    shop.go.set()
    await last.wait()


@sqlite
async def test_pages_of_many_queues_show_the_longest_waits_and_lead_to_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_jobs.dashboard.lists.QUEUES_A_PAGE", 3)
    monkeypatch.setattr("asgi_jobs.dashboard.pulse.QUEUES", 4)
    for number in range(8):
        await shop.enqueue("fine", queue=f"q{number}")
    seen: list[str] = []
    path = "/queues"
    while path:
        page = await shop.page(path)
        assert "8 queues." in page
        seen += re.findall(r'queue=(q\d)"', page)
        more = re.search(r'href="/jobs(/queues\?start=\d+)"', page)
        path = more[1] if more else ""
    assert sorted(set(seen)) == [f"q{number}" for number in range(8)]
    assert "All 8 queues" in await shop.page("/")
    assert len(await shop.data("/queues")) == 8
    found = await shop.page("/queues?q=Q7")
    assert "q7" in found
    assert "q6" not in found


# Jobs that run elsewhere


async def test_a_job_that_runs_elsewhere_says_where_and_where_in_its_code(shop: Shop) -> None:
    worker = await shop.open("worker-1", stuck_after=timedelta(milliseconds=1))
    job = await shop.running("hold", name="Receipt 7")
    early = text_of(await shop.page(f"/jobs/{job.id}"))
    assert f"Runs in worker-1:{os.getpid()}" in early
    await looked_at(worker)
    page = text_of(await shop.page(f"/jobs/{job.id}"))
    assert "Where it was last seen as of" in page
    assert "await self.go.wait()" in page
    assert "tests/dashboard/fleet.py:" in page
    assert re.search(r"as of \d\d:\d\d:\d\d", page)
    shop.go.set()
    await job.wait()


async def test_what_runs_elsewhere_may_be_released_after_a_question_that_tells_the_risk(shop: Shop) -> None:
    await shop.open("worker-1")
    job = await shop.running("hold", name="Receipt 7")
    page = text_of(await shop.page(f"/jobs/{job.id}"))
    assert "Give up Receipt 7 as if its process had died? It goes back to its place and runs again." in page
    assert "Code of it that still runs goes on meanwhile, beside what comes next; only its outcome is refused." in page
    answer = await shop.client.post(f"/jobs/{job.id}/release", headers=JSON)
    assert (answer.status_code, set(answer.json())) == (200, JOB)
    shop.go.set()
    await job.wait()
    page = text_of(await shop.page(f"/jobs/{job.id}"))
    assert "Interrupted, back to its place" in page
    assert "it does not count as a try" in page


@sqlite
async def test_what_does_not_run_cannot_be_released(shop: Shop) -> None:
    job = await shop.enqueue("fine")
    answer = await shop.client.post(f"/jobs/{job.id}/release", headers=JSON)
    assert (answer.status_code, set(answer.json())) == (409, {"error"})
    assert "/release" not in await shop.page(f"/jobs/{job.id}")


async def test_a_job_of_this_process_is_released_only_when_it_does_not_stop(shop: Shop, site: Site) -> None:
    clock = FakeClock(datetime.now(UTC))  # else the others, who live today, would take it for long dead
    here = await shop.open(clock=clock)
    client = site(here)
    job = await shop.running("deaf", name="Import", queue="catalogue")
    assert "/release" not in (await client.get(f"/jobs/{job.id}")).text
    await here.cancel(job.id, "wrong file")
    await clock.advance(timedelta(seconds=11))
    page = (await client.get(f"/jobs/{job.id}")).text
    assert f"/jobs/jobs/{job.id}/release" in page
    assert f"/jobs/jobs/{job.id}/cancel" not in page
    assert "It ends as cancelled, and its queue goes on." in page
    assert "stays held until then, or until it is released." in text_of(page)
    assert f"/jobs/jobs/{job.id}/release" in (await client.get("/")).text
    shop.go.set()
    await job.wait()


async def test_a_job_that_was_asked_to_stop_by_another_process_is_shown_as_cancelling(shop: Shop) -> None:
    await shop.open("worker-1")
    job = await shop.running("deaf")
    assert (await shop.client.post(f"/jobs/{job.id}/cancel")).status_code == 303
    assert "Cancelling…" in await shop.page(f"/jobs/{job.id}")
    shop.go.set()
    await job.wait()


# What a poll costs


async def poll(shop: Shop, path: str, tag: str, accept: str = "text/html") -> int:
    headers = {"accept": accept, "if-none-match": tag}
    return (await shop.client.get(path, headers=headers)).status_code


async def within_a_minute(ask: Callable[[], Awaitable[T]]) -> T:
    """An answer during which no minute began, for with each the overview's last hour moves on."""
    while True:
        minute = time.time() // 60
        answer = await ask()
        if time.time() // 60 == minute:
            return answer


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_while_nothing_changes_a_poll_costs_a_304_also_when_jobs_run_elsewhere(shop: Shop, accept: str) -> None:
    worker = await shop.open("worker-1", stuck_after=timedelta(milliseconds=1))
    job = await shop.running("hold", queue="email")
    behind = await shop.enqueue("fine", queue="email")
    await (await shop.enqueue("broken")).wait()
    await looked_at(worker)
    for path in (*PAGES, f"/jobs/{job.id}", f"/jobs/{behind.id}"):

        async def twice(path: str = path) -> tuple[int, int]:
            tag = (await shop.client.get(path, headers={"accept": accept})).headers["etag"]
            at_once = await poll(shop, path, tag, accept)
            await asyncio.sleep(0.01)  # the clock goes on, and with it the waits
            return at_once, await poll(shop, path, tag, accept)

        assert await within_a_minute(twice) == (304, 304), path
    shop.go.set()
    await behind.wait()


async def test_every_page_is_new_when_a_job_has_come_or_gone(shop: Shop) -> None:
    job = await shop.enqueue("fine", queue="email")
    for path in (*PAGES, f"/jobs/{job.id}"):
        tag = (await shop.client.get(path)).headers["etag"]
        await shop.enqueue("fine", delay=HOUR)
        assert await poll(shop, path, tag) == 200, path


@sqlite
async def test_a_place_is_on_the_page_and_not_in_its_json_and_makes_it_new(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await shop.enqueue("fine", queue="email")
    place = Place(3, None)

    async def places(_: Any) -> dict[str, Place]:
        return {job.id: place}

    async def of_one(_: Any) -> Place:
        return place

    monkeypatch.setattr(shop.web, "places", places)
    monkeypatch.setattr(shop.web, "place", of_one)
    for path in ("/", "/jobs", "/jobs?state=queued", f"/jobs/{job.id}"):
        place = Place(3, None)

        async def once(path: str = path) -> tuple[str, int]:
            tag = (await shop.client.get(path)).headers["etag"]
            return tag, await poll(shop, path, tag)

        tag, answer = await within_a_minute(once)
        assert answer == 304
        place = Place(2, None)
        assert await poll(shop, path, tag) == 200, path


async def test_progress_elsewhere_makes_every_page_new_that_shows_it(shop: Shop) -> None:
    worker = await shop.open("worker-1")
    job = await shop.running("hold", queue="email")
    await looked_at(worker)
    paths = ("/", "/jobs", "/queues", f"/jobs/{job.id}")
    before = {path: (await shop.client.get(path)).headers["etag"] for path in paths}
    (run,) = worker._engine.executor.running
    details = run.record.detail()
    details.progress, details.moved = Progress(2, 4, "letters", worker.now()), (details.moved or 0) + 1
    await looked_at(worker)
    for path, tag in before.items():
        assert await poll(shop, path, tag) == 200, path
        assert "50 %" in await shop.page(path) or "2 of 4" in await shop.page(path), path
    shop.go.set()
    await job.wait()


async def test_a_process_that_comes_or_goes_makes_pages_new(shop: Shop) -> None:
    for path in PAGES:
        tag = (await shop.client.get(path)).headers["etag"]
        async with Jobs(store=shop.url, concurrency=0):
            shop.web._store.revision += 1  # a second has passed
            assert await poll(shop, path, tag) == 200, path


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements sent meanwhile."""
    sent: list[str] = []

    def note(*given: Any) -> None:
        sent.append(given[2])

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)


async def test_a_page_sends_a_bounded_number_of_statements_however_many_jobs_wait(shop: Shop) -> None:
    for number in range(60):
        await shop.enqueue("fine", queue="email" if number % 2 else "print")
    job = (await shop.web.find(limit=1))[0]
    for path in (*PAGES, f"/jobs/{job.id}"):
        await shop.page(path)
        with counted() as sent:
            await shop.page(path)
        assert len([one for one in sent if one.lstrip().startswith("SELECT")]) <= 40, (path, sent)


async def test_who_looks_shares_what_was_read_a_moment_ago(shop: Shop) -> None:
    await shop.page("/tasks")
    with counted() as sent:
        await shop.page("/tasks")
    assert not [one for one in sent if "count(" in one]
    await shop.enqueue("fine")  # what this process does itself is seen at once
    with counted() as sent:
        await shop.page("/tasks")
    assert [one for one in sent if "count(" in one]


# Without its database


@pytest.fixture
def away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the database raise from now on."""

    def go_away(error: Exception) -> None:
        async def fail(*_: Any, **__: Any) -> Any:
            raise error

        for verb in ("counts", "get", "find", "queues", "workers", "unknown_tasks", "pause", "cancel", "tasks"):
            monkeypatch.setattr(shop.web, verb, fail)
        monkeypatch.setattr(shop.web._store, "revision", -1)

    return go_away


@sqlite
@pytest.mark.parametrize(
    ("error", "heading"),
    [
        (StoreAway("the store at postgresql://app:s3cret@db/shop does not answer"), "The database does not answer"),
        (StoreUnusable("the disk is full <x-evil>"), "The database cannot be used now"),
    ],
)
async def test_every_page_says_that_the_database_is_away(
    shop: Shop, away: Any, caplog: pytest.LogCaptureFixture, error: Exception, heading: str
) -> None:
    await shop.page("/")
    away(error)
    caplog.clear()
    for path in (*PAGES, "/jobs/x"):
        answer = await shop.client.get(path)
        assert answer.status_code == 503, path
        assert f"<h1>{heading}</h1>" in answer.text
        assert "Nothing that was accepted is lost" in answer.text
        assert 'http-equiv="refresh"' in answer.text
        assert "s3cret" not in answer.text
        assert "<x-evil" not in answer.text
        data = await shop.client.get(path, headers=JSON)
        assert (data.status_code, set(data.json())) == (503, {"error"})
        assert "s3cret" not in data.text
    for path, form in (("/queues/pause", {"queue": "email"}), ("/jobs/x/cancel", {})):
        answer = await shop.client.post(path, data=form)
        assert answer.status_code == 503
        assert f"<h1>{heading}</h1>" in answer.text
    assert (await shop.client.get("/nothing")).status_code == 404
    assert caplog.records == []


@sqlite
async def test_a_database_that_is_silent_keeps_nobody_waiting(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(routes, "PATIENCE", 0.01)
    monkeypatch.setattr(shop.web, "counts", silent)
    answer = await shop.client.get("/")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text


@sqlite
async def test_before_the_engine_has_started_the_page_says_so(site: Site, shop: Shop) -> None:
    jobs = Jobs(store=shop.url, authorize=lambda request: True)
    client = site(jobs)
    for path in PAGES:
        answer = await client.get(path)
        assert answer.status_code == 503
        assert "<h1>The engine is not running</h1>" in answer.text
    assert (await client.post("/queues/pause", data={"queue": "q"})).status_code == 503
    async with jobs:
        assert (await client.get("/")).status_code == 200
    assert (await client.get("/")).status_code == 503
