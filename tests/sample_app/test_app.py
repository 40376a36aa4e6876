from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient

from asgi_jobs import QueueFull
from sample_app import forms
from sample_app.app import app


class FullTask:
    """A task whose queue takes no more."""

    def using(self, **options: Any) -> "FullTask":
        return self

    async def enqueue(self, *args: Any, **kwargs: Any) -> None:
        raise QueueFull("100000 jobs wait already")


async def test_when_no_more_jobs_are_taken_the_visitor_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "deliver_webhook", FullTask())

    async with AsyncClient(transport=ASGITransport(app), base_url="http://airfield.example") as client:
        answer = await client.post("/trouble/fail")

    assert answer.status_code == 503
    assert "Please try again in a moment." in answer.text
