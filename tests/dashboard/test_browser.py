"""The page in a real browser, against a real server."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs, JobState, StoreAway, current_job

from .fleet import opened
from .test_workers import unknown_job

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]  # one browser for all

HOUR = timedelta(hours=1)
expect.set_options(timeout=20_000)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


class Site:
    """A Jobs at /jobs of a running server."""

    def __init__(self, jobs: Jobs, address: str) -> None:
        self.jobs = jobs
        self.address = address
        self.go = asyncio.Event()

    async def hang(self) -> None:
        """Runs until the test lets it go."""
        await self.go.wait()


async def fine() -> None:
    """Does what it should."""


async def report() -> None:
    """Sums up yesterday's orders for every tenant."""


async def broken() -> None:
    current_job().log("began")
    raise ValueError("out of paper")


async def chatty() -> None:
    for number in range(100):
        current_job().log(f"line {number}")
    raise ValueError("out of paper")


async def serve(jobs: Jobs) -> AsyncGenerator[Site, None]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Mount("/jobs", jobs)])
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    async with jobs:
        site = Site(jobs, f"http://127.0.0.1:{listener.getsockname()[1]}/jobs")
        try:
            yield site
        finally:
            site.go.set()
            server.should_exit = True
            await serving


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncGenerator[Site, None]:
    jobs = Jobs(authorize=lambda request: True, title="Shop jobs", queues={"thumbnails": 4})
    jobs.task(every=timedelta(hours=6))(fine)
    jobs.task(cron="0 3 * * *", timezone="Europe/Berlin", key="shop:nightly_report")(report)
    async for served in serve(jobs):
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser, None]:
    path = os.environ.get("ASGI_JOBS_CHROMIUM", "/usr/bin/chromium")
    async with async_playwright() as playwright:
        given = path if Path(path).exists() else None  # else Playwright's own
        browser = await playwright.chromium.launch(executable_path=given, args=QUIET)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncGenerator[Page]:
    """A page that complains of whatever the browser complains of."""
    context = await browser.new_context()
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    await context.close()
    assert [text for text in complaints if "ERR_INTERNET_DISCONNECTED" not in text] == []


async def test_every_page_loads_without_a_complaint_and_asks_no_other_site(site: Site, page: Page) -> None:
    failed = site.jobs.enqueue(broken, queue="email")
    await failed.wait()
    running = site.jobs.enqueue(site.hang, queue="email")
    queued = site.jobs.enqueue(fine, queue="email")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/jobs", "/queues", "/tasks", *(f"/jobs/{job.id}" for job in (failed, running, queued))):
        answer = await page.goto(site.address + path)
        assert answer is not None
        assert answer.status == 200
    assert [url for url in asked if not url.startswith((site.address, "data:"))] == []


async def test_the_page_shows_what_is_new_without_being_loaded_again(site: Site, page: Page) -> None:
    await site.jobs.enqueue(fine, name="Receipt 1").wait()
    await page.goto(f"{site.address}/")
    await page.evaluate("window.loaded = 1")
    await expect(page).to_have_title("Nothing needs attention · Shop jobs")
    await site.jobs.enqueue(broken, name="Receipt 2").wait()
    await page.keyboard.press("r")
    await expect(page.get_by_role("link", name="Receipt 2")).to_be_visible()
    await expect(page).to_have_title("1 needs attention · Shop jobs")
    await expect(page.locator("#said")).to_have_text("broken failed")
    assert "b01c1c" in (await page.locator("link[rel=icon]").get_attribute("href") or "")
    assert await page.evaluate("window.loaded") == 1


async def test_the_page_asks_by_itself_and_gets_304_while_nothing_happens(site: Site, page: Page) -> None:
    await page.clock.install()
    await page.goto(f"{site.address}/jobs")
    async with page.expect_response(f"{site.address}/jobs") as asked:
        await page.clock.run_for(5_100)
    assert (await asked.value).status == 304
    await site.jobs.enqueue(fine, name="Receipt 1").wait()
    async with page.expect_response(f"{site.address}/jobs") as asked:
        await page.clock.run_for(5_100)
    assert (await asked.value).status == 200
    await expect(page.get_by_role("link", name="Receipt 1")).to_be_visible()


