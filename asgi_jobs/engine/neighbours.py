"""Whether several server processes run the same memory store: each would have jobs of its own."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import fcntl

ATTEMPTS = 5
SWEEP = 1_000
"""Most files looked at when joining, to remove what killed processes left."""


@dataclass(frozen=True, slots=True)
class Sign:
    """This process's file, which it holds locked."""

    name: str
    file: int
    pid: int


class Neighbours:
    """The processes of one server that make their `Jobs` in the same file: those with one parent process.

    Each holds the lock of a file of its own, named `<key>.<pid>.<token>`, in a directory that only this
    user can use. The lock is the operating system's, so it ends with the process however that dies; a file
    that nobody holds means nothing, and whoever finds one removes it. Where there are no such locks, or no
    such directory can be had, `count` says 1.

    Locks are POSIX ones: unlike `flock`, a forked child does not keep those of its parent. In return they
    go when the process closes *any* handle of the file, so a process never opens a file with its own pid.

    Args:
        origin: The file that makes the `Jobs`.
        directory: Where the files are; by default `asgi_jobs-<uid>` in the directory for temporary files.
    """

    def __init__(self, origin: str, *, directory: Path | None = None) -> None:
        path = Path(origin).absolute().as_posix()
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._origin = digest
        self._directory = directory
        self._key = ""
        self._sign: Sign | None = None

    def join(self) -> None:
        """Be seen by the others from now on; harmless when done already."""
        if sys.platform == "win32" or self._mine() is not None:
            return
        self._key = f"{os.getppid()}-{self._origin}"
        with suppress(OSError), self._open() as directory:
            _sweep(directory)
            self._sign = _put_up(directory, self._key)

    def count(self) -> int:
        """How many processes there are now, this one included; 1 where that cannot be found out."""
        if sys.platform == "win32" or (sign := self._mine()) is None:
            return 1
        try:
            if not os.fstat(sign.file).st_nlink:  # somebody tidied up the temporary files
                self.leave()
                self.join()
            with self._open() as directory:
                return 1 + len(_others(directory, self._key))
        except OSError:
            return 1

    def leave(self) -> None:
        """No longer be seen, and leave no file behind; harmless when not joined."""
        sign, self._sign = self._mine(), None
        if sign is None:
            return
        with suppress(OSError), self._open() as directory:
            os.unlink(sign.name, dir_fd=directory)
        os.close(sign.file)

    def _mine(self) -> Sign | None:
        """This process's sign; in a child that was forked since, its parent's does not count."""
        if self._sign is not None and self._sign.pid != os.getpid():
            os.close(self._sign.file)
            self._sign = None
        return self._sign

    @contextmanager
    def _open(self) -> Iterator[int]:
        """The directory, made when missing. An OSError when it is not this user's alone."""
        path = self._directory or Path(tempfile.gettempdir()) / f"asgi_jobs-{os.getuid()}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(directory)
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(f"{path} is not this user's alone")
            yield directory
        finally:
            os.close(directory)


def _put_up(directory: int, key: str) -> Sign | None:
    """A new file, locked. Another process may take it for one left behind before it is: then once more."""
    for _ in range(ATTEMPTS):
        name = f"{key}.{os.getpid()}.{secrets.token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=directory)
        with suppress(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return Sign(name, file, os.getpid())
        os.close(file)
    return None


def _others(directory: int, key: str) -> set[int]:
    """The pids of the other processes with this key that live."""
    pids: set[int] = set()
    for name, pid in _files(directory):
        if name.startswith(f"{key}.") and pid not in pids and _held(directory, name):
            pids.add(pid)
    return pids


def _sweep(directory: int) -> None:
    for name, _ in _files(directory)[:SWEEP]:
        _held(directory, name)


def _files(directory: int) -> list[tuple[str, int]]:
    """The files of other processes, with their pids."""
    own = os.getpid()
    parts = [(name, name.split(".")) for name in os.listdir(directory)]
    pids = [(name, int(part[1])) for name, part in parts if len(part) == 3 and part[1].isdecimal()]
    return [(name, pid) for name, pid in pids if pid != own]


def _held(directory: int, name: str) -> bool:
    """Whether a living process holds this file of another process; removed when not."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        return False
    except (BlockingIOError, PermissionError):  # POSIX leaves open which
        return True
    finally:
        os.close(file)
