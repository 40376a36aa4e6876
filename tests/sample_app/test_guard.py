from collections.abc import AsyncIterator

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sample_app.guard import BodyLimit, same_origin


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://airfield.example:8000"}, True),
        ({"origin": "https://airfield.example:8000"}, True),  # TLS ends at the proxy
        ({"origin": "http://airfield.example"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, True),  # no browser
    ],
)
def test_only_forms_of_this_site_are_taken(headers: dict[str, str], allowed: bool) -> None:
    assert same_origin(Headers({"host": "airfield.example:8000", **headers})) is allowed


async def test_a_body_without_a_length_is_not_read_past_the_limit() -> None:
    async def count(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def chunks(number: int) -> AsyncIterator[bytes]:
        for _ in range(number):
            yield b"x" * 10

    middleware = [Middleware(BodyLimit, limit=100)]
    app = Starlette(routes=[Route("/", count, methods=["POST"])], middleware=middleware)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://airfield.example") as client:
        accepted = await client.post("/", content=chunks(10))
        refused = await client.post("/", content=chunks(11))

    assert accepted.text == "100"
    assert refused.status_code == 413