async def test_the_interval_is_remembered_and_can_be_switched_off(site: Site, page: Page) -> None:
    await page.clock.install()
    await page.goto(f"{site.address}/jobs")
    await page.get_by_label("Refresh every").select_option("off")
    await page.reload()
    await expect(page.get_by_label("Refresh every")).to_have_value("0")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.run_for(300_000)
    assert asked == []


async def test_a_hidden_tab_asks_nothing_and_asks_at_once_when_it_is_seen(site: Site, page: Page) -> None:
    await page.clock.install()
    await page.goto(f"{site.address}/jobs")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show = """value => {
        Object.defineProperty(document, "hidden", {value, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await page.evaluate(show, True)
    await page.clock.run_for(300_000)
    assert asked == []
    async with page.expect_response(f"{site.address}/jobs"):
        await page.evaluate(show, False)


async def test_durations_tick_in_the_browser(site: Site, page: Page) -> None:
    await page.clock.install()
    job = site.jobs.enqueue(site.hang)
    await page.goto(f"{site.address}/jobs/{job.id}")
    state = page.locator(".title .st time")
    await expect(state).to_have_text("0 s")
    await page.get_by_label("Refresh every").select_option("off")
    await page.clock.run_for(72_000)
    await expect(state).to_have_text(re.compile(r"1 min 1[1-3] s"))


async def test_open_details_scroll_selection_focus_and_typed_text_survive(site: Site, page: Page) -> None:
    job = site.jobs.enqueue(chatty)
    await job.wait()
    await page.goto(f"{site.address}/jobs/{job.id}")
    await page.get_by_text("Full traceback").click()
    await page.locator(".log").evaluate("log => { log.scrollTop = 300 }")
    await page.get_by_role("button", name="Run again").focus()
    async with page.expect_response(f"{site.address}/jobs/{job.id}") as asked:
        site.jobs.enqueue(fine)  # the counts change
        await page.keyboard.press("r")
    assert (await asked.value).status == 200
    await expect(page.get_by_role("link", name="Succeeded 1")).to_be_visible()
    await expect(page.locator("#d-trace")).to_have_attribute("open", "")
    assert await page.locator(".log").evaluate("log => log.scrollTop") == 300
    await expect(page.get_by_role("button", name="Run again")).to_be_focused()

    await page.goto(f"{site.address}/jobs")
    await page.get_by_label("Search jobs").fill("half-ty")
    await page.get_by_role("checkbox", name="Select fine").check()
    await page.locator("main").focus()
    await site.jobs.enqueue(fine, name="Receipt 3").wait()
    await page.keyboard.press("r")
    await expect(page.get_by_role("link", name="Receipt 3")).to_be_visible()
    await expect(page.get_by_label("Search jobs")).to_have_value("half-ty")
    await expect(page.get_by_role("checkbox", name="Select fine")).to_be_checked()


POLLS = 100


async def top(box: Locator) -> float:
    return float(await box.evaluate("box => box.getBoundingClientRect().top"))


async def polled(page: Page, site: Site, name: str, *, failing: bool = False) -> None:
    """Let something happen and the page's time for a poll come; what it asks for has changed."""
    await site.jobs.enqueue(broken if failing else fine, name=name).wait()
    async with page.expect_response(page.url) as asked:
        await page.clock.run_for(5_100)
    answer = await asked.value
    assert answer.status == 200
    await answer.finished()


async def test_typed_text_focus_ticks_and_scroll_survive_a_hundred_polls(site: Site, page: Page) -> None:
    for number in range(30):
        await site.jobs.enqueue(broken, name=f"Receipt {number}").wait()
    await page.clock.install()
    await page.goto(f"{site.address}/jobs?state=failed")
    ticked = [page.get_by_label(f"Select Receipt {number}", exact=True) for number in (20, 10)]
    for box in ticked:
        await box.check()
    await page.get_by_text("Keyboard").click()
    search = page.get_by_label("Search jobs")
    await search.fill("half-typed")
    await search.evaluate("field => { field.setSelectionRange(2, 5); scrollTo(0, 500); }")
    seen = await top(ticked[0])
    for number in range(POLLS):
        await polled(page, site, f"New {number}", failing=number % 5 == 0)  # a row on top of the list, or the counts
    await expect(page.get_by_role("link", name="Failed 50")).to_be_visible()
    await expect(page.get_by_role("link", name="New 95")).to_be_attached()
    await expect(search).to_be_focused()
    await expect(search).to_have_value("half-typed")
    assert await search.evaluate("field => [field.selectionStart, field.selectionEnd]") == [2, 5]
    for box in ticked:
        await expect(box).to_be_checked()
    await expect(page.locator("#n")).to_have_text("2 selected")
    await expect(page.locator("#help")).to_have_attribute("open", "")
    assert await top(ticked[0]) == pytest.approx(seen, abs=2)  # what was looked at stands where it stood


