"""What is read: pages, counts, queues, places. No read waits for a writer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, or_, select

from asgi_jobs.job import JobState, Record
from asgi_jobs.stores.base import Place, Query, Standing, Worker
from asgi_jobs.stores.search import contains
from asgi_jobs.stores.sql.acting import Acting
from asgi_jobs.stores.sql.common import all_rows, scalar
from asgi_jobs.stores.sql.ids import is_id
from asgi_jobs.stores.sql.tables import FINISHED, SHORT, State, jobs, paused, workers

SEARCHED = 10_000
CHUNK = 500
"""Rows looked through between two turns of the loop."""
UNFINISHED = jobs.c.state < State.SUCCEEDED
WAITS = jobs.c.state == State.QUEUED


class Looking(Acting):
    """Reads the tables."""

    # Jobs

    async def find(self, query: Query) -> list[Record]:
        """See `Store.find`."""
        if query.before is not None and not is_id(query.before):
            return []
        if query.text is not None:
            return await self._search(query)
        rows = await self._read(partial(all_rows, self._found(query).limit(query.limit)))
        return [self._record(row) for row in rows]

    def _found(self, query: Query) -> Any:
        statement = select(*SHORT).order_by(jobs.c.id.desc())
        if query.state is not None:
            statement = statement.where(self._in_state(query.state))
        if query.queue is not None:
            statement = statement.where(jobs.c.queue == query.queue)
        if query.task is not None:
            statement = statement.where(jobs.c.task == query.task)
        if query.before is not None:
            statement = statement.where(jobs.c.id < query.before)
        return statement

    def _in_state(self, state: JobState) -> Any:
        """The condition, so worded that the index of unfinished or of unlucky jobs serves it."""
        held, now = jobs.c.state == State.HELD, self.time()
        if state is JobState.QUEUED:
            return UNFINISHED & or_(WAITS, held & (jobs.c.run_at <= now))
        if state is JobState.SCHEDULED:
            return UNFINISHED & or_(jobs.c.state == State.SCHEDULED, held & (jobs.c.run_at > now))
        if state is JobState.RUNNING:
            return UNFINISHED & (jobs.c.state == State.RUNNING)
        return jobs.c.state == next(one for one, name in FINISHED.items() if name is state)

    async def _search(self, query: Query) -> list[Record]:
        """Literally, upper and lower case alike, in every alphabet: which the databases would not agree on."""
        text, before = query.text or "", query.before
        found: list[Record] = []
        for _ in range(SEARCHED // CHUNK):
            statement = self._found(Query(query.state, query.queue, query.task, None, CHUNK, before)).limit(CHUNK)
            rows = await self._read(partial(all_rows, statement))
            found += [record for record in map(self._record, rows) if contains(record, text)]
            if len(found) >= query.limit or len(rows) < CHUNK:
                break
            before = rows[-1].id
        return found[: query.limit]

    # Numbers

    async def counts(self) -> dict[JobState, int]:
        """See `Store.counts`."""
        return await self._read(self._counts)

    def _counts(self, connection: Connection) -> dict[JobState, int]:
        found = dict.fromkeys(JobState, 0)
        state = func.count().label("n")
        later = (jobs.c.state == State.HELD) & (jobs.c.run_at > self.time())
        for row in connection.execute(select(jobs.c.state, state).group_by(jobs.c.state)):
            found[_plain(row.state)] += row.n
        delayed = connection.scalar(select(func.count()).select_from(jobs).where(later)) or 0
        found[JobState.SCHEDULED] += delayed
        found[JobState.QUEUED] -= delayed
        return found

    async def pending(self) -> int:
        """See `Store.pending`."""
        counted = select(func.count()).select_from(jobs).where(UNFINISHED, jobs.c.state != State.SCHEDULED)
        return int(await self._read(partial(scalar, counted)) or 0)

    async def _count_waiting(self) -> None:
        waiting = select(func.count()).select_from(jobs).where(UNFINISHED, jobs.c.state != State.RUNNING)
        self._waiting = int(await self._read(partial(scalar, waiting)) or 0)

    # Queues

    async def standings(self) -> list[Standing]:
        """See `Store.standings`."""
        standings = await self._read(self._standings)
        for standing in standings:  # rows until here: records belong to the loop
            standing.holders = [self._record(row) for row in standing.holders]
            standing.head = self._record(standing.head) if standing.head is not None else None
            standing.last_failed = self._record(standing.last_failed) if standing.last_failed is not None else None
        return standings

    def _standings(self, connection: Connection) -> list[Standing]:
        found: dict[str, Any] = {}  # standings, with rows where records will be

        def standing(name: str) -> Any:
            if name not in found:
                found[name] = Standing(name, self._limits.get(name, 1), 0, None, [], None, None)
            return found[name]

        for name in self._limits:
            standing(name)
        in_queue = jobs.c.queue.is_not(None)
        for row in connection.execute(select(paused)):
            standing(row.queue).paused = row.since_at - self._offset
        heads = []
        line = select(jobs.c.queue, func.count().label("n"), func.min(jobs.c.seq).label("head"))
        for row in connection.execute(line.where(WAITS, in_queue).group_by(jobs.c.queue)):
            standing(row.queue).queued = row.n
            heads.append((row.queue, row.head))
        for row in connection.execute(select(jobs.c.queue).where(jobs.c.state == State.SCHEDULED, in_queue)):
            standing(row.queue)
        for row in connection.execute(select(*SHORT).where(jobs.c.slot.is_not(None)).order_by(jobs.c.seq)):
            standing(row.queue).holders.append(row)
        self._add_heads(connection, found, heads)
        self._add_failures(connection, found)
        return list(found.values())

    def _add_heads(self, connection: Connection, found: dict[str, Any], heads: Sequence[tuple[str, int]]) -> None:
        for start in range(0, len(heads), CHUNK):
            places = [seq for _, seq in heads[start : start + CHUNK]]
            names = [name for name, _ in heads[start : start + CHUNK]]
            which = WAITS & jobs.c.queue.in_(names) & jobs.c.seq.in_(places)
            for row in connection.execute(select(*SHORT).where(which)):
                found[row.queue].head = row

    def _add_failures(self, connection: Connection, found: dict[str, Any]) -> None:
        failed = (jobs.c.state == State.FAILED) & jobs.c.queue.is_not(None)
        last = select(func.max(jobs.c.id)).where(failed).group_by(jobs.c.queue).scalar_subquery()
        for row in connection.execute(select(*SHORT).where(jobs.c.id.in_(last))):
            if row.queue in found:
                found[row.queue].last_failed = row

    async def holders(self, record: Record) -> Sequence[Record]:
        """See `Store.holders`."""
        if record.queue is None:
            return ()
        held = jobs.c.slot.is_not(None) & (jobs.c.queue == record.queue)
        rows = await self._read(partial(all_rows, select(*SHORT).where(held).order_by(jobs.c.seq)))
        if len(rows) < self._limits.get(record.queue, 1):
            return ()
        return [self._record(row) for row in rows]

    async def place(self, record: Record) -> Place | None:
        """See `Store.place`."""
        found = await self._read(partial(self._place, record))
        if found is None:
            return None
        position, behind = found
        return Place(position, None if behind is None else self._record(behind))

    def _place(self, record: Record, connection: Connection) -> tuple[int, Any] | None:
        own = (jobs.c.id == record.id) & WAITS & jobs.c.queue.is_not(None)
        seq = connection.scalar(select(jobs.c.seq).where(own))
        if seq is None or record.queue is None:
            return None
        before = WAITS & (jobs.c.queue == record.queue) & (jobs.c.seq < seq)
        ahead = connection.scalar(select(func.count()).select_from(jobs).where(before)) or 0
        behind = select(*SHORT).where(before).order_by(jobs.c.seq.desc()).limit(1)
        if not ahead:
            held = jobs.c.slot.is_not(None) & (jobs.c.queue == record.queue)
            behind = select(*SHORT).where(held).order_by(jobs.c.seq).limit(1)
        return ahead + 1, connection.execute(behind).one_or_none()

    async def waiting_in(self, queue: str, limit: int) -> list[Record]:
        """See `Store.waiting_in`."""
        which = UNFINISHED & (jobs.c.queue == queue) & (jobs.c.state != State.RUNNING)
        rows = await self._read(partial(all_rows, select(*SHORT).where(which).order_by(jobs.c.seq).limit(limit)))
        return [self._record(row) for row in rows]

    # Processes

    async def workers(self) -> list[Worker]:
        """See `DurableStore.workers`."""
        rows, running, alive = await self._read(self._workers)
        runs = defaultdict(list)
        for row in running:
            runs[row.worker].append(self._record(row))
        return [
            Worker(
                id=row.id,
                host=row.host,
                pid=row.pid,
                started=row.started_at,
                seen=self.time() if row.id in alive else row.seen_at,
                alive=row.id in alive,
                concurrency=row.concurrency,
                tasks=tuple(json.loads(row.tasks)),
                running=tuple(runs[row.id]),
            )
            for row in rows
        ]

    def _workers(self, connection: Connection) -> tuple[Sequence[Any], Sequence[Any], set[int]]:
        running = select(*SHORT).where(UNFINISHED, jobs.c.state == State.RUNNING).order_by(jobs.c.seq)
        rows = connection.execute(select(workers).order_by(workers.c.id)).all()
        return rows, connection.execute(running).all(), self._alive(connection)

    def _alive(self, connection: Connection) -> set[int]:
        raise NotImplementedError

    async def unknown_tasks(self) -> dict[str, int]:
        """See `DurableStore.unknown_tasks`."""
        return await self._read(self._unknown_tasks)

    def _unknown_tasks(self, connection: Connection) -> dict[str, int]:
        alive = self._alive(connection)
        known = set()
        for row in connection.execute(select(workers.c.id, workers.c.tasks).where(workers.c.concurrency > 0)):
            if row.id in alive:
                known.update(json.loads(row.tasks))
        counted = select(jobs.c.task, func.count().label("n")).where(UNFINISHED).group_by(jobs.c.task)
        return {row.task: row.n for row in connection.execute(counted) if row.task not in known}


def _plain(state: int) -> JobState:
    """The state of a row, held ones taken for queued."""
    if state == State.SCHEDULED:
        return JobState.SCHEDULED
    if state == State.RUNNING:
        return JobState.RUNNING
    return FINISHED.get(State(state), JobState.QUEUED)
