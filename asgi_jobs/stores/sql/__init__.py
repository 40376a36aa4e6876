"""Jobs in a database: SQLite for one machine, PostgreSQL for many."""

from asgi_jobs.stores.sql.store import SqlStore
from asgi_jobs.stores.sql.tables import metadata

__all__ = ["SqlStore", "metadata"]
