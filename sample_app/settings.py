"""What can be set from outside, each by one environment variable."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


@dataclass(frozen=True, slots=True)
class Settings:
    data: Path
    """Where uploads, maps and mail are kept, and the database that is a file. SAMPLE_DATA, default ./sample_data."""

    store: str | None
    """Where jobs wait and are remembered, as a URL. SAMPLE_STORE: a path or URL of SQLite, or a URL of PostgreSQL;
    default: memory."""

    concurrency: int
    """How many jobs this process runs at once. SAMPLE_CONCURRENCY, default 100; 0 leaves them to workers."""

    import_pause: timedelta
    """How long an import rests after each batch, to be watched. SAMPLE_IMPORT_PAUSE, in seconds."""

    max_upload: int = 8 * 1024 * 1024
    """The largest request body that is read, in bytes."""

    @classmethod
    def from_environment(cls) -> "Settings":
        return cls(
            data=Path(os.environ.get("SAMPLE_DATA", "sample_data")).resolve(),
            store=to_url(os.environ.get("SAMPLE_STORE", "")),
            concurrency=int(os.environ.get("SAMPLE_CONCURRENCY", "100")),
            import_pause=timedelta(seconds=float(os.environ.get("SAMPLE_IMPORT_PAUSE", "0.12"))),
        )

    @property
    def store_name(self) -> str:
        """The store, for people."""
        if self.store is None:
            return "memory"
        return "SQLite" if self.store.startswith("sqlite") else "PostgreSQL"

    @property
    def database(self) -> str:
        """Where the application keeps its own rows: with the jobs, so that both are of one transaction."""
        return self.store or f"sqlite+aiosqlite:///{self.data / 'airfield.sqlite3'}"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def maps(self) -> Path:
        return self.data / "maps"

    @property
    def mail(self) -> Path:
        return self.data / "mail"

    def make_directories(self) -> None:
        for directory in (self.uploads, self.maps, self.mail):
            directory.mkdir(parents=True, exist_ok=True)
        (self.data / ".gitignore").write_text("*\n")  # nothing in there belongs into a repository


def to_url(given: str) -> str | None:
    """The URL of a database, with the driver that does not block; a path is a SQLite file."""
    if not given:
        return None
    scheme, separator, rest = given.partition("://")
    if not separator:
        return f"sqlite+aiosqlite:///{Path(given).resolve()}"
    return f"{DRIVERS.get(scheme, scheme)}://{rest}"


settings = Settings.from_environment()