async def test_open_details_and_a_question_about_to_be_answered_survive_a_hundred_polls(site: Site, page: Page) -> None:
    job = site.jobs.enqueue(chatty)
    await job.wait()
    await page.clock.install()
    await page.goto(f"{site.address}/jobs/{job.id}")
    await page.get_by_text("Full traceback").click()
    await page.locator(".log").evaluate("log => { log.scrollTop = 300 }")
    for number in range(POLLS):
        await polled(page, site, f"New {number}")
    await expect(page.get_by_role("link", name=f"Succeeded {POLLS}")).to_be_visible()
    await expect(page.locator("#d-trace")).to_have_attribute("open", "")
    assert await page.locator(".log").evaluate("log => log.scrollTop") == 300

    await page.goto(f"{site.address}/queues")
    site.jobs.enqueue(site.hang, queue="email")
    waiting = site.jobs.enqueue(fine, queue="email")
    await page.goto(f"{site.address}/queues")
    await page.locator("summary", has_text="Cancel waiting…").click()
    button = page.get_by_role("button", name="Cancel 1 job")
    await button.focus()
    for number in range(POLLS):
        await polled(page, site, f"Newer {number}")
    await expect(page.get_by_role("link", name=f"Succeeded {2 * POLLS}")).to_be_visible()
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#flash")).to_have_text("1 job cancelled or asked to stop.")
    assert waiting.state is JobState.CANCELLED


async def test_an_open_question_is_not_swallowed_by_a_refresh(site: Site, page: Page) -> None:
    job = site.jobs.enqueue(fine, name="Receipt 1", delay=HOUR)
    await page.goto(f"{site.address}/jobs/{job.id}")
    await page.get_by_text("Cancel job…").click()
    await site.jobs.enqueue(broken).wait()
    await page.keyboard.press("r")
    await expect(page.get_by_role("link", name="Failed 1")).to_be_visible()
    await page.get_by_role("button", name="Cancel job").click()
    await expect(page.locator("#flash")).to_have_text("1 job cancelled or asked to stop.")
    assert page.url == f"{site.address}/jobs/{job.id}"
    assert job.state is JobState.CANCELLED


async def test_what_waited_for_an_open_question_is_shown_afterwards(site: Site, page: Page) -> None:
    job = site.jobs.enqueue(fine, name="Receipt 1", delay=HOUR)
    await page.goto(f"{site.address}/jobs/{job.id}")
    await page.get_by_text("Cancel job…").click()
    await job.cancel()
    await page.keyboard.press("r")
    await expect(page.get_by_role("link", name="Cancelled 1")).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel job")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("r")
    await expect(page.get_by_role("button", name="Run again")).to_be_visible()


async def test_chosen_jobs_are_run_again_together(site: Site, page: Page) -> None:
    for number in range(3):
        await site.jobs.enqueue(broken, name=f"Receipt {number}").wait()
    await page.goto(f"{site.address}/jobs?state=failed")
    await page.get_by_label("Select Receipt 1").check()
    await expect(page.locator("#n")).to_have_text("1 selected")
    await page.get_by_label("Select all on this page").check()
    await expect(page.locator("#n")).to_have_text("3 selected")
    await page.locator("#chosen").get_by_role("button", name="Run again").click()
    await expect(page.locator("#flash")).to_have_text("3 jobs enqueued again.")
    await expect(page).to_have_url(f"{site.address}/jobs?state=failed")


async def test_a_server_that_is_away_is_said_with_what_is_seen_left_in_place(site: Site, page: Page) -> None:
    await site.jobs.enqueue(fine, name="Receipt 1").wait()
    await page.goto(f"{site.address}/jobs")
    await page.context.set_offline(True)
    await page.keyboard.press("r")
    bar = page.locator("#away")
    await expect(page.get_by_role("alert")).to_contain_text("No answer from the server since")
    await expect(bar).to_contain_text("Next try in")
    await expect(page.get_by_role("link", name="Receipt 1")).to_be_visible()
    await page.context.set_offline(False)
    await page.get_by_role("button", name="Try now").click()
    await expect(bar).to_be_empty()


