"""What an application makes its own: title, badge, the way back, and templates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from asgi_jobs import InvalidOption, Jobs

from .conftest import Site
from .test_security import check_headers, open_jobs

PAGES = ("/", "/jobs", "/queues", "/tasks", "/nothing", "/jobs/unknown")


async def test_title_badge_and_the_way_back_stand_on_every_page(site: Site) -> None:
    jobs = open_jobs(title="Shop & Co", badge="staging", home_url="https://shop.example/admin?a=1&b=2")
    async with jobs:
        job = jobs.enqueue(print, delay=timedelta(hours=1))
        client = site(jobs)
        for path in (*PAGES, f"/jobs/{job.id}"):
            page = (await client.get(path)).text
            assert "· Shop &amp; Co</title>" in page, path
            assert '<span class="env">staging</span>' in page, path
            assert 'href="https://shop.example/admin?a=1&amp;b=2" title="Back to the application"' in page, path


async def test_without_badge_and_way_back_there_is_no_trace_of_them(site: Site) -> None:
    page = (await site(open_jobs()).get("/")).text
    assert 'class="env"' not in page
    assert "Back to the application" not in page


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "shop.example"])
def test_the_way_back_leads_to_an_address_and_runs_nothing(url: str) -> None:
    with pytest.raises(InvalidOption, match="home_url"):
        Jobs(home_url=url)


async def test_a_template_of_the_same_name_takes_ours_place_and_the_others_stay(site: Site, tmp_path: Path) -> None:
    (tmp_path / "queues.html").write_text('{% extends "base.html" %}{% block main %}<h1>Lines</h1>{% endblock %}')
    client = site(open_jobs(templates=tmp_path))
    assert "<h1>Lines</h1>" in (await client.get("/queues")).text
    assert "<h1>Tasks</h1>" in (await client.get("/tasks")).text


async def test_a_template_can_extend_ours_of_the_same_name(site: Site, tmp_path: Path) -> None:
    (tmp_path / "queues.html").write_text(
        '{% extends "asgi_jobs/queues.html" %}{% block main %}<p id="own">Ask Ada.</p>{{ super() }}{% endblock %}'
    )
    page = (await site(open_jobs(templates=tmp_path)).get("/queues")).text
    assert page.index('<p id="own">Ask Ada.</p>') < page.index("<h1>Queues</h1>")


async def test_templates_of_ones_own_are_escaped_and_under_the_same_policy(site: Site, tmp_path: Path) -> None:
    (tmp_path / "error.html").write_text(
        '{% extends "base.html" %}{% block main %}{{ heading }}{{ said }}{% endblock %}'
    )
    (tmp_path / "queues.html").write_text('{% extends "base.html" %}{% block main %}{{ q }}{% endblock %}')
    client = site(open_jobs(templates=tmp_path))
    answer = await client.get("/queues", params={"q": "<x-evil>"})
    assert "&lt;x-evil&gt;" in answer.text
    assert "<x-evil>" not in answer.text
    check_headers(answer)
    check_headers(await client.get("/nothing"))


@pytest.mark.parametrize("wrong", ["{% block %}", "{{ no_such_name }}", '{% extends "none.html" %}'])
async def test_a_template_that_is_wrong_breaks_its_page_alone_and_the_log_says_why(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    (tmp_path / "tasks.html").write_text(wrong)
    client = site(open_jobs(templates=tmp_path))
    broken = await client.get("/tasks")
    assert broken.status_code == 500
    assert "tasks.html" in caplog.text
    check_headers(broken)
    assert (await client.get("/queues")).status_code == 200
