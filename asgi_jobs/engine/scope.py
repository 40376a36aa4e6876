"""The dependencies of one attempt: opened when it starts, closed when it has ended, however it ends.

dishka does the wiring. One thing is done here: dishka hands a job's exception to a generator as the *value* of
`yield` and never throws it in, so a session factory that commits after its `yield` would commit the work of a
failed job. Whatever form `session_factory` has, it becomes one context manager that is left by `__exit__` with
the exception.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from dishka import AnyOf, AsyncContainer, Provider, Scope, make_async_container
from dishka.entities.key import DependencyKey
from dishka.exceptions import ExitError
from dishka.provider import BaseProvider
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession

from asgi_jobs.call import Need
from asgi_jobs.engine.guard import is_request_type
from asgi_jobs.engine.sessions import FORMS, SESSION_TYPES, Changes, Limiter, SessionFactory, shares_one_connection
from asgi_jobs.errors import InvalidCall, InvalidOption, InvalidOptionType, RequestBound

if TYPE_CHECKING:
    from asgi_jobs.engine.threads import WorkerThread

logger = logging.getLogger("asgi_jobs")


def _checked(providers: Any) -> tuple[BaseProvider, ...]:
    found = tuple(providers) if isinstance(providers, Iterable) else (providers,)
    if not isinstance(providers, Iterable) or not all(isinstance(provider, BaseProvider) for provider in found):
        raise InvalidOptionType(f"providers must be a list of dishka providers, [Provider(…)], not {providers!r}")
    return found


class Scopes:
    """What attempts can be given: the session factory and the container."""

    def __init__(
        self,
        *,
        session_factory: Any,
        providers: Sequence[Any],
        container: AsyncContainer | None,
        max_sessions: int,
    ) -> None:
        self.sessions = SessionFactory.of(session_factory) if session_factory is not None else None
        self.places = Limiter(max_sessions)
        self._max_sessions = max_sessions
        self._providers = _checked(providers)
        self._owned = bool(self._providers)
        if container is not None and not isinstance(container, AsyncContainer):
            raise InvalidOptionType(
                f"container must be dishka's AsyncContainer (make_async_container), not {container!r}"
            )
        if providers and container is not None:
            raise InvalidOption("give either providers or container: a container has its own providers")
        self.container = self._make_container() if providers else container
        self._fresh = True
        self._bind_known = False

    def start(self) -> None:
        """Make the container of this run."""
        self.places = Limiter(self._max_sessions)
        if self._owned and not self._fresh:
            self.container = self._make_container()
        self._fresh = False
        self._bind_known = False
        if self.sessions is not None and self.sessions.bind is not None:
            self.look_at(self.sessions.bind)

    def look_at(self, bind: Any) -> None:
        """Warn, once a start, where sessions cannot be kept apart."""
        if not self._bind_known and shares_one_connection(bind):
            logger.warning(
                "session_factory is on in-memory SQLite, which has one connection for all sessions: when one job or "
                "request rolls back, the rows of others go too. Use a file, such as sqlite+aiosqlite:///app.db"
            )
        self._bind_known = True

    @property
    def bind_known(self) -> bool:
        """Whether the engine was looked at; that of a function is known with its first session only."""
        return self._bind_known

    async def stop(self) -> None:
        """Close the container that was made here; the application's own is left alone."""
        if self._owned and self.container is not None:
            await self.container.close()

    def _make_container(self) -> AsyncContainer:
        if self.sessions is None:
            return make_async_container(*self._providers)
        for provider in self._providers:
            if getattr(provider, "component", None):
                continue
            for factory in getattr(provider, "factories", ()):
                if factory.provides.type_hint in self.sessions.types:
                    raise InvalidOption(
                        f"both session_factory and {type(provider).__name__} provide "
                        f"{factory.provides.type_hint.__name__}; drop one"
                    )
        return make_async_container(_session_provider(self.sessions), *self._providers)

    # What a plan asks (call.Catalog)

    def find(self, hint: Any, component: str | None = None) -> Need | None:
        """What provides this annotation; `component` is None where nothing marks it as injected."""
        if not component and self.sessions is not None and hint in self.sessions.types:
            return Need(hint, session=True)
        if self._factory(hint, component or "") is not None:
            return Need(hint, component or "")
        if component:
            raise InvalidCall(
                f"nothing provides {hint!r} in the component {component!r}; add it to Jobs(providers=[…])"
            )
        if inspect.isclass(hint) and issubclass(hint, SESSION_TYPES):
            raise InvalidCall(self._no_session(hint))
        if is_request_type(hint):
            name = getattr(hint, "__name__", hint)
            raise RequestBound(
                f"a job cannot ask for a {name}: the request ends before the job. Pass the values that it needs, "
                f"for example request.url.path"
            )
        if component is not None:
            raise InvalidCall(f"nothing provides {hint!r}; add it to Jobs(providers=[…])")
        return None

    def _no_session(self, hint: type) -> str:
        if self.sessions is None:
            return f"nothing provides {hint.__name__}: give Jobs(session_factory=async_sessionmaker(engine))"
        has = self.sessions.types[0].__name__
        return f"session_factory gives {has}, not {hint.__name__}; annotate the parameter as {has}"

    def owner(self, function: Any) -> Need | None:
        """The provided class that this plain function is a method of."""
        if "." not in function.__qualname__.rpartition("<locals>.")[2] or self.container is None:
            return None
        owners = [
            key.type_hint
            for registry in _registries(self.container)
            for key in list(registry.factories)
            if inspect.isclass(key.type_hint) and _has_method(key.type_hint, function)
        ]
        exact = [owner for owner in owners if f"{owner.__qualname__}.{function.__name__}" == function.__qualname__]
        found = list(dict.fromkeys(exact or owners))
        if len(found) > 1:
            names = ", ".join(one.__qualname__ for one in found)
            raise InvalidCall(f"{function.__qualname__} belongs to several services ({names}); use enqueue_with")
        if not found:
            self._refuse_method(function)
            return None
        return Need(found[0])

    def _refuse_method(self, function: Any) -> None:
        parameters = list(inspect.signature(function).parameters)
        if parameters[:1] == ["self"]:
            owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
            raise InvalidCall(
                f"{function.__qualname__} is a method, and nothing provides {owner}: add it to Jobs(providers=[…]), "
                f"for example provider.provide({owner})"
            )

    def check(self, need: Need, *, threaded: bool, where: str) -> None:
        """Refuse a dependency that reaches a request, or a session of the wrong kind."""
        if threaded and (issubclass(need.hint, AsyncSession) if inspect.isclass(need.hint) else False):
            raise InvalidCall(
                f"{where} asks for {need.hint.__name__}, which works on the event loop only: make the function "
                f"async def, or give a sync sessionmaker as session_factory and ask for Session"
            )
        if need.session:
            return
        chain = self._request_in(DependencyKey(need.hint, need.component), ())
        if chain:
            path = " → ".join(getattr(hint, "__name__", str(hint)) for hint in chain)
            raise RequestBound(
                f"{where} needs {path}, which belongs to a request; jobs have none of it. "
                f"Give the job a service that takes plain values instead"
            )

    def _request_in(self, key: DependencyKey, seen: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if key.type_hint in seen:
            return None
        chain = (*seen, key.type_hint)
        if is_request_type(key.type_hint):
            return chain
        factory = self._factory(key.type_hint, key.component or "")
        if factory is None:
            return None
        for dependency in (*factory.dependencies, *factory.kw_dependencies.values()):
            found = self._request_in(dependency, chain)
            if found:
                return found
        return None

    def _factory(self, hint: Any, component: str = "") -> Any:
        if self.container is None:
            return None
        try:
            hash(hint)
        except TypeError:
            return None
        key = DependencyKey(hint, component)
        found = (registry.get_factory(key) for registry in _registries(self.container))
        return next((factory for factory in found if factory is not None), None)


class AttemptScope:
    """The scope of one attempt."""

    def __init__(self, scopes: Scopes, context: Context, thread: WorkerThread | None) -> None:
        self._scopes = scopes
        self._context = context
        self._thread = thread
        self._container: AsyncContainer | None = None
        self._manager: Any = None
        self._session: Any = None
        self._changes: Changes | None = None
        self._has_place = False
        self._entered = False
        self.uncommitted = False  # after a success: changes were left that closing did not commit either
        self.waiting_for_place = False

    async def open(self, injected: dict[str, Need], given: dict[str, Any]) -> dict[str, Any]:
        """Get what the function needs, less what the caller gave."""
        values: dict[str, Any] = {}
        for name, need in injected.items():
            if name in given:
                continue
            if need.session:
                values[name] = await self.session()
            else:
                values[name] = await self._request().get(need.hint, need.component)
        return values

    def _request(self) -> AsyncContainer:
        if self._container is None:
            assert self._scopes.container is not None
            context = {AttemptScope: self} if self._scopes.sessions else None
            self._container = self._scopes.container(context=context)
        return self._container

    async def session(self) -> Any:
        """The attempt's session, opened when first asked for."""
        if self._session is not None:
            return self._session
        sessions = self._scopes.sessions
        assert sessions is not None
        self.waiting_for_place = True
        await self._scopes.places.acquire()
        self._has_place, self.waiting_for_place = True, False
        manager = sessions.open()
        if not hasattr(manager, "__aenter__" if sessions.is_async else "__enter__"):
            raise InvalidOption(f"session_factory gave {manager!r}; it must be {FORMS}")
        self._manager = manager
        if sessions.is_async:
            session = await manager.__aenter__()
            self._entered = True
        else:
            session = await self.in_thread(self._enter, manager)
        if not isinstance(session, SESSION_TYPES[0] if sessions.is_async else SESSION_TYPES[1]):
            raise InvalidOption(f"session_factory yielded {session!r}, which is no {sessions.types[0].__name__}")
        sync_session = session.sync_session if isinstance(session, AsyncSession) else session
        self._changes = Changes(sync_session)
        self._session = session
        if not self._scopes.bind_known:
            with suppress(UnboundExecutionError):
                self._scopes.look_at(sync_session.get_bind())
        return session

    def _enter(self, manager: Any) -> Any:
        """In the thread: a cancel may have given up waiting for it, and closing must know."""
        session = manager.__enter__()
        self._entered = True
        return session

    def _exit(self, manager: Any, *details: Any) -> None:
        """In the thread, after `_enter` has ended there."""
        if self._entered:
            manager.__exit__(*details)

    @property
    def is_async(self) -> bool:
        """Whether its session is an AsyncSession."""
        return self._scopes.sessions is not None and self._scopes.sessions.is_async

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what may block in the attempt's thread, if it has one."""
        if self._thread is None:
            return function(*args)
        return await self._thread.call(self._context, function, *args)

    def lend(self) -> None:
        """Let another job have this one's session place while it waits."""
        if self._has_place:
            self._scopes.places.release()

    def take_back(self) -> None:
        """Have it again, even if there is one too many for a moment."""
        if self._has_place:
            self._scopes.places.take_back()

    async def close(self, error: BaseException | None) -> BaseException | None:
        """Close everything, the session last, with the body's error; gives a new error of closing itself."""
        raised = await self._close_container(error)
        changes = self._changes
        pending = error is None and changes is not None and changes.pending()
        commits = changes.commits if changes else 0
        try:
            closing = await self._close_session(error or raised)
        finally:
            if self._has_place:
                self._has_place = False
                self._scopes.places.release()
        self.uncommitted = pending and changes is not None and changes.commits == commits
        return raised or closing

    async def _close_container(self, error: BaseException | None) -> BaseException | None:
        if self._container is None:
            return None
        try:
            await self._container.close(error)
        except ExitError as group:
            return group.exceptions[0] if len(group.exceptions) == 1 else group
        except BaseException as raised:  # whatever closing raises is the job's error
            return raised
        return None

    async def _close_session(self, error: BaseException | None) -> BaseException | None:
        manager, self._manager = self._manager, None
        if manager is None:
            return None
        details = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
        try:
            if self._scopes.sessions is not None and not self._scopes.sessions.is_async:
                await self.in_thread(self._exit, manager, *details)
            elif self._entered:
                await manager.__aexit__(*details)
        except BaseException as raised:  # whatever closing raises is the job's error
            return None if raised is error else raised
        return None


def _session_provider(sessions: SessionFactory) -> Provider:
    async def session(scope: AttemptScope) -> Any:
        return await scope.session()

    provider = Provider(scope=Scope.REQUEST)
    provider.from_context(provides=AttemptScope)
    provides: Any = sessions.types[0] if len(set(sessions.types)) == 1 else AnyOf[tuple(dict.fromkeys(sessions.types))]
    provider.provide(session, provides=provides)
    return provider


def _registries(container: AsyncContainer) -> Iterable[Any]:
    registry: Any = container.registry
    while registry is not None:
        yield registry
        if registry.scope is Scope.REQUEST:
            return
        registry = registry.child_registry


def _has_method(cls: type, function: Any) -> bool:
    static = isinstance(inspect.getattr_static(cls, function.__name__, None), staticmethod)
    return not static and getattr(cls, function.__name__, None) is function