async def test_a_server_that_stays_away_is_asked_less_and_less_often(site: Site, page: Page) -> None:
    await page.clock.install()
    await page.goto(f"{site.address}/jobs")
    await page.context.set_offline(True)
    asked = """() => {
        const ask = fetch;
        window.asked = [];
        window.fetch = (...of) => { window.asked.push(Date.now()); return ask(...of); };
    }"""
    await page.evaluate(asked)
    for _ in range(220):
        await page.clock.run_for(1_000)
    times = await page.evaluate("asked")
    gaps = [(then - before) / 1_000 for before, then in pairwise(times)]
    assert gaps[:5] == pytest.approx([10, 20, 40, 60, 60], abs=8)  # 5 s, doubled each time, up to a minute


async def test_the_keyboard_reaches_search_refresh_and_help(site: Site, page: Page) -> None:
    await page.goto(f"{site.address}/jobs")
    await page.keyboard.press("/")
    search = page.get_by_label("Search jobs")
    await expect(search).to_be_focused()
    await page.keyboard.type("r/?")  # in a field these are letters
    await expect(search).to_have_value("r/?")
    outline = "field => getComputedStyle(field).outlineWidth + getComputedStyle(field).outlineStyle"
    assert await search.evaluate(outline) == "2pxsolid"
    await page.locator("main").focus()
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_have_attribute("open", "")
    async with page.expect_response(f"{site.address}/jobs"):
        await page.keyboard.press("r")


async def test_light_and_dark_follow_the_system_until_one_is_chosen_and_remembered(
    site: Site, browser: Browser
) -> None:
    context = await browser.new_context(color_scheme="dark")
    page = await context.new_page()
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.goto(f"{site.address}/")
    dark = await page.evaluate(ground)
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(ground)
    assert light != dark
    await page.get_by_label("Theme").select_option("dark")
    assert await page.evaluate(ground) == dark
    await page.reload()
    assert await page.evaluate(ground) == dark
    await expect(page.get_by_label("Theme")).to_have_value("dark")
    await page.get_by_label("Theme").select_option("system")
    assert await page.evaluate(ground) == light
    await context.close()


async def test_times_are_utc_and_tell_the_browsers_own_zone_when_pointed_at(site: Site, browser: Browser) -> None:
    context = await browser.new_context(timezone_id="Asia/Tokyo", locale="en-GB")
    page = await context.new_page()
    job = site.jobs.enqueue(fine)
    await job.wait()
    await page.goto(f"{site.address}/jobs/{job.id}")
    time = page.locator(".steps time").first
    there = job.enqueued_at.astimezone(ZoneInfo("Asia/Tokyo"))
    await expect(time).to_have_text(f"{job.enqueued_at:%H:%M:%S}")
    await expect(time).to_have_attribute("title", f"{there:%d/%m/%Y, %H:%M:%S}")
    await context.close()


async def test_on_a_phone_rows_are_cards_and_buttons_are_large(site: Site, browser: Browser) -> None:
    context = await browser.new_context(viewport={"width": 375, "height": 800})
    page = await context.new_page()
    job = site.jobs.enqueue(site.hang, queue="email", name="Receipt 1")
    site.jobs.enqueue(fine, queue="email")
    await page.goto(f"{site.address}/jobs")
    assert await page.locator(f"#j-{job.id}").evaluate("row => getComputedStyle(row).display") == "flex"
    await page.goto(f"{site.address}/queues")
    await expect(page.locator("thead")).to_be_hidden()
    box = await page.get_by_role("button", name="Pause email").bounding_box()
    assert box is not None
    assert box["height"] >= 40
    await context.close()


async def test_a_new_row_is_shown_without_motion_to_who_wants_none(site: Site, browser: Browser) -> None:
    context = await browser.new_context(reduced_motion="reduce")
    page = await context.new_page()
    await site.jobs.enqueue(fine).wait()
    await page.goto(f"{site.address}/jobs")
    for motion, name in (("reduce", "none"), ("no-preference", "new")):
        await page.emulate_media(reduced_motion=motion)  # type: ignore[arg-type]
        job = site.jobs.enqueue(fine)
        await job.wait()
        await page.keyboard.press("r")
        row = page.locator(f"#j-{job.id}")
        await expect(row).to_be_visible()
        assert await row.evaluate("row => row.className + getComputedStyle(row).animationName") == f"new{name}"
    await context.close()


