"""What can be set from outside, each by one environment variable."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    data: Path
    """Where the database, uploads, maps and mail are kept. SAMPLE_DATA, default ./sample_data."""

    store: str | None
    """Where jobs wait and are remembered. SAMPLE_STORE, a database URL; default: memory."""

    import_pause: timedelta
    """How long an import rests after each batch, to be watched. SAMPLE_IMPORT_PAUSE, in seconds."""

    max_upload: int = 8 * 1024 * 1024
    """The largest request body that is read, in bytes."""

    @classmethod
    def from_environment(cls) -> "Settings":
        return cls(
            data=Path(os.environ.get("SAMPLE_DATA", "sample_data")).resolve(),
            store=os.environ.get("SAMPLE_STORE") or None,
            import_pause=timedelta(seconds=float(os.environ.get("SAMPLE_IMPORT_PAUSE", "0.12"))),
        )

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


settings = Settings.from_environment()
