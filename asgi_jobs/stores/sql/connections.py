"""The driver's connections to PostgreSQL: those that nobody uses can be dropped, and a forked child keeps none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

OPEN: WeakSet[Any] = WeakSet()
"""Sockets belong to the process, and so does this: a fork copies them all."""
KEPT: list[socket.socket] = []
"""Sockets that stay open until the process is dead."""


class Pooled:
    """Watches the connections of an engine's pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._idle: set[Any] = set()
        self._listeners = (("connect", self._made), ("checkout", self._taken), ("checkin", self._given_back))
        self.engine = engine
        for name, listener in self._listeners:
            event.listen(engine.sync_engine, name, listener)

    def end(self) -> None:
        """Watch no longer."""
        for name, listener in self._listeners:
            event.remove(self.engine.sync_engine, name, listener)

    def drop_idle(self) -> None:
        """The server was away: those that nobody uses may be dead without having been closed."""
        while self._idle:
            self._idle.pop().terminate()

    def _made(self, connection: Any, _record: Any) -> None:
        OPEN.add(connection.driver_connection)

    def _taken(self, connection: Any, _record: Any, _fairy: Any) -> None:
        driver = connection.driver_connection
        self._idle.discard(driver)
        if driver.is_closed():  # all are as old: the pool makes new ones
            raise InvalidatePoolError

    def _given_back(self, connection: Any, _record: Any) -> None:
        if connection is not None and not connection.driver_connection.is_closed():
            self._idle.add(connection.driver_connection)


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of one of the driver's connections; None when it is closed."""
    transport = connection._transport
    return None if transport is None else transport.get_extra_info("socket")


def keep_for_ever(connection: Any) -> None:
    """A second handle of its socket, which nobody closes: the server sees the session end with the process."""
    found = socket_of(connection)
    if found is not None:
        KEPT.append(socket.socket(fileno=os.dup(found.fileno())))


def _in_forked_child() -> None:
    """An orphan that keeps a session open keeps its locks, too."""
    sockets: Iterable[Any] = [*KEPT, *(socket_of(one) for one in tuple(OPEN))]
    for each in sockets:
        if each is not None:
            with suppress(OSError):  # the number stays taken, for somebody may close it yet
                os.dup2(os.open(os.devnull, os.O_RDWR), each.fileno())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
