"""The key that opens the dashboard: from the environment, else kept for this user on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "ASGI_JOBS_KEY"
_MADE = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and where it comes from: "environment", "file" or "process"."""

    value: str
    origin: str

    @property
    def bytes(self) -> bytes:
        """The key as bytes, to compare in constant time."""
        return self.value.encode("utf-8", "surrogateescape")


def find_key() -> Key:
    """The key of this process.

    `ASGI_JOBS_KEY` where it is set. Else a random one in a file that only this user can read, so that it
    survives a reload and several server processes share it. Where that cannot be: one for this process.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Key(given, "environment")
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return Key(_kept(state_directory() / "key"), "file")
    return Key(secrets.token_urlsafe(24), "process")


def state_directory() -> Path:
    """Where this platform wants a program to keep what it remembers for a user."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "asgi_jobs"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "asgi_jobs"
    # The XDG base directory specification: a relative path counts as unset.
    given = Path(os.environ.get("XDG_STATE_HOME") or ".")
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "asgi_jobs"


def _kept(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _create(path, secrets.token_urlsafe(24))
    return _read(path)


def _create(path: Path, key: str) -> None:
    """Put the key there whole, or leave the one that another process was quicker with."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(key)
        # A link appears with its content or not at all, and fails where one is: nobody reads half a key.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def _read(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle) as file:
        about = os.fstat(file.fileno())
        key = file.read(256).strip()
    if not stat.S_ISREG(about.st_mode) or not _MADE.fullmatch(key):
        raise ValueError(f"{path} holds no key")
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o077):
        raise ValueError(f"others can read {path}")
    return key