async def test_the_key_of_the_log_opens_the_page_and_leaves_the_address(
    browser: Browser, state_directory: None
) -> None:
    async for site in serve(Jobs()):
        page = await browser.new_page()
        refused = await page.goto(f"{site.address}/queues")
        assert refused is not None
        assert refused.status == 403
        await page.goto(f"{site.address}/queues?key={site.jobs.access.key.value}")
        assert page.url == f"{site.address}/queues"
        await expect(page.get_by_role("heading", name="Queues")).to_be_visible()
        await page.get_by_role("link", name="Tasks").click()
        await expect(page.get_by_role("heading", name="Tasks")).to_be_visible()


async def test_buttons_work_in_a_browser_that_sends_its_checks(site: Site, page: Page) -> None:
    await page.goto(f"{site.address}/tasks")
    await page.get_by_role("button", name="Run now fine").click()
    await expect(page.locator("#flash")).to_have_text("1 job enqueued.")
    await page.goto(f"{site.address}/queues")
    await page.get_by_role("button", name="Pause thumbnails").click()
    await expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Resume thumbnails").click()
    await expect(page.get_by_text("Paused", exact=True)).to_have_count(0)


async def test_a_form_of_another_site_does_nothing(site: Site, browser: Browser) -> None:
    job = site.jobs.enqueue(fine, delay=HOUR)
    page = await browser.new_page()
    await page.goto("data:text/html,<p>another site</p>")
    await page.evaluate(
        """address => { const form = document.createElement("form"); form.method = "post"; form.action = address;
        document.body.append(form); form.submit(); }""",
        f"{site.address}/jobs/{job.id}/cancel",
    )
    await expect(page.get_by_role("heading", name="Nothing was done")).to_be_visible()
    assert job.state is JobState.SCHEDULED


@pytest_asyncio.fixture(loop_scope="module")
async def plain(browser: Browser) -> Page:
    """A browser without scripts."""
    context = await browser.new_context(java_script_enabled=False)
    return await context.new_page()


async def test_without_scripts_a_question_opens_as_a_page_that_does_not_refresh(site: Site, plain: Page) -> None:
    jobs = [site.jobs.enqueue(fine, queue="email", delay=HOUR) for _ in range(2)]
    await plain.goto(f"{site.address}/jobs?state=scheduled")
    assert await plain.locator("meta[http-equiv=refresh]").count() == 1
    await expect(plain.get_by_label("Refresh every")).to_be_hidden()
    await plain.get_by_role("link", name="Cancel all 2…").click()
    assert await plain.locator("meta[http-equiv=refresh]").count() == 0
    await plain.get_by_role("button", name="Cancel jobs").click()
    await expect(plain.locator("#flash")).to_have_text("2 jobs cancelled or asked to stop.")
    assert {job.state for job in jobs} == {JobState.CANCELLED}


