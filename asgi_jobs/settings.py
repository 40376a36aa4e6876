"""What `Jobs` was told, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

from asgi_jobs.errors import InvalidOption, InvalidOptionType
from asgi_jobs.task import check_timedelta

QUEUE_NAME_LIMIT = 200
NAME_LIMIT = 500
Authorize: TypeAlias = Callable[[Any], Any] | Literal["local"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting of `Jobs` that is a plain value; what each means is said there.

    Raises:
        InvalidOption, InvalidOptionType: a value cannot work; the message names the option and the remedy.
    """

    concurrency: int
    threads: int
    max_sessions: int
    queues: Mapping[str, int]
    max_queued: int
    retention: timedelta
    max_finished: int
    cleanup_interval: timedelta
    shutdown_timeout: timedelta
    stuck_after: timedelta
    authorize: Authorize
    origins: tuple[str, ...]
    title: str
    badge: str | None
    home_url: str | None
    templates: Path | None
    direct_url: str | None = None
    create_tables: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("concurrency", 0),
            ("threads", 1),
            ("max_sessions", 1),
            ("max_queued", 1),
            ("max_finished", 0),
        ):
            check_count(name, getattr(self, name), least)
        for name in ("cleanup_interval", "stuck_after"):
            check_timedelta(name, getattr(self, name))
        for name in ("retention", "shutdown_timeout"):
            check_timedelta(name, getattr(self, name), zero=True)
        self._check_queues()
        self._check_page()

    def _check_queues(self) -> None:
        if not isinstance(self.queues, Mapping):
            raise InvalidOptionType(f"queues must be a dict of queue name to limit, not {self.queues!r}")
        for name, limit in self.queues.items():
            check_queue(name, "each name in queues")
            check_count(f"queues[{name!r}]", limit, 1)

    def _check_page(self) -> None:
        if self.authorize is not None and self.authorize != "local" and not callable(self.authorize):
            raise InvalidOptionType(
                f'authorize must be a function of the request, "local" or None, not {self.authorize!r}'
            )
        if not isinstance(self.origins, tuple) or not all(isinstance(o, str) and "://" in o for o in self.origins):
            raise InvalidOption(f"origins must be texts such as 'https://example.com', not {self.origins!r}")
        for name in ("title", "badge", "home_url", "direct_url"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "title"):
                raise InvalidOptionType(f"{name} must be a text, not {value!r}")
        if self.home_url is not None and not self.home_url.startswith(("/", "http://", "https://")):
            raise InvalidOption(f"home_url must begin with /, http:// or https://, not {self.home_url!r}")
        if not isinstance(self.create_tables, bool):
            raise InvalidOptionType(f"create_tables must be True or False, not {self.create_tables!r}")
        if self.templates is not None and not self.templates.is_dir():
            raise InvalidOption(f"templates must be a directory, and {self.templates} is none")


def to_origins(origins: Any) -> Any:
    """One origin or several as a tuple; what is neither stays as it is, to be refused."""
    if isinstance(origins, str):
        return (origins,)
    return tuple(origins) if isinstance(origins, Iterable) else origins


def to_path(templates: str | os.PathLike[str] | None) -> Path | None:
    """The directory of `Jobs(templates=…)`."""
    if templates is None:
        return None
    try:
        return Path(templates)
    except TypeError:
        raise InvalidOptionType(f"templates must be the path of a directory, not {templates!r}") from None


def check_count(option: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionType(f"{option} must be a whole number, not {value!r}")
    if value < least:
        raise InvalidOption(f"{option} must be {least} or more, not {value}")


def check_text(option: str, value: object, remedy: str) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        raise InvalidOptionType(f"{option} must be a text, not {value!r}; {remedy}")


def check_queue(name: object, option: str = "queue") -> None:
    """Refuse what is no queue name: 1 to 200 characters that can be stored, no NUL."""
    if not isinstance(name, str):
        raise InvalidOptionType(f"{option} must be a text or None, not {name!r}; str(…) makes one")
    if not name or len(name) > QUEUE_NAME_LIMIT:
        raise InvalidOption(
            f"{option} must have 1 to {QUEUE_NAME_LIMIT} characters, not {len(name)}; hash a longer key"
        )
    if "\0" in name or not _encodable(name):
        raise InvalidOption(f"{option} {name!r} has a character that cannot be stored (NUL or half a surrogate pair)")


def clean_name(name: object) -> str:
    """A name for people: cut at 500 characters, with what cannot be stored replaced."""
    if not isinstance(name, str):
        raise InvalidOptionType(f"name must be a text, not {name!r}")
    name = name[:NAME_LIMIT]
    if "\0" in name or not _encodable(name):
        return name.replace("\0", "�").encode("utf-8", "replace").decode()
    return name


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
