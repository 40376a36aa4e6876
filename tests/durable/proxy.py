"""A wire between application and database that can go silent without breaking, as a network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes on to a port of this machine, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._flows = _flowing()
        self._pairs: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self.port = 0

    # What happens to the network

    def fall_silent(self) -> None:
        """From now on nothing comes through, and nobody is told; new connections are accepted and not served."""
        self._flows.clear()

    def go_on(self) -> None:
        """What was held back comes through."""
        self._flows.set()

    def strand(self) -> None:
        """The connections that there are stay silent for ever; new ones are served."""
        self._flows.clear()
        self._flows = _flowing()

    def cut(self) -> None:
        """Silence; and the server, whose keepalives nobody answers, closes its ends."""
        self.fall_silent()
        _abort(self._servers)

    def drop(self) -> None:
        """Break every connection; new ones are served."""
        _abort(self._clients)
        _abort(self._servers)
        self._flows.set()

    # How

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self._clients.add(writer)
        flows = self._flows
        try:
            with suppress(OSError, asyncio.CancelledError):
                await flows.wait()
                await self._join(reader, writer, flows)
                await flows.wait()
        finally:
            self._pairs.discard(task)
            self._clients.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._servers.add(back)
        ways = [asyncio.ensure_future(_pass(*way, flows)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            self._servers.discard(back)
            back.transport.abort()

    async def end(self) -> None:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        if pairs:
            await asyncio.wait(pairs)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            await flows.wait()
            writer.write(data)
            await writer.drain()


def _flowing() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _abort(writers: set[asyncio.StreamWriter]) -> None:
    for writer in list(writers):
        writer.transport.abort()


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy before a port, running."""
    made = Proxy(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.end()
