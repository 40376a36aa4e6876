"""Every address of the dashboard, as a browser without scripts uses it."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from asgi_jobs import Jobs, JobsMiddleware, JobState, current_job
from asgi_jobs.dashboard import render
from asgi_jobs.engine.watchdog import Blocked
from asgi_jobs.testing import FakeClock

from .conftest import Site

HOUR = timedelta(hours=1)


async def fine() -> None:
    """Does what it should."""


async def broken() -> None:
    raise ValueError("out of paper")


async def greet(name: str) -> None:
    """Greets somebody."""


def open_jobs(**settings: Any) -> Jobs:
    return Jobs(authorize=lambda request: True, **settings)


# Looking


async def test_before_the_first_job_the_overview_says_how_to_enqueue_it(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        page = (await site(jobs).get("/")).text
    assert "Ready for the first job" in page
    assert "The engine has run for" in page
    assert "request.state.jobs.enqueue(" in page


async def test_the_overview_says_first_what_needs_attention(site: Site) -> None:
    jobs = open_jobs(title="Shop jobs")
    async with jobs:
        job = jobs.enqueue(broken, name="Receipt 7")
        await job.wait()
        client = site(jobs)
        page = (await client.get("/")).text
        assert "<title>1 needs attention · Shop jobs</title>" in page
        assert "1 thing needs attention" in page
        assert "broken: ValueError" in page
        assert "out of paper" in page
        assert "%23b01c1c" in page  # the icon is red


async def test_with_nothing_wrong_the_overview_says_so(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        await jobs.enqueue(fine).wait()
        page = (await site(jobs).get("/")).text
    assert "<title>Nothing needs attention · Background jobs</title>" in page
    assert "%232d6b48" in page


async def test_a_failure_that_was_run_again_needs_no_attention_any_more(site: Site) -> None:
    jobs = open_jobs()
    outcomes = iter([ValueError("once"), None])

    async def flaky() -> None:
        if error := next(outcomes):
            raise error

    async with jobs:
        job = jobs.enqueue(flaky)
        await job.wait()
        await (await jobs.retry(job.id)).wait()
        assert "Nothing needs attention" in (await site(jobs).get("/")).text


async def test_the_list_filters_by_state_queue_task_and_text(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        await jobs.enqueue(fine, queue="email", name="Receipt 1").wait()
        await jobs.enqueue(fine, queue="print", name="Receipt 2").wait()
        await jobs.enqueue(broken, name="Invoice 3").wait()
        client = site(jobs)

        async def names(query: str) -> set[str]:
            page = (await client.get(f"/jobs?{query}")).text
            return {name for name in ("Receipt 1", "Receipt 2", "Invoice 3") if name in page}

        task = (await jobs.find(queue="email"))[0].task
        assert await names("") == {"Receipt 1", "Receipt 2", "Invoice 3"}
        assert await names("state=failed") == {"Invoice 3"}
        assert await names("queue=email") == {"Receipt 1"}
        assert await names(f"task={task}") == {"Receipt 1", "Receipt 2"}
        assert await names("q=RECEIPT") == {"Receipt 1", "Receipt 2"}
        assert await names("q=out+of+paper") == {"Invoice 3"}
        assert await names("q=receipt&queue=print") == {"Receipt 2"}
        assert "No job matches" in (await client.get("/jobs?q=nothing")).text


async def test_pages_of_the_list_join_without_gap_or_overlap(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        made = [jobs.enqueue(fine, delay=HOUR).id for _ in range(7)]
        client = site(jobs)
        seen: list[str] = []
        before = ""
        while before is not None:
            answer = await client.get(
                "/jobs", params={"limit": "3", "before": before}, headers={"accept": "application/json"}
            )
            seen += [job["id"] for job in answer.json()["jobs"]]
            before = answer.json()["next"]
    assert seen == made[::-1]


async def test_a_job_page_shows_error_frames_log_progress_and_what_came_before(site: Site) -> None:
    jobs = open_jobs()

    async def work() -> None:
        current_job().progress(126, 200, "e-mails")
        current_job().log("sending to ana@example.com")
        await broken()

    async with jobs:
        first = jobs.enqueue(work, queue="email", name="Batch 7")
        await first.wait()
        again = await jobs.retry(first.id)
        await again.wait()
        page = (await site(jobs).get(f"/jobs/{again.id}")).text
    for said in (
        "<bdi>Batch 7</bdi>",
        "ValueError",
        "out of paper",
        "raise ValueError(&#34;out of paper&#34;)",
        "126 of 200",
        "sending to ana@example.com",
        "Enqueued by hand",
        f"/jobs/jobs/{first.id}",
        "Run again",
    ):
        assert said in page, said


async def test_a_running_job_shows_where_it_waits(site: Site) -> None:
    jobs = open_jobs()
    go, started = asyncio.Event(), asyncio.Event()

    async def wait_for_the_printer() -> None:
        started.set()
        await go.wait()

    async with jobs:
        job = jobs.enqueue(wait_for_the_printer)
        await started.wait()
        page = (await site(jobs).get(f"/jobs/{job.id}")).text
        go.set()
    assert "wait_for_the_printer" in page
    assert "await go.wait()" in page
    assert "test_routes.py:" in page


async def test_a_queued_job_says_why_it_has_not_started(site: Site) -> None:
    jobs = open_jobs()
    go, started = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        started.set()
        await go.wait()

    async with jobs:
        jobs.enqueue(hold, queue="email", name="Long letter")
        await started.wait()
        jobs.enqueue(fine, queue="email", name="Short letter")
        job = jobs.enqueue(fine, queue="email", name="Postcard")
        client = site(jobs)
        page = (await client.get(f"/jobs/{job.id}")).text
        listed = (await client.get("/jobs")).text
        go.set()
    assert "Why it has not started" in page
    assert "<b>2nd</b>" in page
    assert "Long letter" in page
    assert "2nd, behind" in listed


async def test_a_blocked_queue_is_said_with_who_blocks_it_and_where(site: Site) -> None:
    clock = FakeClock()
    jobs = open_jobs(clock=clock)
    go, started = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await go.wait()

    async with jobs:
        job = jobs.enqueue(hang, queue="email", name="Long letter")
        jobs.enqueue(fine, queue="email")
        await started.wait()
        client = site(jobs)
        await clock.advance(timedelta(seconds=59))
        assert "Nothing needs attention" in (await client.get("/")).text
        await clock.advance(timedelta(seconds=2))
        overview = (await client.get("/")).text
        page = (await client.get(f"/jobs/{job.id}")).text
        go.set()
    assert "1 thing needs attention" in overview
    assert "1 job waits behind" in overview
    assert "hang" in overview
    assert "It blocks queue" in page


async def test_a_job_that_does_not_stop_is_said_and_has_no_button_that_would_do_nothing(site: Site) -> None:
    clock = FakeClock()
    jobs = open_jobs(clock=clock)
    go = asyncio.Event()
    started = asyncio.Event()

    async def deaf() -> None:
        started.set()
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    async with jobs:
        job = jobs.enqueue(deaf, name="Import")
        await started.wait()
        await job.cancel("wrong file")
        client = site(jobs)
        soon = (await client.get(f"/jobs/{job.id}")).text
        await clock.advance(timedelta(seconds=11))
        late = (await client.get(f"/jobs/{job.id}")).text
        overview = (await client.get("/")).text
        go.set()
        await job.wait()
    assert "Cancelling…" in soon
    assert "Not stopping" in late
    assert "wrong file" in late
    assert "/cancel" not in late
    assert "was asked to stop and has not" in overview


async def test_a_loop_that_stood_still_needs_attention_and_names_who_held_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs() as jobs:
        job = jobs.enqueue(fine, name="Receipt 7")
        await job.wait()
        held = Blocked(job.id, "Receipt 7", "shop/mailer.py", 42, "Mailer.send", jobs.now(), 2.5, lasting=False)
        client = site(jobs)
        known = {"if-none-match": (await client.get("/")).headers["etag"]}
        monkeypatch.setattr(Jobs, "loop_blocked", held)
        page = (await client.get("/", headers=known)).text
        assert "1 thing needs attention" in page
        assert "</a> kept the event loop from going on for 2.5 s" in page
        assert "<code>Mailer.send</code> at <code>shop/mailer.py:42</code>" in page
        assert page.count("mailer.py") == 1
        assert "The event loop stood still for 2.5 s" in (await client.get("/jobs")).text


async def test_queues_show_depth_pause_and_last_error(site: Site) -> None:
    jobs = open_jobs(queues={"thumbnails": 4})
    async with jobs:
        await jobs.enqueue(broken, queue="email").wait()
        await jobs.pause("email")
        for _ in range(3):
            jobs.enqueue(fine, queue="email")
        page = (await site(jobs).get("/queues")).text
    for said in ("email", "Paused", "Resume", "ValueError: out of paper", "thumbnails", "4 at once", "Idle"):
        assert said in page, said


async def test_queues_can_be_found_by_a_part_of_their_name(site: Site) -> None:
    jobs = open_jobs(queues={"email": 1, "thumbnails": 4})
    page = (await site(jobs).get("/queues?q=THUMB")).text
    assert "thumbnails" in page
    assert "email" not in page


async def test_tasks_show_description_schedule_and_offer_to_run_what_needs_no_argument(site: Site) -> None:
    jobs = open_jobs()
    jobs.task(every=timedelta(hours=6))(fine)
    jobs.task(greet)
    async with jobs:
        page = (await site(jobs).get("/tasks")).text
    assert "Does what it should." in page
    assert "every 6 h" in page
    assert page.count("Run now") == 1
    assert "needs arguments" in page


async def test_what_was_finished_long_ago_is_explained(site: Site) -> None:
    answer = await site(open_jobs()).get("/jobs/gone")
    assert answer.status_code == 404
    assert "This job is not known" in answer.text
    assert "With the memory store, jobs also go when the process ends." in answer.text
    assert "1 hour" in answer.text


async def test_an_engine_that_does_not_run_is_said_loudly(site: Site) -> None:
    answer = await site(open_jobs()).get("/")
    assert answer.status_code == 200
    assert "The engine is not running, so no job starts." in answer.text


async def test_several_processes_on_a_store_in_memory_are_said_loudly(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "processes", 4)
    async with open_jobs() as jobs:
        client = site(jobs)
        for path in ("/", "/jobs", "/queues", "/tasks"):
            page = (await client.get(path)).text
            assert "4 server processes, each with jobs of its own." in page
            assert f"this page shows process {os.getpid()} only" in page


async def test_every_count_leads_to_its_jobs_and_the_list_marks_the_one_it_shows(site: Site) -> None:
    async with open_jobs() as jobs:
        await jobs.enqueue(broken).wait()
        client = site(jobs)
        for path in ("/", "/queues", "/tasks"):
            page = (await client.get(path)).text
            for state in JobState:
                assert re.search(rf'href="/jobs/jobs\?state={state}"[^>]*>{str(state).capitalize()} <b>\d', page), path
            assert 'class="alarm">Failed <b>1</b>' in page
        page = (await client.get("/jobs?state=failed")).text
        assert re.findall(r'aria-current="page">(\w+) <b>', page) == ["Failed"]
        assert re.search(r'href="/jobs/jobs">All <b>1</b>', page)


async def test_failures_are_grouped_by_function_and_exception_above_their_list(site: Site) -> None:
    async def late() -> None:
        raise TimeoutError("no answer")

    async with open_jobs() as jobs:
        for function in (broken, broken, late):
            await jobs.enqueue(function).wait()
        client = site(jobs)
        page = (await client.get("/jobs?state=failed")).text
        groups = re.findall(r'<a class="btn" href="([^"]*)"><b class="bad">(\d+)</b> (\w+) <span class="m">(\w+)', page)
        assert sorted(group[1:] for group in groups) == [("1", "late", "TimeoutError"), ("2", "broken", "ValueError")]
        (href,) = [html.unescape(href) for href, _, name, _ in groups if name == "late"]
        narrowed = (await client.get(href.removeprefix("/jobs"))).text
        assert narrowed.count('<tr id="j-') == 1


async def test_what_is_looked_for_stays_in_the_address_and_in_the_fields(site: Site) -> None:
    async with open_jobs() as jobs:
        for _ in range(3):
            await jobs.enqueue(broken, queue="email").wait()
        jobs.enqueue(fine, queue="email", delay=HOUR)
        client = site(jobs)
        page = (await client.get("/jobs?state=failed&queue=email&q=paper&limit=2")).text
        assert 'name="q" id="q" value="paper"' in page
        assert '<option value="email" selected>' in page
        older = html.unescape(re.findall(r'href="([^"]*)" rel="next"', page)[0])
        for kept in ("state=failed", "queue=email", "q=paper", "limit=2", "before="):
            assert kept in older
        assert (await client.get(older.removeprefix("/jobs"))).text.count('<tr id="j-') == 1


async def test_every_page_says_whose_it_is_where_the_application_is_and_how_long_jobs_are_kept(site: Site) -> None:
    jobs = open_jobs(title="Shop jobs", badge="production", home_url="/shop", retention=timedelta(minutes=30))
    client = site(jobs)
    async with jobs:
        for path in ("/", "/jobs", "/queues", "/tasks", "/jobs/gone"):
            page = (await client.get(path)).text
            assert "· Shop jobs</title>" in page
            assert '<span class="env">production</span>' in page
            assert 'href="/shop" title="Back to the application"' in page
            assert "Finished jobs are kept for 30 minutes" in page


async def test_an_empty_page_says_what_it_would_show_and_how_it_comes(site: Site) -> None:
    async with open_jobs() as jobs:
        client = site(jobs)
        for path, told in (
            ("/jobs", "No job is remembered."),
            ("/jobs?state=failed", "No job is failed."),
            ("/queues", "No queue has work."),
            ("/queues?q=x", "No queue has a name with"),
            ("/tasks", "No task is declared."),
        ):
            assert told in (await client.get(path)).text, path
        for path in ("/jobs", "/queues"):
            assert "request.state.jobs.enqueue(" in (await client.get(path)).text


async def test_lists_refresh_without_scripts_and_an_open_question_does_not(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine, queue="email", delay=HOUR)
        client = site(jobs)
        for path in ("/", "/jobs", "/queues", "/tasks"):
            assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in (await client.get(path)).text
        for path in (f"/jobs/{job.id}", "/jobs?state=scheduled&confirm=all", "/queues?confirm=x"):
            assert "http-equiv" not in (await client.get(path)).text
        asked = (await client.get("/jobs?state=scheduled&confirm=all")).text
    assert 'data-key="all" open' in asked


# Acting


async def test_cancel_leads_back_to_a_page_that_says_what_was_done(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine, delay=HOUR)
        client = site(jobs)
        answer = await client.post(f"/jobs/{job.id}/cancel", data={"reason": "wrong address"})
        assert (answer.status_code, job.state) == (303, JobState.CANCELLED)
        assert job.cancel_reason == "wrong address"
        page = (await client.get(answer.headers["location"].removeprefix("/jobs"))).text
        assert "1 job cancelled or asked to stop." in page


async def test_what_has_just_ended_is_no_error_on_the_page(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine)
        await job.wait()
        client = site(jobs)
        answer = await client.post(f"/jobs/{job.id}/cancel", data={"back": "overview"})
        assert answer.headers["location"] == "/jobs/?did=cancel&n=0&skipped=1"
        page = (await client.get("/?did=cancel&n=0&skipped=1")).text
    assert "Nothing was done: 1 job had ended meanwhile." in page


async def test_run_again_makes_a_new_job_and_shows_it(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(broken)
        await job.wait()
        answer = await site(jobs).post(f"/jobs/{job.id}/retry")
        newest = (await jobs.find(limit=1))[0]
    assert answer.headers["location"].startswith(f"/jobs/jobs/{newest.id}?")
    assert (newest.retry_of, newest.source) == (job.id, "manual")


async def test_a_queue_is_paused_resumed_and_emptied(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        client = site(jobs)
        assert (await client.post("/queues/pause", data={"queue": "a/b ü"})).status_code == 303
        waiting = [jobs.enqueue(fine, queue="a/b ü") for _ in range(3)]
        emptied = await client.post("/queues/cancel", data={"queue": "a/b ü", "back": "queues"})
        assert emptied.headers["location"] == "/jobs/queues?did=cancel&n=3"
        assert {job.state for job in waiting} == {JobState.CANCELLED}
        await client.post("/queues/resume", data={"queue": "a/b ü"})
        await jobs.enqueue(fine, queue="a/b ü").wait()


async def test_a_declared_task_is_run_now_by_hand(site: Site) -> None:
    jobs = open_jobs()
    task = jobs.task(fine)
    async with jobs:
        answer = await site(jobs).post("/tasks/run", data={"task": task.key})
        job = (await jobs.find(limit=1))[0]
    assert answer.status_code == 303
    assert (job.task, job.source) == (task.key, "manual")


async def test_chosen_jobs_are_cancelled_and_what_has_ended_or_is_unknown_is_skipped(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        waiting = [jobs.enqueue(fine, delay=HOUR) for _ in range(3)]
        ended = jobs.enqueue(fine)
        await ended.wait()
        ids = [waiting[0].id, waiting[1].id, waiting[1].id, ended.id, "gone"]
        answer = await site(jobs).post("/jobs/cancel", data={"id": ids, "back": "jobs?state=scheduled&q=fine&evil=1"})
    assert answer.headers["location"] == "/jobs/jobs?state=scheduled&q=fine&did=cancel&n=2&skipped=2"
    assert [job.state for job in waiting[:2]] == [JobState.CANCELLED] * 2
    assert waiting[2].state is not JobState.SUCCEEDED


async def test_all_that_match_are_run_again_a_thousand_at_most(site: Site) -> None:
    jobs = open_jobs()
    go = asyncio.Event()
    again = False

    async def flaky() -> None:
        if not again:
            raise ValueError("out of paper")
        await go.wait()

    async with jobs:
        for _ in range(1_005):
            jobs.enqueue(flaky)
        await jobs.join()
        again = True
        answer = await site(jobs).post("/jobs/retry", data={"state": "failed", "q": "out of paper"})
        assert answer.headers["location"].endswith("did=retry&n=1000")
        assert sum((await jobs.counts()).values()) == 2_005
        go.set()


async def test_a_form_without_ids_and_without_filters_does_nothing(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine, delay=HOUR)
        answer = await site(jobs).post("/jobs/cancel", data={"back": "jobs?state=scheduled", "state": ""})
        assert (answer.status_code, job.state) == (400, JobState.SCHEDULED)


async def test_while_a_long_page_is_rendered_the_loop_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "TURN", 0.0)
    jobs = open_jobs()
    async with jobs:
        for number in range(100):
            jobs.enqueue(fine, delay=HOUR, queue=f"queue {number}")
        client = site(jobs)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        assert "queue 99" in (await client.get("/queues?limit=100")).text
        counting.cancel()
        await asyncio.wait((counting,))
        assert turns > 100  # a turn for each row, and some


# Being asked again


async def test_an_unchanged_page_is_not_sent_again_and_a_changed_one_is(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        job = jobs.enqueue(fine, queue="email", delay=HOUR)
        client = site(jobs)
        for path in ("/", "/jobs", f"/jobs/{job.id}", "/queues", "/tasks"):
            for accept in ("text/html", "application/json"):
                first = await client.get(path, headers={"accept": accept})
                tag = first.headers["etag"]
                known = {"accept": accept, "if-none-match": f'"other", {tag.removeprefix("W/")}'}
                again = await client.get(path, headers=known)
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), path
                jobs.enqueue(fine, delay=HOUR)
                assert (await client.get(path, headers=known)).status_code == 200, path


async def test_a_queue_that_hangs_is_shown_as_it_hangs_now(site: Site) -> None:
    clock = FakeClock()
    jobs = open_jobs(clock=clock, stuck_after=timedelta(seconds=10))
    first, second = asyncio.Event(), asyncio.Event()

    async def two_phases() -> None:
        await first.wait()
        await second.wait()

    async with jobs:
        jobs.enqueue(two_phases, queue="email")
        jobs.enqueue(fine, queue="email")
        await clock.advance(timedelta(seconds=20))
        client = site(jobs)
        seen = await client.get("/queues", headers={"accept": "application/json"})
        first.set()
        await clock.advance(timedelta(seconds=2))
        again = await client.get(
            "/queues", headers={"accept": "application/json", "if-none-match": seen.headers["etag"]}
        )
        before, after = seen.json()[0], again.json()[0]
        assert after["oldest_wait"] > before["oldest_wait"]
        assert after["waiting_at"] != before["waiting_at"]
        assert "two_phases" in after["waiting_at"]
        second.set()


async def test_what_the_clock_makes_of_the_data_is_a_change(site: Site) -> None:
    clock = FakeClock()
    jobs = open_jobs(clock=clock)
    go = asyncio.Event()
    async with jobs:
        jobs.enqueue(go.wait, queue="email")
        jobs.enqueue(fine, queue="email")
        await clock.advance(timedelta(seconds=1))
        client = site(jobs)
        tag = (await client.get("/")).headers["etag"]
        await clock.advance(timedelta(seconds=50))
        assert (await client.get("/", headers={"if-none-match": tag})).status_code == 304
        await clock.advance(timedelta(seconds=10))
        assert (await client.get("/", headers={"if-none-match": tag})).status_code == 200
        go.set()


async def test_who_may_less_gets_no_304_for_what_another_was_shown() -> None:
    rights: list[Any] = [True]
    jobs = Jobs(authorize=lambda request: rights[0])
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/jobs", jobs)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test/jobs") as client:
        tag = (await client.get("/")).headers["etag"]
        rights[0] = "read"
        assert (await client.get("/", headers={"if-none-match": tag})).status_code == 200


async def test_two_lives_of_a_process_share_no_tag(site: Site) -> None:
    one, other = open_jobs(), open_jobs()
    tag = (await site(one).get("/")).headers["etag"]
    assert (await site(other).get("/", headers={"if-none-match": tag})).status_code == 200


# Where it is mounted


async def links_work(app: Any, base: str, **transport: Any) -> None:
    """Follows every link and asset of the overview."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app, **transport), base_url="http://test")
    async with client:
        page = (await client.get(f"{base}/")).text
        found = {part.partition('"')[0] for part in page.replace('src="', 'href="').split('href="')[1:]}
        links = {link for link in found if not link.startswith(("#", "data:"))}
        prefix = transport.get("root_path", "") + base
        assert {f"{prefix}/", f"{prefix}/jobs", f"{prefix}/queues", f"{prefix}/tasks"} <= links
        for link in links:
            answer = await client.get(link.removeprefix(transport.get("root_path", "")))
            assert answer.status_code == 200, link


