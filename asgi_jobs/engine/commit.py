"""`on_commit`: jobs that exist if and only if the transaction they were enqueued in commits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import ref

from sqlalchemy import event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from asgi_jobs.errors import InvalidOption, InvalidOptionType

P = TypeVar("P")
_INFO_KEY = "asgi_jobs.on_commit"

logger = logging.getLogger("asgi_jobs")


def hang(
    session: object,
    pending: P,
    *,
    deliver: Callable[[list[P]], None],
    drop: Callable[[list[P]], None],
    before: Callable[[Session, list[P]], None] | None = None,
) -> None:
    """Hang `pending` on the session's innermost transaction; one is begun, as by `session.add`, if need be.

    A released savepoint hands it to its parent, a rolled-back one drops it. What hangs on the root goes to
    `deliver` right after the commit, to `drop` when the transaction ends otherwise; both get lists in the
    order of the calls, and what they raise is logged, never raised into the user's `commit()`.

    Args:
        session: a Session or AsyncSession, or the scoped_session or async_scoped_session that has it.
        pending: what is handed to the call-backs.
        deliver: called where the commit runs: inside SQLAlchemy's greenlet and, with
            `async_sessionmaker.begin()`, in another asyncio task; in a thread for a sync session in a thread.
        drop: called likewise. For a session that is collected without an end it is called by the garbage
            collector, anywhere: it must not wait for a lock that this thread may hold.
        before: called before the root commits, after a flush, to write in the same transaction; what it
            raises fails the commit. Not called when the root is committed over a savepoint that was left
            open: `deliver` is then the first to hear of it.

    Raises:
        InvalidOptionType: `session` is no SQLAlchemy session.
        InvalidOption: the session cannot commit what is enqueued now.
    """
    target = sync_session(session)
    transaction = _transaction(target)
    _hanging(target).levels.setdefault(transaction, []).append(_Hung(pending, deliver, drop, before))


def sync_session(given: object) -> Session:
    """The `Session` behind what was passed as `on_commit`.

    Raises:
        InvalidOptionType: there is none.
    """
    session = given() if isinstance(given, scoped_session | async_scoped_session) else given
    if isinstance(session, AsyncSession):
        return session.sync_session
    if isinstance(session, Session):
        return session
    raise InvalidOptionType(
        f"on_commit must be the session whose commit the job waits for (Session, AsyncSession, or one of "
        f"their scoped registries), not {type(given).__name__}: on_commit=session"
    )


def bind_of(session: Session) -> Any:
    """The engine or connection of the session; None where it chooses one by what it is asked for."""
    try:
        return session.get_bind()
    except UnboundExecutionError:
        return None


@dataclass(slots=True)
class _Hung(Generic[P]):
    pending: P
    deliver: Callable[[list[P]], None]
    drop: Callable[[list[P]], None]
    before: Callable[[Session, list[P]], None] | None
    written: bool = False


@dataclass
class _Hanging:
    """What hangs on the transactions of one session.

    It is kept in `session.info`, so it goes with the session; a transaction refers to its session, but leaves
    `levels` when it ends, and until then the session refers to the transaction itself.
    """

    session: ref[Session]
    levels: dict[SessionTransaction, list[_Hung[Any]]] = field(default_factory=dict)

    def __del__(self) -> None:
        for hung in self.levels.values():
            _drop(hung)


def _transaction(session: Session) -> SessionTransaction:
    if not session.is_active:
        raise InvalidOption(
            "on_commit: this session's transaction has failed or is just being committed, so nothing can be "
            "added to it. After an error call session.rollback() first; in a commit hook enqueue without "
            "on_commit"
        )
    if not session.in_transaction():
        if not session.autobegin:
            raise InvalidOption(
                "on_commit: this session has no transaction and autobegin=False; call session.begin() first"
            )
        # Not "the next one that begins": a rollback() or close() in between would go unseen.
        session.begin()
    return _innermost(session)


def _innermost(session: Session) -> SessionTransaction:
    """The savepoint or root that what happens now belongs to (a flush has a transaction of its own)."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None
    return transaction


def _hanging(session: Session) -> _Hanging:
    found = session.info.get(_INFO_KEY)
    if isinstance(found, _Hanging) and found.session() is session:  # info may have been copied from another
        return found
    made = session.info[_INFO_KEY] = _Hanging(ref(session))
    event.listen(session, "before_commit", _before_commit)
    event.listen(session, "after_commit", _after_commit)
    event.listen(session, "after_transaction_end", _after_transaction_end)
    return made


def _before_commit(session: Session) -> None:
    levels = _hanging(session).levels
    # With a savepoint open this may be its release or the root's commit: the event does not tell.
    if session.in_nested_transaction() or not levels:
        return
    root = _innermost(session)
    if not any(one.before for one in levels.get(root, ())):
        return
    session.flush()  # what the flush enqueues belongs to this commit too
    by_writer: dict[Callable[[Session, list[Any]], None], list[_Hung[Any]]] = {}
    for one in levels[root]:
        if one.before is not None and not one.written:
            by_writer.setdefault(one.before, []).append(one)
    for before, hung in by_writer.items():
        before(session, [one.pending for one in hung])
        for one in hung:
            one.written = True  # a commit that fails and is tried again must not write twice


def _after_commit(session: Session) -> None:
    """A savepoint was released, or the root has committed."""
    levels = _hanging(session).levels
    ended = _innermost(session)
    hung = levels.pop(ended, [])
    if not ended.nested:
        _call((one.deliver, one.pending) for one in hung)
    elif hung:
        levels.setdefault(_boundary(ended.parent), []).extend(hung)


def _boundary(transaction: SessionTransaction | None) -> SessionTransaction:
    assert transaction is not None
    while not transaction.nested and transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """Whatever still hangs here was neither committed nor handed to a parent."""
    _drop(_hanging(session).levels.pop(transaction, ()))


def _drop(hung: Iterable[_Hung[Any]]) -> None:
    _call((one.drop, one.pending) for one in hung)


def _call(calls: Iterable[tuple[Callable[[list[Any]], None], Any]]) -> None:
    """One call for each call-back, with all that is for it; two `Jobs` may share a session."""
    together: dict[Callable[[list[Any]], None], list[Any]] = {}
    for callback, pending in calls:
        together.setdefault(callback, []).append(pending)
    for callback, pendings in together.items():
        try:
            callback(pendings)
        except Exception:
            logger.exception("on_commit: what was enqueued could not be handed on: %r", pendings)
