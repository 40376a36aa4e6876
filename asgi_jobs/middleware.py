"""Starts and stops the engine with the application, and puts it into `request.state`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.types import Message, Receive, Scope, Send

from asgi_jobs.app import Jobs
from asgi_jobs.errors import InvalidOption, InvalidOptionType

Application: TypeAlias = Callable[..., Awaitable[Any]]  # each framework has types of its own for the messages
NAMES = "asgi_jobs.names"
logger = logging.getLogger("asgi_jobs")


class JobsMiddleware:
    """Pure ASGI: the engine starts after the application's start-up and drains before its shutdown.

    Args:
        app: the application, of whichever framework.
        jobs: its `Jobs`.
        path: where the middleware itself serves the status page, for applications that cannot mount one.
        state: the name in `request.state`; another one for a second `Jobs`.
    """

    def __init__(self, app: Application, jobs: Jobs, path: str | None = None, state: str = "jobs") -> None:
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
        root = scope.get("root_path", "").rstrip("/")
        mounted = {"app_root_path": scope.get("app_root_path", root), "root_path": f"{root}{self.path}"}
        await self.jobs({**scope, **mounted}, receive, send)


class Lifespan:
    """The application's lifespan with the engine's put inside it."""

    def __init__(self, middleware: JobsMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = middleware.app
        self._jobs = middleware.jobs
        self._state = middleware.state
        self._scope = scope
        self._receive_outer = receive
        self._send_outer = send
        self._asked = False  # the server has said that it starts
        self._opened = False  # the engine accepts jobs, and is ours to stop
        self._answered = False  # the server knows whether the start-up succeeded
        self._started = False  # it did
        self._ended = False  # the server has said that it stops
        self._parted = False  # and has its answer
        self._refusal: Exception | None = None  # why the engine could not start

    async def run(self) -> None:
        """Run the application's lifespan; what it leaves out is answered here."""
        try:
            await self._run_app()
            await self._complete()
        except asyncio.CancelledError:
            await self._stop(drain=False)  # the server gives up: nobody waits for jobs any more
            raise
        except Exception:
            await self._stop()
            raise

    async def _run_app(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception:
            if self._answered:
                raise
            # By the protocol an application may refuse the lifespan so. It says nothing more once it has begun.
            level = logging.WARNING if self._asked else logging.DEBUG
            logger.log(level, "The application does not support the lifespan; the middleware answers", exc_info=True)
        if self._refusal is not None:  # and the application has swallowed it
            raise self._refusal

    async def _complete(self) -> None:
        """Say and hear what the application did not."""
        if not self._asked:
            await self._receive()
        if not self._answered:
            await self._send({"type": "lifespan.startup.complete"})
        if self._started and not self._ended:
            await self._receive()
        if self._ended and not self._parted:
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._asked = True
            await self._or_fail(self._open)
        elif message["type"] == "lifespan.shutdown":
            self._ended = True
            await self._stop()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            await self._or_fail(self._begin)
        elif kind == "lifespan.startup.failed":
            await self._stop()
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            self._parted = True
        await self._tell(message)

    async def _tell(self, message: Message) -> None:
        if message["type"].startswith("lifespan.startup"):
            if self._answered:  # with our own failure, of which the application has heard
                return
            self._answered = True
        await self._send_outer(message)

    async def _or_fail(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do our part of the start; an error is the server's to hear, or it would go on without jobs."""
        try:
            await step()
        except Exception as error:
            self._refusal = error
            await self._stop()
            await self._tell({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise

    async def _open(self) -> None:
        self._names.setdefault(self._state, self._jobs)
        self._check_name()
        await self._jobs.open()
        self._opened = True

    async def _begin(self) -> None:
        self._check_name()  # the application's own state may have come between
        await self._jobs.begin()
        self._started = True

    async def _stop(self, *, drain: bool = True) -> None:
        if self._opened:
            self._opened = False
            await self._jobs.stop(drain=drain)

    @property
    def _names(self) -> dict[str, Any]:
        """The names in `request.state`, or our own list of them where the server has no such state."""
        names: dict[str, Any] = self._scope["state"] if "state" in self._scope else self._scope.setdefault(NAMES, {})
        return names

    def _check_name(self) -> None:
        if self._names.get(self._state) is not self._jobs:
            raise InvalidOption(
                f"request.state.{self._state} is taken; give JobsMiddleware another name, for example state='mail_jobs'"
            )


def _route_path(scope: Scope) -> str:
    """The path below the root_path, whether the server has put that into `path` or not."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return str(path)
