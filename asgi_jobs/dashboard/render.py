"""Turns views into answers: templates, JSON, and the plain pages for those who may see nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from starlette.responses import Response

from asgi_jobs.dashboard import as_json
from asgi_jobs.dashboard.assets import Asset
from asgi_jobs.dashboard.headers import POLICY
from asgi_jobs.dashboard.masking import visible
from asgi_jobs.dashboard.visit import Visit

if TYPE_CHECKING:
    from asgi_jobs.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"
TURN = 0.002
"""Seconds after which a long page lets the loop go on."""
SAID = {
    400: "That was not understood",
    403: "This is closed to you",
    404: "There is no such page",
    405: "This address does not do that",
    409: "That is not possible now",
    413: "That is too much at once",
    415: "That is not a form",
    422: "That was not understood",
    500: "Something went wrong here",
    503: "No job can be accepted now",
}


class Renderer:
    """Makes responses. Escapes everything; looks first into the user's own directory of templates."""

    def __init__(self, settings: Settings, assets: dict[str, Asset]) -> None:
        own = FileSystemLoader(TEMPLATES)
        theirs = [FileSystemLoader(settings.templates)] if settings.templates else []
        self._settings = settings
        self._environment = Environment(
            loader=ChoiceLoader([*theirs, own, PrefixLoader({"asgi_jobs": own})]),  # theirs may extend their namesake
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals["assets"] = {name: asset.name for name, asset in assets.items()}
        self._style = (TEMPLATES / "plain.css").read_text()
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        # The one page without an asset: its few rules stand in it, allowed by their hash and nothing else.
        self._plain_policy = POLICY.replace("style-src 'self'", f"style-src 'sha256-{digest}'")

    def page(self, template: str, visit: Visit, context: dict[str, Any], status: int = 200) -> Response:
        """A page from a template."""
        return _html(self._parts(template, visit, context), status)

    async def long_page(self, template: str, visit: Visit, context: dict[str, Any]) -> Response:
        """The same for one that may be long: jobs and other requests go on between its parts."""
        parts, since = [], perf_counter()
        for part in self._parts(template, visit, context):
            parts.append(part)
            if perf_counter() - since > TURN:
                await asyncio.sleep(0)
                since = perf_counter()
        return _html(parts)

    def _parts(self, template: str, visit: Visit, context: dict[str, Any]) -> Iterator[str]:
        return self._environment.get_template(template).generate(context, visit=visit, links=visit.links)

    @staticmethod
    def json(data: Any, status: int = 200) -> Response:
        """Data as JSON."""
        return Response(as_json.encoded(data), status, {"vary": "Accept, Cookie"}, "application/json")

    def closed(self, visit: Visit, rule: object) -> Response:
        """The 403 of a closed page: to the key's owner it says where the key is, to others nothing."""
        how = "key" if rule is None else "local" if rule == "local" else ""
        said = "Refused. " + {
            "key": "Open the page with ?key=… from the log first.",
            "local": "Local only.",
        }.get(how, "")
        return self._plain(visit, 403, "This page is closed to you", said.strip(), how)

    def forbidden(self, visit: Visit, said: str) -> Response:
        """The 403 of an act, for a visitor who may look."""
        return self._plain(visit, 403, "Nothing was done", said)

    def broken(self, visit: Visit) -> Response:
        """The 500 page. What happened stands in the log, not here."""
        return self._plain(visit, 500, SAID[500], "The log says what.")

    def _plain(self, visit: Visit, status: int, heading: str, said: str, how: str = "") -> Response:
        if visit.json:
            return self.json({"error": said}, status)
        title = visible(self._settings.title)
        context = {
            "status": status,
            "heading": heading,
            "said": said,
            "how": how,
            "title": title,
            "style": self._style,
        }
        response = self.page("plain.html", visit, context, status)
        response.headers["content-security-policy"] = self._plain_policy
        return response


def _html(parts: Iterable[str], status: int = 200) -> Response:
    text = "".join(parts).encode("utf-8", "replace")
    return Response(text, status, {"vary": "Accept, Cookie"}, "text/html; charset=utf-8")
