"""A page in a host application, and a browser-like client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_jobs import Jobs

from .fleet import Shop, opened

Site = Callable[[Jobs], httpx.AsyncClient]


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the key of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.delenv("ASGI_JOBS_KEY", raising=False)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Mounts a Jobs at /jobs and gives a client whose addresses begin there."""
    clients: list[httpx.AsyncClient] = []

    def mount(jobs: Jobs) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(Starlette(routes=[Mount("/jobs", jobs)]))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test/jobs"))
        return clients[-1]

    yield mount
    for client in clients:
        await client.aclose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    """A database with a web process on it, which runs nothing."""
    async with opened(request.param, tmp_path) as shop:
        await shop.open_web()
        yield shop
