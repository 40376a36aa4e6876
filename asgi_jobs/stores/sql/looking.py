"""What is read: pages, counts, queues, places. No read waits for a writer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, literal_column, select, true

from asgi_jobs.job import JobState, Record
from asgi_jobs.stores.base import COUNTED, Minute, Place, Query, Standing, Worker
from asgi_jobs.stores.search import contains
from asgi_jobs.stores.sql.acting import Acting
from asgi_jobs.stores.sql.common import all_rows, scalar
from asgi_jobs.stores.sql.hour import count
from asgi_jobs.stores.sql.ids import is_id
from asgi_jobs.stores.sql.tables import FINISHED, SHORT, State, jobs, meta, paused, workers

SEARCHED = 10_000
CHUNK = 500
"""Rows looked through between two turns of the loop."""
UNFINISHED = jobs.c.state < State.SUCCEEDED
WAITS = jobs.c.state == State.QUEUED
# As the partial indexes have it, and by their columns: without that a planner reads all jobs to find these few.
RUNS = (jobs.c.state == literal_column(str(int(State.RUNNING)))) & jobs.c.worker.is_not(None)
DELAYED = (jobs.c.state == literal_column(str(int(State.SCHEDULED)))) & jobs.c.run_at.is_not(None)


class Looking(Acting):
    """Reads the tables."""

    # Jobs

    async def find(self, query: Query) -> list[Record]:
        """See `Store.find`."""
        if query.before is not None and not is_id(query.before):
            return []
        if query.text is not None:
            return await self._search(query)
        return [self._record(row) for row in await self._read(partial(self._page, query))]

    def _page(self, query: Query, connection: Connection) -> Sequence[Any]:
        """One page, newest first. What stands in two states for the database is looked for in each, by the index."""
        parts = self._in_state(query.state) if query.state is not None else [None]
        rows = [row for part in parts for row in connection.execute(self._found(query, part))]
        return rows if len(parts) == 1 else sorted(rows, key=lambda row: row.id, reverse=True)[: query.limit]

    def _found(self, query: Query, part: Any) -> Any:
        statement = select(*SHORT).order_by(jobs.c.id.desc()).limit(query.limit)
        if part is not None:
            statement = statement.where(part)
        if query.queue is not None:
            statement = statement.where(jobs.c.queue == query.queue)
        if query.task is not None:
            statement = statement.where(jobs.c.task == query.task)
        if query.before is not None:
            statement = statement.where(jobs.c.id < query.before)
        return statement

    def _in_state(self, state: JobState) -> list[Any]:
        held, now = jobs.c.state == State.HELD, self.time()
        if state is JobState.QUEUED:
            return [jobs.c.state == State.QUEUED, held & (jobs.c.run_at <= now)]
        if state is JobState.SCHEDULED:
            return [jobs.c.state == State.SCHEDULED, held & (jobs.c.run_at > now)]
        if state is JobState.RUNNING:
            return [jobs.c.state == State.RUNNING]
        return [jobs.c.state == next(one for one, name in FINISHED.items() if name is state)]

    async def _search(self, query: Query) -> list[Record]:
        """Literally, upper and lower case alike, in every alphabet: which the databases would not agree on."""
        text, before = query.text or "", query.before
        found: list[Record] = []
        for _ in range(SEARCHED // CHUNK):
            rows = await self._read(partial(self._page, replace(query, text=None, limit=CHUNK, before=before)))
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

    async def hour(self) -> list[Minute | None]:
        """See `Store.hour`."""
        now, hour = self.time(), self._hour
        if stale := hour.stale(now):
            hour.learn(await self._read(partial(count, stale)), now)
        return hour.minutes(now)

    async def pending(self) -> int:
        """See `Store.pending`."""
        return await self._count(State.QUEUED, State.HELD, State.RUNNING)

    async def _count_waiting(self) -> None:
        self._waiting = await self._count(State.SCHEDULED, State.QUEUED, State.HELD)

    async def _count(self, *states: State) -> int:
        counted = select(func.count()).select_from(jobs).where(jobs.c.state.in_(states))
        return int(await self._read(partial(scalar, counted)) or 0)

    # Queues

    async def standings(self, names: Sequence[str] | None = None, limit: int | None = None) -> list[Standing]:
        """See `Store.standings`."""
        standings = await self._read(partial(self._standings, names, limit))
        for standing in standings:  # rows until here: records belong to the loop
            standing.holders = [self._record(row) for row in standing.holders]
            standing.head = self._record(standing.head) if standing.head is not None else None
            standing.last_failed = self._record(standing.last_failed) if standing.last_failed is not None else None
        return standings

    def _standings(self, names: Sequence[str] | None, limit: int | None, connection: Connection) -> list[Any]:
        found: dict[str, Any] = {}  # standings, with rows where records will be

        def standing(name: str) -> Any:
            if name not in found:
                found[name] = Standing(name, self._limits.get(name, 1), 0, None, [], None, None)
            return found[name]

        for name in self._limits:
            if names is None or name in names:
                standing(name)
        for row in connection.execute(select(paused).where(_of(paused.c.queue, names))):
            standing(row.queue).paused = row.since_at - self._offset
        held = jobs.c.slot.is_not(None) & _of(jobs.c.queue, names)
        for row in connection.execute(select(*SHORT).where(held).order_by(jobs.c.seq)):
            standing(row.queue).holders.append(row)
        column = jobs.c.queue.concat("")  # no column, or SQLite would look for its values in an index of all jobs
        delayed = select(column).where(DELAYED, column.is_not(None), _of(column, names)).distinct().limit(limit)
        for queue in connection.execute(delayed).scalars():
            standing(queue)
        for row in self._lines(connection, names, limit, list(found)):
            standing(row.queue).queued = row.n
            standing(row.queue).head = row.head
        self._add_heads(connection, found)
        self._add_failures(connection, found)
        return list(found.values())

    def _lines(
        self, connection: Connection, names: Sequence[str] | None, limit: int | None, wanted: Sequence[str]
    ) -> Sequence[Any]:
        """How many wait in each queue, and the place of the first: of those wanted, and of others the oldest."""
        line = (
            select(jobs.c.queue, func.count().label("n"), func.min(jobs.c.seq).label("head"))
            .where(WAITS, jobs.c.queue.is_not(None), _of(jobs.c.queue, names))
            .group_by(jobs.c.queue)
        )
        if limit is None:
            return connection.execute(line).all()
        ours = [
            row
            for start in range(0, len(wanted), CHUNK)
            for row in connection.execute(line.where(jobs.c.queue.in_(wanted[start : start + CHUNK])))
        ]
        known = {row.queue for row in ours}
        oldest = connection.execute(line.order_by(func.min(jobs.c.seq)).limit(limit + len(known))).all()
        return [*ours, *[row for row in oldest if row.queue not in known][:limit]]

    def _add_heads(self, connection: Connection, found: dict[str, Any]) -> None:
        """In place of the places of those that are first, their rows."""
        heads = [standing for standing in found.values() if standing.head is not None]
        for start in range(0, len(heads), CHUNK):
            some = heads[start : start + CHUNK]
            places, queues = [one.head for one in some], [one.name for one in some]
            which = WAITS & jobs.c.queue.in_(queues) & jobs.c.seq.in_(places)
            rows = {row.queue: row for row in connection.execute(select(*SHORT).where(which))}
            for one in some:
                one.head = rows.get(one.name)

    def _add_failures(self, connection: Connection, found: dict[str, Any]) -> None:
        queues = list(found)
        for start in range(0, len(queues), CHUNK):
            failed = (jobs.c.state == State.FAILED) & jobs.c.queue.in_(queues[start : start + CHUNK])
            last = select(func.max(jobs.c.id)).where(failed).group_by(jobs.c.queue).scalar_subquery()
            for row in connection.execute(select(*SHORT).where(jobs.c.id.in_(last))):
                found[row.queue].last_failed = row

    async def queue_count(self) -> int:
        """See `Store.queue_count`."""
        return await self._read(self._queue_count)

    def _queue_count(self, connection: Connection) -> int:
        unfinished = UNFINISHED & jobs.c.queue.is_not(None)
        counted = connection.scalar(select(func.count(jobs.c.queue.distinct())).where(unfinished)) or 0
        others = {*self._limits, *connection.execute(select(paused.c.queue)).scalars()}
        there = connection.execute(select(jobs.c.queue).where(unfinished, jobs.c.queue.in_(others)).distinct())
        return int(counted) + len(others - set(there.scalars()))

    async def holders(self, record: Record) -> Sequence[Record]:
        """See `Store.holders`."""
        if record.queue is None:
            return ()
        held = jobs.c.slot.is_not(None) & (jobs.c.queue == record.queue)
        rows = await self._read(partial(all_rows, select(*SHORT).where(held).order_by(jobs.c.seq)))
        if len(rows) < self._limits.get(record.queue, 1):
            return ()
        return [self._record(row) for row in rows]

    async def places(self, records: Sequence[Record]) -> dict[str, Place]:
        """See `Store.places`."""
        wanted = {record.id: record.queue for record in records if record.queue is not None}
        if not wanted:
            return {}
        found = await self._read(partial(self._places, wanted))
        return {
            id: Place(position, None if behind is None else self._record(behind))
            for id, (position, behind) in found.items()
        }

    def _places(self, wanted: dict[str, str], connection: Connection) -> dict[str, tuple[int, Any]]:
        lines = {queue: self._line(connection, queue) for queue in set(wanted.values())}
        waits = connection.execute(select(jobs.c.id).where(jobs.c.id.in_(list(wanted)), WAITS))
        places: dict[str, tuple[int, str | None]] = {}
        for id in waits.scalars():
            line = lines[wanted[id]]
            at = line.index(id) if id in line else None
            places[id] = (COUNTED + 1, None) if at is None else (at, line[at - 1])
        ids = {behind for _, behind in places.values() if behind is not None}
        rows = {row.id: row for row in connection.execute(select(*SHORT).where(jobs.c.id.in_(ids)))}
        return {id: (position, rows.get(behind or "")) for id, (position, behind) in places.items()}

    def _line(self, connection: Connection, queue: str) -> list[str]:
        """Who stands in a queue, in order, behind whoever holds a slot (or nobody, as an empty text)."""
        held = jobs.c.slot.is_not(None) & (jobs.c.queue == queue)
        holder = connection.scalar(select(jobs.c.id).where(held).order_by(jobs.c.seq).limit(1))
        line = select(jobs.c.id).where(WAITS, jobs.c.queue == queue).order_by(jobs.c.seq).limit(COUNTED)
        return [holder or "", *connection.execute(line).scalars()]

    async def waiting_in(self, queue: str, limit: int) -> list[Record]:
        """See `Store.waiting_in`."""
        which = UNFINISHED & (jobs.c.queue == queue) & (jobs.c.state != State.RUNNING)
        rows = await self._read(partial(all_rows, select(*SHORT).where(which).order_by(jobs.c.seq).limit(limit)))
        return [self._record(row) for row in rows]

    # Processes

    async def workers(self, *, running: bool = True) -> list[Worker]:
        """See `DurableStore.workers`."""
        rows, busy, runs, alive, leader = await self._read(partial(self._workers, running))
        records = defaultdict(list)
        for row in runs:
            records[row.worker].append(self._record(row))
        return [
            Worker(
                id=row.id,
                host=row.host,
                pid=row.pid,
                started=row.started_at,
                seen=self.time() if row.id in alive else row.seen_at,
                alive=row.id in alive,
                standby=leader is not None and row.concurrency > 0 and row.id != leader,
                concurrency=row.concurrency,
                tasks=tuple(json.loads(row.tasks)),
                busy=busy.get(row.id, 0),
                running=tuple(records[row.id]),
            )
            for row in rows
        ]

    def _workers(self, running: bool, connection: Connection) -> Any:
        rows = connection.execute(select(workers).order_by(workers.c.id)).all()
        counted = select(jobs.c.worker, func.count().label("n")).where(RUNS).group_by(jobs.c.worker)
        busy = {row.worker: row.n for row in connection.execute(counted)}
        jobs_now = connection.execute(select(*SHORT).where(RUNS).order_by(jobs.c.seq)).all() if running else ()
        leader = connection.scalar(select(meta.c.value).where(meta.c.key == "leader"))
        return rows, busy, jobs_now, self._alive(connection), leader

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


def _of(column: Any, names: Sequence[str] | None) -> Any:
    return true() if names is None else column.in_(list(names))
