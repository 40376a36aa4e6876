"""`atomic=True`: a job's success is a row of its own session's transaction, so its effects happen exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from asgi_jobs.engine.commit import bind_of, sync_session
from asgi_jobs.errors import InvalidOption, InvalidState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from asgi_jobs.call import Plan
    from asgi_jobs.engine.scope import Scopes
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import DurableStore

ELSEWHERE = (
    "atomic=True needs the job's session on the database that the jobs are stored in, for one transaction cannot "
    "span two; give session_factory and store the same database"
)


class TakenOver(Exception):
    """The job is not this process's any more: what its session did is rolled back."""


def check_declared(plan: Plan, scopes: Scopes, store: DurableStore) -> None:
    """Refuse what cannot be atomic, as far as it is known when a task is declared.

    Raises:
        InvalidOption: there is no session, or it is on another database.
    """
    if not any(need.session for need in plan.injected.values()):
        raise InvalidOption(
            f"{plan.label}: atomic=True needs Jobs(session_factory=…) and a parameter for the session, in whose "
            "transaction the job's success is stored"
        )
    bind = scopes.sessions.bind if scopes.sessions is not None else None
    bind = getattr(bind, "sync_engine", bind)
    if bind is not None and not store.owns(bind):
        raise InvalidOption(f"{plan.label}: {ELSEWHERE}")


def check_session(session: Any, store: DurableStore) -> None:
    """The same before the body, when the session is there.

    Raises:
        InvalidOption: it is on another database.
    """
    bind = bind_of(sync_session(session))
    if bind is None or not store.owns(bind):
        raise InvalidOption(ELSEWHERE)


@contextmanager
def no_commit(session: Any) -> Iterator[None]:
    """Let the body commit nothing but savepoints: the engine commits all of it, with the job's success."""
    target = sync_session(session)
    event.listen(target, "before_commit", _refuse_commit)
    try:
        yield
    finally:
        event.remove(target, "before_commit", _refuse_commit)


def _refuse_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        raise InvalidState(
            "a job of a task with atomic=True may not commit: the engine commits its session together with the job's "
            "success, when it has returned. Use flush(), or begin_nested() for savepoints"
        )


def commit_success(session: Session, store: DurableStore, record: Record, result: str | None) -> None:
    """Store the success in the session's transaction, and commit that. For a sync session, where that may block.

    Raises:
        TakenOver: the job is not ours any more; rolled back.
    """
    if not session.in_transaction():
        session.begin()
    session.flush()
    if not store.settle(session, record, result):
        session.rollback()
        raise TakenOver
    session.commit()