@pytest.mark.parametrize("base", ["/jobs", "/a/b/jobs", "/jobs/jobs", "/ünï"])
async def test_links_work_under_any_mount(base: str) -> None:
    jobs = open_jobs()
    async with jobs:
        if base.isascii():
            await links_work(Starlette(routes=[Mount(base, jobs)]), base)
        page = httpx.AsyncClient(transport=httpx.ASGITransport(jobs, root_path=base), base_url="http://test")
        async with page as client:
            assert (await client.get(f"{base}/jobs")).status_code == 200


async def test_links_work_behind_a_prefix_of_a_proxy() -> None:
    jobs = open_jobs()

    async def behind_a_proxy(scope: Any, receive: Any, send: Any) -> None:
        # As servers give it: the path begins with the prefix.
        await app({**scope, "path": f"/shop{scope['path']}", "root_path": "/shop"}, receive, send)

    app = Starlette(routes=[Mount("/jobs", jobs)])
    async with jobs:
        await links_work(behind_a_proxy, "/jobs", root_path="/shop")


async def test_links_work_behind_a_proxy_that_strips_its_prefix() -> None:
    jobs = open_jobs()

    async def behind_a_proxy(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/shop"}, receive, send)

    app = Starlette(routes=[Mount("/jobs", jobs)])
    async with jobs:
        await links_work(behind_a_proxy, "/jobs", root_path="/shop")


async def test_without_a_mount_the_application_itself_is_the_page() -> None:
    jobs = open_jobs()
    async with jobs:
        await links_work(jobs, "")
        client = httpx.AsyncClient(transport=httpx.ASGITransport(jobs), base_url="http://test")
        async with client:
            for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/jobs", 405)):
                answer = await client.request(method, path, headers={"accept": "application/json"})
                assert (answer.status_code, set(answer.json())) == (status, {"error"})


async def test_several_pages_in_one_application_do_not_meet() -> None:
    mail, shop = open_jobs(title="Mail jobs"), open_jobs(title="Shop jobs")
    app = Starlette(routes=[Mount("/mail", mail), Mount("/shop", shop)])
    async with mail, shop:
        await mail.enqueue(fine, name="Letter").wait()
        await links_work(app, "/mail")
        await links_work(app, "/shop")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert "Letter" in (await client.get("/mail/")).text
            assert "Letter" not in (await client.get("/shop/")).text


async def test_the_mounts_own_address_without_a_slash_leads_to_the_page() -> None:
    jobs = open_jobs()
    app = Starlette(middleware=[Middleware(JobsMiddleware, jobs=jobs, path="/jobs")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/jobs", headers={"host": "evil.example"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/")
        assert (await client.get("/jobs/")).status_code == 200
        assert (await client.get("/jobs/nothing")).status_code == 404
        assert (await client.post("/jobs/")).status_code == 405


async def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await open_jobs()({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_many_failures_alike_are_run_again_from_their_list(site: Site) -> None:
    jobs = open_jobs()
    async with jobs:
        for _ in range(101):
            jobs.enqueue(broken)
        await jobs.join()
        client = site(jobs)
        overview = (await client.get("/")).text
        listed = (await client.get("/jobs?state=failed")).text
    assert "101 failed" in overview
    assert "/retry" not in overview
    assert "Run all 101 again" in listed
