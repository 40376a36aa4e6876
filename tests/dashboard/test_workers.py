"""The processes on one database: their page, and what is said where one of them is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from asgi_jobs import Jobs, WorkerInfo
from asgi_jobs.testing import FakeClock

from .conftest import Site
from .fleet import HERE, Shop
from .haunted import HOSTILE
from .test_security import check_page

HOUR = timedelta(hours=1)
WORKER = {"id", "host", "pid", "started_at", "seen_at", "alive", "concurrency", "tasks", "running"}
TASKS = ["shop:broken", "shop:deaf", "shop:fine", "shop:hold"]


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def row_of(page: str, host: str) -> str:
    """The row of a process, as text."""
    (row,) = [row for row in re.findall(r'<tr id="w-.*?</tr>', page, re.DOTALL) if f"{host}:" in row]
    return text_of(row)


def told(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """The store tells of its processes otherwise than they are."""
    workers = jobs.workers

    async def changed(*args: Any, **rest: Any) -> Sequence[WorkerInfo]:
        return [change(worker) for worker in await workers(*args, **rest)]

    monkeypatch.setattr(jobs, "workers", changed)


async def test_workers_are_shown_with_host_process_what_they_run_and_what_they_know(shop: Shop) -> None:
    await shop.open("worker-1", concurrency=10)
    job = await shop.running("hold", name="Receipt 7")
    page = await shop.page("/workers")
    theirs, ours = row_of(page, "worker-1"), row_of(page, HERE)
    assert f"Alive worker-1:{os.getpid()} " in theirs
    assert "this process" not in theirs
    assert "1 of 10 now" in theirs
    assert "Receipt 7" in theirs
    assert f'href="/jobs/jobs/{job.id}"' in page
    assert f"Knows 4 tasks {' '.join(TASKS)}" in theirs
    assert f"Alive {HERE}:{os.getpid()} this process" in ours
    assert "only enqueues now" in ours
    assert "1 worker, 1 of 10 places busy; 1 process only enqueues." in text_of(page)
    shop.go.set()
    await job.wait()


async def test_workers_are_told_to_programs(shop: Shop) -> None:
    await shop.open("worker-1", concurrency=10)
    job = await shop.running("hold")
    theirs, ours = await shop.data("/workers")
    assert (set(theirs), set(ours)) == (WORKER, WORKER)
    assert (theirs["host"], theirs["pid"], theirs["alive"], theirs["concurrency"]) == (
        "worker-1",
        os.getpid(),
        True,
        10,
    )
    assert (theirs["tasks"], theirs["running"]) == (TASKS, [job.id])
    assert (ours["host"], ours["concurrency"], ours["running"]) == (HERE, 0, [])
    assert theirs["started_at"] <= theirs["seen_at"]
    assert theirs["started_at"].endswith("Z")
    shop.go.set()
    await job.wait()


async def test_the_overview_says_how_many_workers_there_are_and_how_busy(shop: Shop) -> None:
    await shop.open("worker-1", concurrency=10)
    job = await shop.running("hold")
    page = await shop.page("/")
    assert "1 worker, 1 of 10 places busy." in text_of(page)
    assert 'href="/jobs/workers"' in page
    shop.go.set()
    await job.wait()


async def test_a_process_that_is_gone_is_said_in_words(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.open("worker-1", concurrency=10)
    job = await shop.running("hold", name="Receipt 7", queue="email")
    told(shop.web, monkeypatch, lambda one: replace(one, alive=one.host == HERE, seen_at=one.started_at))
    row = row_of(await shop.page("/workers"), "worker-1")
    assert "Not alive worker-1" in row
    assert "It goes back to its place when another worker takes over." in row
    page = text_of(await shop.page(f"/jobs/{job.id}"))
    assert "Its process died." in page
    assert f"worker-1:{os.getpid()} is not alive any more." in page
    shop.go.set()
    await job.wait()


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
async def test_a_death_that_nobody_tells_of_is_seen_within_a_second(
    shop: Shop, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    web = await shop.open("web-2", concurrency=0, clock=clock)
    client = site(web)
    assert "not alive" not in (await client.get("/workers")).text
    told(web, monkeypatch, lambda one: replace(one, alive=one.host == "web-2"))
    await clock.advance(timedelta(seconds=1))
    assert "1 not alive" in (await client.get("/workers")).text


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
async def test_a_process_that_stands_by_gives_no_places(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.open("worker-1", concurrency=10)
    await shop.open("worker-2", concurrency=10)
    told(shop.web, monkeypatch, lambda one: replace(one, standby=one.host == "worker-2"))
    page = await shop.page("/workers")
    assert "0 of 10 now" in row_of(page, "worker-1")
    assert "stands by now" in row_of(page, "worker-2")
    assert "1 worker, 0 of 10 places busy; 1 stands by; 1 process only enqueues." in text_of(page)
    told(shop.web, monkeypatch, lambda one: replace(one, standby=bool(one.concurrency)))
    await shop.enqueue("fine")
    assert "No worker runs" not in await shop.page("/")  # one of them is just taking over


async def test_where_no_worker_lives_and_jobs_wait_every_page_says_so(shop: Shop) -> None:
    assert "No worker runs, so no job starts" not in await shop.page("/jobs")
    job = await shop.enqueue("fine", queue="email")
    overview = await shop.page("/")
    assert "<title>1 needs attention" in overview
    assert "No worker runs: 1 job queued" in text_of(overview)
    assert "python -m asgi_jobs worker module:jobs" in overview
    for path in ("/jobs", "/queues", "/tasks", "/workers", f"/jobs/{job.id}"):
        page = await shop.page(path)
        assert "No worker runs, so no job starts. 1 job queued. " in text_of(page), path
        assert "No worker knows" not in page
    await shop.open("worker-1")
    await job.wait()
    assert "No worker runs" not in await shop.page("/")


async def test_what_waits_for_a_worker_is_counted_as_the_counts_count_it(shop: Shop) -> None:
    await shop.enqueue("fine", queue="email")
    await shop.enqueue("fine", queue="email", delay=HOUR)
    page = text_of(await shop.page("/"))
    assert "No worker runs: 1 job queued, 1 scheduled" in page
    assert "Queued 1" in page
    assert "Scheduled 1" in page


async def test_a_queue_says_that_no_worker_lives_and_not_that_it_waits_for_a_place(shop: Shop) -> None:
    await shop.enqueue("fine", queue="email")
    page = text_of(await shop.page("/queues"))
    assert "email No worker runs 1" in page
    assert "Waits for a free place" not in page


async def test_jobs_of_a_dead_worker_need_attention_until_they_are_taken_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.open("worker-1")
    job = await shop.running("hold", queue="email")
    told(shop.web, monkeypatch, lambda one: replace(one, alive=one.host == HERE))
    page = await shop.page("/")
    assert "<title>1 needs attention" in page
    assert f"Worker gone Worker worker-1:{os.getpid()} is gone: 1 job that it ran stands still" in text_of(page)
    assert "It goes back to its place when another worker takes over. Start one with" in text_of(page)
    assert f'data-say="Worker worker-1:{os.getpid()} is gone"' in await shop.page("/jobs")
    await shop.open("worker-2")
    told(shop.web, monkeypatch, lambda one: replace(one, alive=one.host != "worker-1"))
    await shop.enqueue("fine", delay=HOUR)  # what this process does itself is seen at once
    page = await shop.page("/")
    assert "is gone: 1 job" in page
    assert "Start one with" not in page
    shop.go.set()
    await job.wait()


async def test_what_the_stop_of_a_process_cut_off_was_interrupted_and_is_not_retried(shop: Shop) -> None:
    async with shop.make(shutdown_timeout=timedelta(milliseconds=200)):
        job = await shop.running("hold", name="Receipt 7", queue="email")
    for path in ("/", "/jobs", "/queues", f"/jobs/{job.id}"):
        page = text_of(await shop.page(path))
        assert "Interrupted" in page, path
        assert "Retrying" not in page, path
        assert "try of" not in page, path
    assert "To run again at its place" in page
    await shop.web.pause("email")
    await shop.open("worker-1")
    page = text_of(await shop.page(f"/jobs/{job.id}"))
    assert re.search("The queue has been paused for [^.]*. It was interrupted and runs again, before all others", page)
    assert "Interrupted Receipt 7 runs again at its place" not in page
    shop.go.set()
    await shop.web.resume("email")
    await job.wait()


async def test_a_store_in_memory_has_no_such_page(site: Site) -> None:
    async with Jobs(authorize=lambda request: True) as jobs:
        client = site(jobs)
        assert (await client.get("/workers")).status_code == 404
        for path in ("/", "/jobs"):
            assert "/workers" not in (await client.get(path)).text


async def test_every_page_of_a_database_leads_to_the_workers(shop: Shop) -> None:
    for path in ("/", "/jobs", "/queues", "/tasks", "/workers", "/jobs?state=failed"):
        page = await shop.page(path)
        assert '<a href="/jobs/workers"' in page, path
        assert "Jobs are kept in the database" in page
        assert "server processes" not in page


# Tasks that nobody knows


async def make_invoice() -> None: ...


async def unknown_job(shop: Shop, key: str = "shop.old:make_invoice", **options: Any) -> str:
    """A job of a task that its process alone had declared, and the others do not know."""
    async with Jobs(store=shop.url, concurrency=0) as old:
        task = old.task(key=key)(make_invoice)
        return (await task.using(**options).enqueue()).id


async def test_a_job_that_no_worker_knows_needs_attention_and_says_the_remedy(shop: Shop) -> None:
    await shop.open("worker-1")
    first = await unknown_job(shop, name="Invoice 7", queue="invoices")
    await unknown_job(shop, name="Invoice 8", queue="invoices")
    overview = text_of(await shop.page("/"))
    assert "1 thing needs attention" in overview
    assert "No worker knows shop.old:make_invoice : 2 jobs wait" in overview
    assert "Declare the task, deploy the worker that has it, or cancel them." in overview
    assert "invoices Unknown task shop.old:make_invoice" in overview
    assert "invoices Unknown task shop.old:make_invoice" in text_of(await shop.page("/queues"))
    assert "No worker knows its task" in await shop.page("/jobs")
    tasks = text_of(await shop.page("/tasks"))
    assert "make_invoice shop.old" in tasks
    assert "No worker knows it : 2 jobs wait." in tasks
    why = text_of(await shop.page(f"/jobs/{first}"))
    assert "No worker knows shop.old:make_invoice . It keeps its place, and those behind it in the queue wait." in why
    assert "deploy the worker that has it, or cancel the job" in why


async def test_jobs_that_no_worker_knows_are_cancelled_together_from_the_overview(shop: Shop) -> None:
    await shop.open("worker-1")
    ids = [await unknown_job(shop), await unknown_job(shop)]
    page = await shop.page("/")
    form = page[page.index('action="/jobs/jobs/cancel"') :]
    assert 'name="task" value="shop.old:make_invoice"' in form[: form.index("</form>")]
    answer = await shop.client.post("/jobs/cancel", data={"task": "shop.old:make_invoice", "back": "overview"})
    assert answer.headers["location"] == "/jobs/?did=cancel&n=2"
    assert [str((await shop.web.get(id)).state) for id in ids] == ["cancelled", "cancelled"]
    assert "Nothing needs attention" in await shop.page("/")


async def test_a_task_that_this_process_declares_and_no_worker_knows_is_marked(shop: Shop) -> None:
    async with Jobs(store=shop.url, concurrency=5) as worker:
        worker.task(key="shop:other")(make_invoice)
        await shop.enqueue("fine")
        page = await shop.page("/tasks")
        assert "No worker knows it : 1 job waits." in text_of(page)
        assert page.count("shop.old") == 0


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
@pytest.mark.parametrize("host", ["<x-evil onload=1>", '"><x-evil>', "{{7*7}}", "\u202egnp", "a\x1b[31mb"])
async def test_the_name_of_a_host_is_data(shop: Shop, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    await shop.open("worker-1")
    job = await shop.running("hold")
    told(shop.web, monkeypatch, lambda one: replace(one, host=host, tasks=(host,), alive=False))
    for path in ("/workers", "/", f"/jobs/{job.id}"):
        page = await shop.page(path)
        assert "<x-evil" not in page
        assert "49" not in re.findall(r">(\d+)<", page)
        assert "\u202e" not in page
        assert "\x1b" not in page
    assert {worker["host"] for worker in await shop.data("/workers")} == {host}
    shop.go.set()
    await job.wait()


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable() or "\u202e" in text])
async def test_the_key_of_a_task_that_nobody_knows_is_data(shop: Shop, text: str) -> None:
    await shop.open("worker-1")
    id = await unknown_job(shop, f"k:{text}", name=text, queue=text)
    for path in ("/", "/jobs", "/queues", "/tasks", f"/jobs/{id}"):
        check_page(await shop.page(path))
        await shop.data(path)
