"""In a real browser: nothing of what jobs say runs, and no page breaks the policy that it is served with."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from playwright.async_api import Page, async_playwright, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs

from .haunted import HOSTILE, every_page, haunted
from .test_browser import QUIET

pytestmark = pytest.mark.browser

WATCH = """
window.found = [];
document.addEventListener("securitypolicyviolation", (event) => window.found.push(
  event.violatedDirective + " " + event.blockedURI + " " + event.sample));
window.alert = (text) => window.found.push("alert " + text);
"""


@asynccontextmanager
async def served(*mounts: Mount) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=mounts), lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def watched() -> AsyncIterator[Page]:
    """A page of a browser that notes what its policy refuses."""
    path = os.environ.get("ASGI_JOBS_CHROMIUM", "/usr/bin/chromium")
    given = path if Path(path).exists() else None  # else Playwright's own
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=given, args=QUIET)
        page = await browser.new_page()
        await page.add_init_script(WATCH)
        yield page
        await browser.close()


async def check(page: Page, address: str) -> None:
    """Nothing was refused by the policy, and nothing of the hostile text has become part of the page."""
    assert await page.evaluate("window.found") == [], address
    assert await page.evaluate("document.querySelectorAll('x-evil, [onload]').length") == 0, address


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_no_page_breaks_its_policy_or_runs_what_a_job_says(tmp_path: Path, kind: str) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db" if kind == "sqlite" else None
    closed = Jobs(authorize=lambda request: False)
    async with (
        haunted(HOSTILE, url) as (jobs, made),
        served(Mount("/jobs", jobs), Mount("/closed", closed)) as site,
        watched() as page,
    ):
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # Of each text one job in each state; the lists show all.
        paths = [f"/jobs{path}" for path in every_page([job.id for job in made])]
        asked = [f"/jobs/jobs?{httpx.QueryParams({'q': text})}" for text in HOSTILE if "\ud800" not in text]
        for path in [*paths, *asked, "/jobs/?confirm=x", "/jobs/jobs?limit=x", "/jobs/nothing", "/closed/"]:
            await page.goto(site + path)
            await check(page, path)
        await page.goto(f"{site}/jobs/jobs")
        await jobs.cancel(made[-2].id)
        async with page.expect_response(f"{site}/jobs/jobs") as answer:
            await page.keyboard.press("r")
        assert (await answer.value).status == 200
        await expect(page.locator(f"#j-{made[-2].id} .st")).to_contain_text("cancelled", ignore_case=True)
        await check(page, "after a swap")
    assert [text for text in complaints if "Content Security Policy" in text or "Error" in text] == []


async def test_the_watch_sees_what_the_policy_refuses() -> None:
    """The test above would see it."""
    jobs = Jobs(authorize=lambda request: True)
    async with (
        jobs,
        served(Mount("/jobs", jobs)) as site,
        watched() as page,
    ):
        await page.goto(f"{site}/jobs/")
        await page.evaluate("document.body.setAttribute('style', 'color: red')")
        await page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
        await page.wait_for_function("window.found.length === 2")
        assert [text.split()[0] for text in await page.evaluate("window.found")] == [
            "style-src-attr",
            "script-src-elem",
        ]
