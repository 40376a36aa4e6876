"""Databases that nobody has used yet: files of SQLite, and one PostgreSQL server for a whole run."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Self

from benchmarks import postgres


class Places:
    """Gives out new databases; the server starts when the first is asked for, and ends with the `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def server(self) -> postgres.Server:
        """The server."""
        return self._stack.enter_context(postgres.server())

    @contextmanager
    def sqlite(self) -> Iterator[str]:
        """The path of a file that is not there yet."""
        with tempfile.TemporaryDirectory(prefix="asgi_jobs_sqlite_") as folder:
            yield str(Path(folder) / "jobs.db")

    @contextmanager
    def postgresql(self) -> Iterator[str]:
        """The URL of an empty database."""
        name = f"bench_{next(self._numbers)}"
        yield self.server.create(name)
        self.server.drop(name)
