"""Makes the tables, and refuses what this version cannot work with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, inspect, select

from asgi_jobs.errors import StoreUnusable
from asgi_jobs.stores.sql.tables import VERSION, jobs, meta, metadata


def prepare(connection: Connection, *, create_tables: bool) -> None:
    """See that the tables are there, and of this version.

    Raises:
        StoreUnusable: they are missing and must not be made, or belong to a newer version.
    """
    (_make if create_tables else _look)(connection)
    found = connection.scalar(select(meta.c.value).where(meta.c.key == "version"))
    if found is None:
        connection.execute(meta.insert(), [{"key": "version", "value": VERSION}])
    elif found > VERSION:
        raise StoreUnusable(
            f"the tables in the database are of schema version {found}, and this asgi_jobs knows {VERSION}: they "
            f"belong to a newer one. Update asgi_jobs here, or give this application a database of its own"
        )


def _make(connection: Connection) -> None:
    metadata.create_all(connection)


def _look(connection: Connection) -> None:
    found: Any = inspect(connection)
    if not found.has_table(jobs.name):
        raise StoreUnusable(
            f"the table {jobs.name} is not there, and create_tables=False: run the migration that makes it "
            f"(asgi_jobs.metadata has the tables, for Alembic's target_metadata), or leave create_tables out"
        )
