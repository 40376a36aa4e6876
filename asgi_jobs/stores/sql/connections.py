"""The driver's connections to PostgreSQL: idle ones dropped, silent ones broken off, none left to a forked child."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

OPEN: WeakSet[Any] = WeakSet()
"""Sockets belong to the process, and so does this: a fork copies them all."""
SPARE = 1.0
KEPT: list[int] = []
"""Numbers of sockets that stay open until the process is dead."""


class Pooled:
    """Watches the connections of an engine's pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._idle: set[Any] = set()
        self._users: WeakKeyDictionary[Any, asyncio.Task[Any] | None] = WeakKeyDictionary()
        self._listeners = (("connect", self._made), ("checkout", self._taken), ("checkin", self._given_back))
        self.engine = engine
        for name, listener in self._listeners:
            event.listen(engine.sync_engine, name, listener, insert=True)

    def end(self) -> None:
        """Watch no longer."""
        for name, listener in self._listeners:
            event.remove(self.engine.sync_engine, name, listener)

    def drop_idle(self) -> None:
        """The server was away: those that nobody uses may be dead without having been closed."""
        while self._idle:
            self._idle.pop().terminate()

    @contextmanager
    def used(self, driver: Any) -> Iterator[None]:
        """A connection that somebody holds is used by this task now."""
        self._users[driver] = asyncio.current_task()
        try:
            yield
        finally:
            self._users[driver] = None

    def break_off(self, task: asyncio.Task[Any]) -> None:
        """End the connections that a task uses: what it asks there fails at once."""
        for driver, user in list(self._users.items()):
            if user is task:
                driver.terminate()

    def _made(self, connection: Any, _record: Any) -> None:
        driver = connection.driver_connection
        OPEN.add(driver)
        self._users[driver] = asyncio.current_task()

    def _taken(self, connection: Any, _record: Any, _fairy: Any) -> None:
        driver = connection.driver_connection
        self._idle.discard(driver)
        if driver.is_closed():  # all are as old: the pool makes new ones
            raise InvalidatePoolError
        self._users[driver] = asyncio.current_task()

    def _given_back(self, connection: Any, _record: Any) -> None:
        if connection is None:
            return
        driver = connection.driver_connection
        self._users.pop(driver, None)
        if not driver.is_closed():
            self._idle.add(driver)


@asynccontextmanager
async def in_time(seconds: float | None, break_off: Callable[[asyncio.Task[Any]], None]) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, for what uses connections.

    A cancel would have the driver ask the server to stop the statement, and wait for ever for the answer of one that
    is not there any more.
    """
    task, late = asyncio.current_task(), False
    assert task is not None
    if seconds is None:
        yield
        return

    def stop() -> None:
        nonlocal late
        late = True
        break_off(task)

    timer = asyncio.get_running_loop().call_later(seconds, stop)
    try:
        async with asyncio.timeout(seconds + SPARE):  # where there is no connection yet, nothing is broken off
            yield
    except Exception as error:
        if late:
            raise TimeoutError(f"no answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of one of the driver's connections; None when it is closed."""
    transport = connection._transport
    return None if transport is None else transport.get_extra_info("socket")


def keep_for_ever(connection: Any) -> None:
    """A second handle of its socket, which nobody closes: the server sees the session end with the process."""
    found = socket_of(connection)
    if found is not None:
        KEPT.append(os.dup(found.fileno()))


def _in_forked_child() -> None:
    """An orphan that keeps a session open keeps its locks, too."""
    sockets = filter(None, map(socket_of, tuple(OPEN)))
    for number in (*KEPT, *(each.fileno() for each in sockets)):
        with suppress(OSError):  # the number stays taken, for somebody may close it yet
            os.dup2(os.open(os.devnull, os.O_RDWR), number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
