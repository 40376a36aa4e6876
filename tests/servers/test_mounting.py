"""The page wherever it is mounted: every link, form and asset leads where it should, and never out of the mount."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.servers.crawler import ROUTES, Crawler
from tests.servers.nginx import needed, nginx
from tests.servers.process import JSON, KEY, ROOT, Server, hypercorn, reserved_port, until, uvicorn

pytestmark = pytest.mark.processes

OF_A_DATABASE = {("GET", "/workers"), ("POST", "/jobs/{id}/release")}
EVERY_ROUTE = {(method, route.path) for route in ROUTES for method in (route.methods or set()) - {"HEAD"}}
STATES = ("scheduled", "queued", "running", "succeeded", "failed", "cancelled")
(AS_THE_README_HAS_IT,) = re.findall(
    r"^```nginx\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
KEPT = "location /shop/ { proxy_pass SERVER; }"  # and the server's own Host, as without a line about it
SECURE = "location / { proxy_pass SERVER; proxy_set_header X-Forwarded-Proto https; }"


def serve(name: str, *more: str, **environment: str | None) -> Server:
    return uvicorn("--factory", f"tests.servers.apps.mounted:{name}", *more, **environment)


def crawl(address: str, mount: str, origin: str | None = None) -> None:
    """Open the page with the key, wait until it is full, and go everywhere."""
    with httpx.Client(base_url=address, timeout=20) as client:
        welcome = client.get(f"{mount}/", params={"key": KEY})
        assert (welcome.status_code, welcome.headers["location"]) == (303, f"{mount}/")
        assert f"Path={mount or '/'};" in welcome.headers["set-cookie"]
        until(lambda: _is_full(client.get(f"{mount}/", headers=JSON).json()["counts"]))
        walked = Crawler(client, mount, "/elsewhere", origin or address).walk()
    assert EVERY_ROUTE - walked == OF_A_DATABASE


def _is_full(counts: dict[str, int]) -> bool:
    return counts["queued"] == 3 and all(counts[state] for state in STATES)


@pytest.mark.parametrize("name", ["deep", "nested", "fastapi", "litestar", "quart", "django"])
def test_below_a_path_in_every_framework(name: str) -> None:
    with serve(name) as server:
        crawl(server.address, "/a/b/jobs")


def test_as_the_whole_application() -> None:
    with serve("outermost") as server:
        crawl(server.address, "")


def test_two_in_one_application() -> None:
    with serve("twice") as server:
        crawl(server.address, "/jobs/mail")
        crawl(server.address, "/jobs")


def test_with_a_root_path_of_fastapi_and_no_proxy() -> None:
    with serve("fastapi", ROOT="/shop") as server:
        crawl(server.address, "/shop/a/b/jobs")


@needed
@pytest.mark.parametrize("name", ["deep", "nested", "fastapi", "litestar", "quart", "django"])
def test_behind_a_proxy_that_takes_its_prefix_away(name: str, tmp_path: Path) -> None:
    with (
        serve(name, "--root-path", "/shop") as server,
        reserved_port() as port,
        nginx(port, AS_THE_README_HAS_IT.replace("http://127.0.0.1:8000", server.address), tmp_path) as address,
    ):
        crawl(address, "/shop/a/b/jobs")


@needed
def test_behind_a_proxy_whose_prefix_only_fastapi_knows(tmp_path: Path) -> None:
    with (
        serve("fastapi", ROOT="/shop") as server,
        reserved_port() as port,
        nginx(port, AS_THE_README_HAS_IT.replace("http://127.0.0.1:8000", server.address), tmp_path) as address,
    ):
        crawl(address, "/shop/a/b/jobs")


@needed
def test_behind_a_proxy_of_a_server_that_leaves_the_prefix_out_of_the_path(tmp_path: Path) -> None:
    app = "tests.servers.apps.mounted:deep()"
    with (
        hypercorn(app, "--root-path", "/shop") as server,
        reserved_port() as port,
        nginx(port, AS_THE_README_HAS_IT.replace("http://127.0.0.1:8000", server.address), tmp_path) as address,
    ):
        crawl(address, "/shop/a/b/jobs")


@needed
def test_behind_a_proxy_that_rewrites_the_host(tmp_path: Path) -> None:
    with reserved_port() as port:
        public = f"http://127.0.0.1:{port}"
        with (
            serve("shop", ORIGIN=public) as server,
            nginx(port, KEPT.replace("SERVER", server.address), tmp_path) as address,
        ):
            crawl(address, "/shop/jobs", origin=public)


@needed
def test_behind_a_proxy_that_rewrites_the_host_only_named_origins_may_act(tmp_path: Path) -> None:
    with (
        serve("shop") as server,
        reserved_port() as port,
        nginx(port, KEPT.replace("SERVER", server.address), tmp_path) as address,
        httpx.Client(base_url=f"{address}/shop/jobs", timeout=20) as client,
    ):
        client.get("/", params={"key": KEY})
        form = {"queue": "email"}
        assert client.post("/queues/pause", data=form, headers={"origin": address}).status_code == 403
        said = {"origin": address, "sec-fetch-site": "same-origin"}  # what browsers say wherever they trust the site
        assert client.post("/queues/pause", data=form, headers=said).status_code == 303


@needed
def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    with (
        serve("deep") as server,
        reserved_port() as port,
        nginx(port, SECURE.replace("SERVER", server.address), tmp_path) as address,
    ):
        welcome = httpx.get(f"{address}/a/b/jobs/", params={"key": KEY})
    assert "; Secure" in welcome.headers["set-cookie"]
    assert welcome.headers["location"] == "/a/b/jobs/"