async def test_without_scripts_jobs_are_chosen_on_a_page_that_does_not_refresh(site: Site, plain: Page) -> None:
    job = site.jobs.enqueue(fine, name="Receipt 1", delay=HOUR)
    await plain.goto(f"{site.address}/jobs")
    await expect(plain.get_by_label("Select Receipt 1")).to_be_hidden()
    await plain.get_by_role("link", name="Select…").click()
    assert await plain.locator("meta[http-equiv=refresh]").count() == 0
    await plain.get_by_label("Select Receipt 1").check()
    await plain.locator("#chosen summary").click()
    await plain.get_by_role("button", name="Cancel them").click()
    await expect(plain.locator("#flash")).to_have_text("1 job cancelled or asked to stop.")
    assert job.state is JobState.CANCELLED


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_accessible_and_fits(site: Site, browser: Browser, width: int, scheme: Any) -> None:
    context: BrowserContext = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = await context.new_page()
    await fits(page, f"{site.address}/")  # before the first job
    await fits(page, f"{site.address}/jobs")
    failed = site.jobs.enqueue(broken, queue="email", name="Receipt " + "x" * 300)
    await failed.wait()
    running = site.jobs.enqueue(site.hang, queue="email")
    queued = site.jobs.enqueue(fine, queue="email")
    await site.jobs.pause("print")
    paths = ["/", "/jobs", "/jobs?state=failed", "/jobs?q=nothing", "/queues", "/tasks", "/jobs/gone"]
    for path in [*paths, *(f"/jobs/{job.id}" for job in (failed, running, queued))]:
        await fits(page, site.address + path)


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_of_a_database_is_accessible_and_fits(
    browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    context: BrowserContext = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = await context.new_page()
    async with opened("sqlite", tmp_path) as shop, aclosing(serve(shop.make(concurrency=0))) as sites:
        site = await anext(sites)
        waiting = await shop.enqueue("hold", queue="email")
        await fits(page, f"{site.address}/jobs/{waiting.id}")  # before the first worker
        await shop.open("worker-1." + "x" * 60)
        await shop.started.wait()
        unknown = await unknown_job(shop, queue="invoices")
        await fits(page, f"{site.address}/workers", "main details summary")
        for path in ("/", "/tasks", "/queues", f"/jobs/{unknown}"):
            await fits(page, site.address + path)
        await fits(page, f"{site.address}/jobs/{waiting.id}", "main .confirm summary")
        site.jobs.counts = gone  # type: ignore[method-assign]
        await shop.enqueue("fine")
        await fits(page, f"{site.address}/")
        shop.go.set()


async def gone() -> Any:
    raise StoreAway(f"the store at postgresql+asyncpg://db.{'x' * 60}/shop does not answer")


async def test_a_page_that_found_no_database_shows_the_jobs_when_it_is_there_again(
    browser: Browser, tmp_path: Path
) -> None:
    page = await browser.new_page()
    async with opened("sqlite", tmp_path) as shop, aclosing(serve(shop.make(concurrency=0))) as sites:
        site = await anext(sites)
        await shop.enqueue("fine", delay=HOUR, name="Receipt 7")
        with patch.object(site.jobs, "counts", gone):
            await page.goto(f"{site.address}/jobs")
            await expect(page.get_by_role("heading", name="The database does not answer")).to_be_visible()
            await page.keyboard.press("r")
            await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_role("button", name="Try now").click()
        await expect(page.get_by_role("link", name="Receipt 7")).to_be_visible()
        await expect(page.get_by_role("link", name="Scheduled 1")).to_be_visible()
        await expect(page.locator("#away")).to_be_empty()


async def fits(page: Page, address: str, open: str = "") -> None:
    await page.goto(address)
    if open:
        await page.locator(open).first.click()
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, address
    found = await Axe().run(page)
    assert found.violations_count == 0, f"{address}: {found.generate_report()}"


@pytest_asyncio.fixture(loop_scope="module")
async def strict() -> AsyncGenerator[Site, None]:
    """A Jobs that calls a queue blocked at once."""
    async for served in serve(Jobs(authorize=lambda request: True, stuck_after=timedelta(microseconds=1))):
        yield served


async def test_who_hears_the_page_is_told_what_got_worse_and_nothing_else(strict: Site, page: Page) -> None:
    site = strict
    await site.jobs.enqueue(broken).wait()
    await page.goto(f"{site.address}/jobs")
    heard = page.locator("#said")
    await expect(heard).to_have_text("")  # what was wrong before is on the page, and no news
    assert await page.locator("[role=status], [aria-live]").count() == 1
    await site.jobs.enqueue(fine, name="Receipt 1").wait()
    await page.keyboard.press("r")
    await expect(page.get_by_role("link", name="Receipt 1")).to_be_visible()
    await expect(heard).to_have_text("")
    await site.jobs.enqueue(chatty).wait()
    await page.keyboard.press("r")
    await expect(heard).to_have_text("chatty failed")
    await page.goto(f"{site.address}/queues")
    site.jobs.enqueue(site.hang, queue="email")
    site.jobs.enqueue(fine, queue="email")
    await page.keyboard.press("r")
    await expect(heard).to_have_text("Queue email is blocked")
    await page.get_by_role("button", name="Pause email").click()
    await expect(heard).to_have_text(re.compile("^The queue is paused"))


async def test_a_page_that_is_refused_says_what_the_server_said(site: Site, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(f"{site.address}/jobs")
    with patch.object(site.jobs, "counts", gone):
        site.jobs.enqueue(fine, name="Receipt 1")
        await page.keyboard.press("r")
        await expect(page.get_by_role("alert")).to_have_text(re.compile(r"^The database does not answer since \d\d:"))
