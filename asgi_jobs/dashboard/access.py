"""Who may look at the dashboard, and who may act."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import ipaddress
import logging
from datetime import datetime, timedelta
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from asgi_jobs.dashboard.keyfile import VARIABLE, Key, find_key

if TYPE_CHECKING:
    from asgi_jobs.settings import Settings

FORWARDED = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip"}
)
SAY_AGAIN = timedelta(minutes=1)


class Rights(IntEnum):
    """What a visitor may do."""

    NONE = 0
    LOOK = 1
    ACT = 2


class Access:
    """Decides, once a request, what its sender may do; and tells the log how to get in.

    Args:
        settings: `authorize` is the rule: None for the holder of the key, "local", or a callable.
    """

    def __init__(self, settings: Settings) -> None:
        self.rule: Any = settings.authorize
        self._logger = logging.getLogger("asgi_jobs")
        self._said: datetime | None = None

    @cached_property
    def key(self) -> Key:
        """The key, found when it is first needed: making a `Jobs` touches no file."""
        return find_key()

    @property
    def keyed(self) -> bool:
        """Whether it is the key that opens the page."""
        return self.rule is None

    # Telling the log

    def announce(self, logger: logging.Logger) -> None:
        """Say how to get in, when the engine starts. Says nothing where `authorize` is given."""
        self._logger = logger
        if self.keyed:
            logger.warning("The jobs page opens with its key: add %s to its address", self._hint())

    def refused(self, now: datetime) -> None:
        """Say it again when somebody stands before a closed door, at most once a minute."""
        if not self.keyed or (self._said is not None and now - self._said < SAY_AGAIN):
            return
        self._said = now
        self._logger.warning("Refused to show the jobs page: add %s to its address", self._hint())

    def _hint(self) -> str:
        # A key from the environment is known to whoever set it, and logs are read by more people.
        return f"?key=${VARIABLE}" if self.key.origin == "environment" else f"?key={self.key.value}"

    # The key and its cookie

    def opens(self, given: str) -> bool:
        """Whether this is the key."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.key.bytes)

    @cached_property
    def cookie(self) -> str:
        """What the browser keeps in the key's place; the key cannot be got back from it."""
        return hmac.digest(self.key.bytes, b"asgi_jobs dashboard cookie", "sha256").hex()

    @staticmethod
    def cookie_name(base: str) -> str:
        """One name a mount: a browser sends the cookies of outer paths along."""
        return f"asgi_jobs_{hashlib.sha256(base.encode()).hexdigest()[:8]}"

    # The decision

    async def rights(self, request: Request, base: str) -> Rights:
        """What the sender of this request may do."""
        if self.rule is None:
            given = request.cookies.get(self.cookie_name(base), "")
            return Rights.ACT if _equal(given, self.cookie) else Rights.NONE
        if self.rule == "local":
            return Rights.ACT if is_local(request) else Rights.NONE
        return await self._asked(request)

    async def _asked(self, request: Request) -> Rights:
        try:
            answer = self.rule(request)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception:
            self._logger.exception("authorize raised, so the visitor was refused")
            return Rights.NONE
        if inspect.iscoroutine(answer):  # somebody forgot an await: true to Python, no answer to us
            answer.close()
        if answer is True:
            return Rights.ACT
        return Rights.LOOK if isinstance(answer, str) and answer == "read" else Rights.NONE


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, to this machine, by nobody's hand.

    A proxy makes every visitor look local, so a forwarding header ends it; and a foreign Host is a name that
    somebody points at 127.0.0.1.
    """
    headers = request.headers
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers):
        return False
    hosts = headers.getlist("host")
    if request.client is None or len(hosts) != 1:
        return False
    return _is_loopback(request.client.host) and _is_loopback_name(hosts[0])


def _is_loopback_name(host: str) -> bool:
    name, bracket, rest = host.rpartition("]") if host.startswith("[") else host.partition(":")
    if bracket == "]":
        return _is_loopback(name[1:]) and (rest == "" or rest.startswith(":"))
    return name.lower() == "localhost" or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())
