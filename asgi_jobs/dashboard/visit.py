"""One request, as the dashboard sees it: who asks, from which mount, and what form the answer is to have."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from asgi_jobs.dashboard.access import Rights
from asgi_jobs.dashboard.links import Links

KEY = "asgi_jobs.visit"


@dataclass(frozen=True, slots=True)
class Visit:
    """Decided once, at the door; every handler reads it."""

    rights: Rights
    links: Links
    json: bool

    @property
    def may_act(self) -> bool:
        """Whether buttons are shown, and obeyed."""
        return self.rights is Rights.ACT


def visit_of(request: Request) -> Visit:
    """The visit that the door has put into the request's scope."""
    visit: Visit = request.scope[KEY]
    return visit


def wants_json(accept: str) -> bool:
    """Whether an Accept header asks for JSON rather than for a page."""
    weights = dict(map(_weighed, accept.split(",")))
    return weights.get("application/json", 0.0) > weights.get("text/html", 0.0)


def _weighed(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip() for piece in part.lower().split(";"))
    weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    try:
        return kind, float(weight)
    except ValueError:
        return kind, 0.0
