"""From what `Jobs(store=…)` was given to a database; what cannot work is refused here, with the remedy."""

from __future__ import annotations

import importlib.util
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from asgi_jobs.errors import InvalidOption, InvalidOptionType

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
FORMS = '"sqlite+aiosqlite:///jobs.db", "postgresql+asyncpg://user@host/database" or an AsyncEngine of one of these'


def address_of(store: Any, option: str = "store") -> tuple[URL, AsyncEngine | None]:
    """The URL of a store, and the engine where one was given.

    Raises:
        InvalidOptionType: it is neither a URL nor an async engine.
        InvalidOption: its database or its driver cannot be used.
    """
    engine = store if isinstance(store, AsyncEngine) else None
    url = engine.url if engine is not None else _parsed(store, option)
    wanted = DRIVERS.get(url.get_backend_name())
    if wanted is None:
        raise InvalidOption(f"{option}: {url.get_backend_name()!r} is no database that keeps jobs; give {FORMS}")
    if url.drivername != wanted:
        # `postgresql://` alone means psycopg2 to SQLAlchemy, which would block the loop.
        said = f"the driver of {url.drivername!r} is not {wanted.partition('+')[2]}"
        raise InvalidOption(f"{option}: {said}; write {wanted}://…")
    if importlib.util.find_spec(wanted.partition("+")[2]) is None:
        raise InvalidOption(f"{option}: {wanted} needs asyncpg: pip install 'asgi-jobs[postgresql]'")
    if url.get_backend_name() == "sqlite" and in_memory(url, engine):
        raise InvalidOption(f"{option}: SQLite in memory keeps nothing; give a file, or leave {option} out")
    return url, engine


def _parsed(store: Any, option: str) -> URL:
    if not isinstance(store, (str, URL)):
        raise InvalidOptionType(f"{option} must be {FORMS}, not {store!r}")
    try:
        return make_url(store)
    except ArgumentError:
        raise InvalidOption(f"{option}: this is no database URL; give {FORMS}") from None


def in_memory(url: URL, engine: AsyncEngine | None = None) -> bool:
    """Whether a SQLite database is no file."""
    database = url.database or ":memory:"
    static = engine is not None and isinstance(engine.pool, StaticPool)
    return static or ":memory:" in database or "mode=memory" in database or url.query.get("mode") == "memory"


def same_place(one: URL, other: URL) -> bool:
    """Whether two URLs lead to one database, whatever the driver."""
    if one.get_backend_name() != other.get_backend_name() or in_memory(one) or in_memory(other):
        return False
    return (one.host, one.port, one.database, one.query.get("host")) == (
        other.host,
        other.port,
        other.database,
        other.query.get("host"),
    )
