"""The door: every request passes here first, whatever its path, so no route can forget to ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_jobs.dashboard.access import Access, Rights
from asgi_jobs.dashboard.crosssite import same_site
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.render import Renderer
from asgi_jobs.dashboard.visit import KEY, Visit, wants_json

SAFE = frozenset({"GET", "HEAD"})
A_MONTH = 30 * 24 * 3600


class Door:
    """Pure ASGI: lets in who may look, and lets act who may act, from this site."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        origins: tuple[str, ...],
        renderer: Renderer,
        now: Callable[[], datetime],
    ) -> None:
        self.app = app
        self.access = access
        self.origins = origins
        self.renderer = renderer
        self.now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at the door, or pass the request on."""
        if scope["type"] != "http":
            await _decline(scope, receive, send)
            return
        scope = placed(scope)
        request = Request(scope)
        links = Links.below(scope)
        rights = await self.access.rights(request, links.base)
        visit = Visit(rights, links, wants_json(",".join(request.headers.getlist("accept"))))
        scope[KEY] = visit
        answer = self._at_the_door(request, visit) or self.app
        await answer(scope, receive, send)

    def _at_the_door(self, request: Request, visit: Visit) -> Response | None:
        """The answer to whom the page stays closed, or who goes elsewhere; None: come in."""
        changes = request.method not in SAFE
        if not changes and self.access.keyed and self._brings_key(request):
            return self._welcome(request, visit.links)
        if visit.rights is Rights.NONE:
            self.access.refused(self.now())
            return self.renderer.closed(visit, self.access.rule)
        if changes and not same_site(request.headers, self.origins):
            return self.renderer.forbidden(visit, "This came from another site, so nothing was done.")
        if changes and not visit.may_act:
            return self.renderer.forbidden(visit, "You may look, not act.")
        if inner_path(request.scope) == "":  # the mount itself: links below need its slash
            return Response(status_code=303, headers={"location": visit.links.overview})
        return None

    def _brings_key(self, request: Request) -> bool:
        given = request.query_params.getlist("key")
        return len(given) == 1 and self.access.opens(given[0])

    def _welcome(self, request: Request, links: Links) -> Response:
        """Take the key out of the address, where history and logs would keep it, and leave a cookie."""
        pairs = [pair for pair in parse_qsl(request.url.query, keep_blank_values=True) if pair[0] != "key"]
        path = "/" + quote(inner_path(request.scope).lstrip("/"), errors="replace")
        query = f"?{urlencode(pairs)}" if pairs else ""
        response = Response(status_code=303, headers={"location": f"{links.base}{path}{query}"})
        response.set_cookie(
            self.access.cookie_name(links.base),
            self.access.cookie,
            max_age=A_MONTH,
            path=links.base or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",  # strict is not sent on this very redirect when the link stood on another site
        )
        return response


def placed(scope: Scope) -> Scope:
    """The scope with a path that begins with its root_path, as the ASGI specification has it.

    Behind a proxy that strips its prefix, below a mount, only the mount's part of root_path is in the path.
    """
    root, path = str(scope.get("root_path", "")).rstrip("/"), str(scope["path"])
    starts = [at for at, letter in enumerate(root) if letter == "/"]
    missing = next((root[:at] for at in starts if _below(path, root[at:])), "")
    return {**scope, "root_path": root, "path": missing + path}


def _below(path: str, base: str) -> bool:
    return path == base or path.startswith(f"{base}/")


def inner_path(scope: Scope) -> str:
    """The path below the mount; "" for the mount's own address without a slash."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and _below(path, root) else path


async def _decline(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
