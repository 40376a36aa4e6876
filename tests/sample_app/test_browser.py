"""The story of the demo, walked by a real browser, with and without JavaScript."""

import os
import re
import shutil
from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from tests.sample_app.server import SOON, Sample

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.slow, pytest.mark.xdist_group("sample browser")]

CHROMIUM = os.environ.get("ASGI_JOBS_CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = SOON.total_seconds() * 1000
expect.set_options(timeout=PATIENCE)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser, sample: Sample) -> AsyncIterator[Page]:
    """A page; what it complains of, or asks of other sites, fails the test."""
    context = await browser.new_context(base_url=sample.address)
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    complaints: list[str] = []

    def watch(request: Request) -> None:
        if not request.url.startswith((sample.address, "data:")):
            complaints.append(f"asked for {request.url}")

    page.on("request", watch)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.extend([message.text] if message.type == "error" else []))
    yield page
    await context.close()
    assert not complaints


@pytest.fixture
async def plain(browser: Browser, sample: Sample) -> AsyncIterator[Page]:
    """A page without JavaScript."""
    context = await browser.new_context(base_url=sample.address, java_script_enabled=False)
    context.set_default_timeout(PATIENCE)
    yield await context.new_page()
    await context.close()


async def sign_up(page: Page, name: str) -> None:
    await page.goto("/people")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("E-mail").fill(f"{name.lower()}@example.com")
    await page.get_by_role("button", name="Sign up").click()


async def test_the_story_of_the_demo(page: Page, sample: Sample) -> None:
    await page.goto(sample.jobs_address)
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await page.get_by_role("link", name="Back to").click()
    await expect(page).to_have_title("Overview · Airfield")

    await sign_up(page, "Ana")
    await expect(page.locator("[data-region=people] .st").first).to_have_text("Succeeded")
    await page.get_by_role("link", name="Their inbox").click()
    await expect(page.get_by_role("heading", name="Welcome to Airfield, Ana")).to_be_visible()

    await page.goto("/")
    await page.get_by_role("link", name="Northwind", exact=True).click()
    await page.get_by_role("button", name="Import the airports").click()
    await expect(page.get_by_role("progressbar")).to_be_visible()
    # Nothing is clicked or reloaded from here on: the page follows by itself.
    await expect(page.locator("[data-region=imports] .st")).to_have_text("Succeeded")
    await expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("28,298 airports"))

    await page.get_by_role("button", name="Draw the map").click()
    picture = page.get_by_alt_text("The airports of Northwind")
    await expect(picture).to_be_visible(timeout=PATIENCE)
    await page.wait_for_function(
        "picture => picture.complete && picture.naturalWidth === 1440", arg=await picture.element_handle()
    )


async def test_an_import_is_cancelled_half_way(page: Page, sample: Sample) -> None:
    await page.goto("/tenants/globex")
    await page.get_by_role("button", name="Import the airports").click()
    await expect(page.get_by_role("progressbar")).to_be_visible()

    await page.get_by_role("button", name="Cancel").click()

    await expect(page.locator("[data-region=imports] .st")).to_have_text("Cancelled")
    await expect(page.get_by_text("0 airports", exact=True)).to_be_visible()
    assert sample.rows("globex") == 0


async def test_the_failed_job_is_looked_at_on_its_page(page: Page, sample: Sample) -> None:
    await page.goto(sample.jobs_address)
    await page.goto("/trouble")
    await page.get_by_role("button", name="Let a job fail").click()
    await expect(page.locator("[data-region=fail] .st")).to_have_text("Failed")

    await page.get_by_role("link", name="Order shipped → Initech").click()

    await expect(page.get_by_role("heading", level=1)).to_contain_text("Order shipped → Initech")
    await expect(page.get_by_text("did not answer").first).to_be_visible()
    await expect(page.get_by_role("button", name="Run again").first).to_be_visible()


async def test_the_blocked_queue_is_freed_on_its_page(page: Page, sample: Sample) -> None:
    await page.goto(sample.jobs_address)
    await page.goto("/trouble")
    await page.get_by_role("button", name="Let a queue hang").click()
    await page.get_by_role("link", name="Parcel 1, no answer").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Parcel 1, no answer")

    await page.locator("summary", has_text="Cancel").first.click()
    await page.locator("form button", has_text="Cancel").first.click()
    await expect(page.get_by_text("Cancelled").first).to_be_visible()

    await page.goto("/trouble")
    await expect(page.locator("[data-region=hang] .st").first).to_have_text("Succeeded")


async def test_all_of_it_works_without_javascript(plain: Page) -> None:
    await sign_up(plain, "Norbert")
    await expect(plain.get_by_text("norbert@example.com")).to_be_visible()

    await plain.goto("/tenants/initech")
    await plain.get_by_role("button", name="Import the airports").click()
    await expect(plain.locator("[data-region=imports] .st")).to_have_text(re.compile("Queued|Running"))
    # The page reloads itself every five seconds …
    await expect(plain.locator("[data-region=imports] .st")).to_have_text("Succeeded")
    await expect(plain.locator("noscript")).to_have_count(0)  # … and no longer when nothing is under way


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
async def test_every_page_fits_its_window_and_can_be_read_by_all(page: Page, width: int, scheme: str) -> None:
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 700})
    found: list[str] = []

    for path in ("/", "/people", "/inbox", "/tenants/northwind", "/reports", "/trouble"):
        await page.goto(path)
        if await page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{path} is wider than {width}")
        violations = (await Axe().run(page)).response["violations"]
        found += [f"{path}: {one['id']}: {one['nodes'][0]['html']}" for one in violations]

    assert not found
