"""Sessions of jobs: one factory in one form, how many are open at once, and what they left uncommitted."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import SingletonThreadPool, StaticPool, TextClause, event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from asgi_jobs.errors import InvalidOptionType

SESSION_TYPES = (AsyncSession, Session)
_WRITING = ("insert", "update", "delete", "replace", "merge")
FORMS = (
    "an async_sessionmaker, async_sessionmaker.begin, an async context manager function, "
    "an async generator function, or a sync sessionmaker"
)


@dataclass(frozen=True, slots=True)
class SessionFactory:
    """A session factory in one form, whatever form it was given in."""

    open: Callable[[], Any]  # gives a context manager, async or not
    is_async: bool
    types: tuple[type, ...]  # the annotations that mean its session
    bind: Any = None  # its engine, where that can be told

    @classmethod
    def of(cls, given: Any) -> SessionFactory:
        """Make one of what `Jobs(session_factory=…)` was given."""
        maker = getattr(given, "__self__", given)  # async_sessionmaker.begin is a bound method
        if isinstance(maker, async_sessionmaker):
            own = (AsyncSession, *_session_classes(maker.class_, AsyncSession))
            return cls(given, True, own, maker.kw.get("bind"))
        if isinstance(maker, sessionmaker):
            own = (Session, *_session_classes(maker.class_, Session))
            return cls(given, False, own, maker.kw.get("bind"))
        if not callable(given) or (inspect.isclass(given) and not issubclass(given, SESSION_TYPES)):
            raise InvalidOptionType(f"session_factory must be {FORMS}, not {given!r}")
        return cls._of_function(given)

    @classmethod
    def _of_function(cls, given: Any) -> SessionFactory:
        inner = inspect.unwrap(given)
        if inspect.iscoroutinefunction(given):
            raise InvalidOptionType(f"session_factory {given!r} is a coroutine function; it must be {FORMS}")
        is_async = not (inspect.isgeneratorfunction(inner) or (inspect.isclass(given) and issubclass(given, Session)))
        if inspect.isasyncgenfunction(given):
            opener: Callable[[], Any] = asynccontextmanager(given)
        else:
            opener = contextmanager(given) if inspect.isgeneratorfunction(given) else given
        base: type = AsyncSession if is_async else Session
        session_class = _yielded(inner)
        if session_class is not None and not issubclass(session_class, SESSION_TYPES):
            raise InvalidOptionType(
                f"session_factory yields {session_class.__name__} by its annotation; it must yield a {base.__name__}"
            )
        if session_class is not None and issubclass(session_class, Session):
            is_async, base = is_async and inspect.isasyncgenfunction(inner), Session
        return cls(opener, is_async, (base, *_session_classes(session_class or base, base)))


class Limiter:
    """So many at once, first come, first served; a place that is lent may be taken back at any time."""

    def __init__(self, places: int) -> None:
        self.free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a place. A cancel leaves nothing behind."""
        if self.free > 0 and not self._waiting:
            self.free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release()  # the place came together with the cancel
            raise

    def take_back(self) -> None:
        """Take a place that was lent, now, even if for a moment there is one too many."""
        self.free -= 1

    def release(self) -> None:
        """Give a place to whoever waits longest."""
        self.free += 1
        while self.free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.free -= 1
                turn.set_result(None)


class Changes:
    """Whether a session has changes that nobody committed. Listens only while a job runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._flushed = False
        self._before: dict[SessionTransaction, bool] = {}  # a savepoint's rollback leaves what was before it
        self.commits = 0
        for name, listener in self._listeners():
            event.listen(session, name, listener)

    def _listeners(self) -> Iterable[tuple[str, Callable[..., None]]]:
        return (
            ("after_flush", self._after_flush),
            ("do_orm_execute", self._on_execute),
            ("after_commit", self._after_commit),
            ("after_rollback", self._after_rollback),
            ("after_transaction_create", self._after_create),
            ("after_transaction_end", self._after_end),
        )

    def _after_flush(self, *_: Any) -> None:
        self._flushed = True

    def _on_execute(self, state: Any) -> None:
        if state.is_insert or state.is_update or state.is_delete or _writes(state.statement):
            self._flushed = True

    def _after_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():  # else a savepoint was released, which keeps nothing yet
            self._flushed = False
            self.commits += 1

    def _after_rollback(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        self._flushed = savepoint is not None and self._before.get(savepoint, self._flushed)

    def _after_create(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._before[transaction] = self._flushed

    def _after_end(self, _: Session, ended: SessionTransaction) -> None:
        self._before.pop(ended, None)

    def pending(self) -> bool:
        """Whether there is anything that a commit would keep."""
        session = self._session
        return (
            self._flushed
            or bool(session.new or session.deleted)
            or any(session.is_modified(one) for one in session.dirty)  # dirty: also set to what it was
        )


def _writes(statement: Any) -> bool:
    return isinstance(statement, TextClause) and statement.text.lstrip().lower().startswith(_WRITING)


def shares_one_connection(bind: Any) -> bool:
    """In-memory SQLite, with all sessions on one connection."""
    engine = getattr(bind, "sync_engine", bind)
    engine = getattr(engine, "engine", engine)  # of a connection
    url, pool = getattr(engine, "url", None), getattr(engine, "pool", None)
    if url is None or url.get_backend_name() != "sqlite":
        return False
    database = url.database or ":memory:"
    in_memory = ":memory:" in database or "mode=memory" in database or url.query.get("mode") == "memory"
    return in_memory and isinstance(pool, (StaticPool, SingletonThreadPool))


def _session_classes(session_class: type, base: type) -> tuple[type, ...]:
    return tuple(one for one in session_class.__mro__ if issubclass(one, base) and one is not base)


def _yielded(function: Any) -> type | None:
    """The class that a generator function yields, by its return annotation."""
    try:
        annotation = typing.get_type_hints(function).get("return")
    except Exception:  # the annotation is a courtesy; without it we look at the value
        return None
    args = typing.get_args(annotation)
    hint = args[0] if args else annotation
    return hint if inspect.isclass(hint) and hint is not type(None) and hint is not object else None
