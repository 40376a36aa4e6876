"""Starts and stops the engine with the application, and puts it into `request.state`."""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_jobs.app import Jobs
from asgi_jobs.errors import InvalidOption, InvalidOptionType

logger = logging.getLogger("asgi_jobs")


class JobsMiddleware:
    """Pure ASGI: the engine starts after the application's start-up and drains before its shutdown.

    Args:
        app: the application.
        jobs: its `Jobs`.
        path: where the middleware itself serves the status page, for applications that cannot mount one.
        state: the name in `request.state`; another one for a second `Jobs`.
    """

    def __init__(self, app: ASGIApp, jobs: Jobs, path: str | None = None, state: str = "jobs") -> None:
        if not isinstance(jobs, Jobs):
            raise InvalidOptionType(f"JobsMiddleware(jobs=…) must be a Jobs, not {jobs!r}")
        if path is not None and (not isinstance(path, str) or not path.startswith("/") or not path.strip("/")):
            raise InvalidOption(f"JobsMiddleware(path=…) must be a path such as '/jobs', not {path!r}")
        if not isinstance(state, str) or not state.isidentifier():
            raise InvalidOption(f"JobsMiddleware(state=…) must be a name such as 'mail_jobs', not {state!r}")
        self.app = app
        self.jobs = jobs
        self.path = path.rstrip("/") if path else None
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] == "lifespan":
            await Lifespan(self, scope, receive, send).run()
            return
        if scope["type"] in ("http", "websocket"):
            scope.setdefault("state", {})[self.state] = self.jobs
            if self.path is not None and self._is_ours(scope):
                await self._serve(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        path = _route_path(scope)
        return path == self.path or path.startswith(f"{self.path}/")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page, mounted here: its root_path grows by our path, as Starlette's Mount does it."""
        scope = {**scope, "app_root_path": scope.get("app_root_path", scope.get("root_path", ""))}
        scope["root_path"] = f"{scope.get('root_path', '')}{self.path}"
        await self.jobs(scope, receive, send)


class Lifespan:
    """The application's lifespan with the engine's put inside it."""

    def __init__(self, middleware: JobsMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = middleware.app
        self._jobs = middleware.jobs
        self._state = middleware.state
        self._scope = scope
        self._receive_outer = receive
        self._send_outer = send
        self._started = False  # the application has completed its start-up
        self._heard = False  # the application takes part in the lifespan at all
        self._stopping = False

    async def run(self) -> None:
        """Run the application's lifespan; where it has none, answer for it."""
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception:
            if self._started or self._heard:
                await self._stop()
                raise
            logger.debug("The application does not support the lifespan protocol; the middleware answers it")
        if not self._started and not self._stopping:
            await self._answer()

    async def _answer(self) -> None:
        """The lifespan of an application that has none."""
        if not self._heard:
            await self._receive()
        await self._send({"type": "lifespan.startup.complete"})
        await self._receive()
        await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._take_name()
            await self._jobs.open()
        elif message["type"] == "lifespan.shutdown":
            await self._stop()
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] in ("lifespan.startup.complete", "lifespan.startup.failed"):
            self._heard = True
        if message["type"] == "lifespan.startup.complete":
            await self._jobs.begin()
            self._started = True
        elif message["type"] == "lifespan.startup.failed":
            await self._stop()
        await self._send_outer(message)

    async def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            await self._jobs.stop()

    def _take_name(self) -> None:
        state: dict[str, Any] = self._scope.setdefault("state", {})
        if self._state in state and state[self._state] is not self._jobs:
            raise InvalidOption(
                f"request.state.{self._state} is taken; give one JobsMiddleware another name: state='mail_jobs'"
            )
        state[self._state] = self._jobs


def _route_path(scope: Scope) -> str:
    """The path below the root_path, whether the server has put that into `path` or not."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return str(path)
