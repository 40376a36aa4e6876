"""How jobs get into a durable store: through the writer, or as rows of the transaction that they hang on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from typing import TYPE_CHECKING

from asgi_jobs.engine.writer import Writer, answer_of, settle
from asgi_jobs.errors import NotRunning, NotStored, QueueFull

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from asgi_jobs.engine.engine import Engine
    from asgi_jobs.job import Record
    from asgi_jobs.stores.base import DurableStore

LOOK_AT_LOOP = 1.0
"""Seconds between the looks of a thread that waits for its job to be stored: is there still a loop that stores it?"""
ROLLED_BACK = "its transaction was rolled back, so the job does not exist"
OPEN = ("starting", "running", "stopping")


class Entrance:
    """Takes jobs in: on the loop, in any thread, and wherever a session commits."""

    def __init__(self, engine: Engine, store: DurableStore, max_queued: int) -> None:
        self._engine = engine
        self._store = store
        self._max_queued = max_queued
        self._written: set[Record] = set()  # rows of transactions that have not ended yet
        self.writer = Writer(store, engine.announce)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new start, perhaps on a new loop."""
        self._written.clear()
        self.writer.open(loop)

    def accept(self, record: Record) -> Record:
        """Have a job stored; from another thread than the loop's, wait until it is."""
        self.reserve()
        if get_ident() != self._engine.thread_id:
            return self._accept_from_thread(record)
        self._put(record)
        return record

    def reserve(self) -> None:
        """Raise QueueFull if there is no room for one more."""
        self._store.refuse_full(1)
        if self.writer.unstored >= self._max_queued:
            raise QueueFull(f"{self._max_queued:,} jobs wait to be stored already (max_queued); nothing was enqueued")

    def _put(self, record: Record) -> None:
        details = record.detail()
        details.stored, details.unwritten = None, []
        self.writer.put(record)

    def _accept_from_thread(self, record: Record) -> Record:
        engine, ended = self._engine, Future[None]()
        with engine.door:
            error = engine.refuse()
            if error is not None:
                raise error
            assert engine.loop is not None
            engine.loop.call_soon_threadsafe(self._put_for_thread, record, ended)
        while not ended.done():
            if engine.loop.is_closed():
                raise NotRunning("the event loop of the job engine was closed before the job was stored")
            try:
                ended.result(LOOK_AT_LOOP)
            except TimeoutError:
                continue
        return answer_of(record)

    def _put_for_thread(self, record: Record, ended: Future[None]) -> None:
        self._put(record)
        unwritten = record.detail().unwritten
        if unwritten is None:  # refused at once
            ended.set_result(None)
            return
        waiting = asyncio.get_running_loop().create_future()
        waiting.add_done_callback(lambda _: ended.set_result(None))
        unwritten.append(waiting)

    # on_commit: wherever the session commits

    def write(self, session: Session, records: list[Record]) -> None:
        """Before the commit, on the store's own database: the jobs are rows of the same transaction."""
        self._store.write(session, records)
        self._written.update(records)

    def accept_committed(self, records: list[Record]) -> None:
        """The transaction has committed."""
        self._on_loop(self._committed, records)

    def drop(self, records: list[Record]) -> None:
        """The transaction was rolled back. Called by the garbage collector, too: it waits for nothing."""
        self._on_loop(self._rolled_back, records)

    def _on_loop(self, function: Callable[[list[Record]], None], records: list[Record]) -> None:
        loop = self._engine.loop
        if get_ident() == self._engine.thread_id or loop is None or loop.is_closed():
            function(records)
        else:
            loop.call_soon_threadsafe(function, records)

    def _committed(self, records: list[Record]) -> None:
        written = [record for record in records if record in self._written]
        self._written.difference_update(written)
        if written:
            self._store.written(written)
            for record in written:
                settle(record, None)
            if self._engine.status in OPEN:
                self._engine.announce(written)
        for record in records:
            if record not in written:
                self._put_committed(record)

    def _put_committed(self, record: Record) -> None:
        details = record.detail()
        details.unwritten = details.unwritten or []
        self.writer.put(record)

    def _rolled_back(self, records: list[Record]) -> None:
        self._written.difference_update(records)
        for record in records:
            settle(record, NotStored(ROLLED_BACK))
