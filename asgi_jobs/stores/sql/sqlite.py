"""The store's statements for SQLite: one writer at a time, so nothing is locked, and small statements cost little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, text
from sqlalchemy.dialects.sqlite import insert

from asgi_jobs.stores.sql.database import Asked, Exchanged, Found, Told, Want, as_json, place
from asgi_jobs.stores.sql.schema import prepare
from asgi_jobs.stores.sql.tables import State, jobs, meta, ticks

T = TypeVar("T")
ToldBy: TypeAlias = dict[tuple[str, int], Told]
BUSY = 5.0
"""Seconds that a transaction waits for another process's; DESIGN: a plain await raises StoreLocked after these."""
READERS = 2
READS = "asgi_jobs_reads"
COUNTERS = ("place", "claim", "worker", "leader")  # the last is the id of the worker that runs jobs

COLUMNS = (
    "id", "queue", "task", "name", "args", "state", "source", "retry_of", "unique_key", "options", "enqueued_at",
    "since_at", "run_at",
)  # fmt: skip
INSERT = text(
    f"""
    INSERT INTO asgi_jobs (seq, {", ".join(COLUMNS)})
    SELECT :first + v.key, {", ".join(f"json_extract(v.value, '$.{name}')" for name in COLUMNS)}
    FROM json_each(:rows) v WHERE true ORDER BY v.key ON CONFLICT DO NOTHING RETURNING id
    """  # noqa: S608 - the columns are named above
)

# Without statistics SQLite takes the index on the state wherever it can, and then sorts all that waits: where that
# matters the statements name the index, or keep the state out of it by a `+`.
HAND_IN = text(
    """
    UPDATE asgi_jobs AS j SET
        state = CASE WHEN j.state = 4 THEN 4 WHEN o.state <> 2 THEN o.state
            WHEN j.cancel_at IS NOT NULL THEN 6 ELSE 2 END,
        slot = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN j.slot END,
        attempt = j.attempt - CASE WHEN j.state = 3 THEN coalesce(o.uncounted, 0) ELSE 0 END,
        run_at = CASE WHEN j.state = 3 AND o.state = 2 THEN :now + o.delay ELSE j.run_at END,
        since_at = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN :now ELSE j.since_at END,
        started_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL THEN j.started_at END,
        finished_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL
            THEN coalesce(j.finished_at, max(:now, j.started_at)) END,
        error_type = CASE WHEN j.state = 3 THEN o.error_type END,
        error_message = CASE WHEN j.state = 3 THEN o.error_message END,
        traceback = CASE WHEN j.state = 3 THEN o.traceback END,
        attempts = coalesce(o.attempts, j.attempts), result = coalesce(o.result, j.result),
        uncommitted = coalesce(o.uncommitted, j.uncommitted),
        progress = coalesce(o.progress, j.progress), log = coalesce(o.log, j.log),
        log_count = coalesce(o.log_count, j.log_count), moved_at = coalesce(o.moved_at, j.moved_at), waiting_at = NULL
    FROM (SELECT value ->> '$.id' AS id, value ->> '$.claim' AS claim, value ->> '$.state' AS state,
        value ->> '$.delay' AS delay, value ->> '$.uncounted' AS uncounted, value ->> '$.error_type' AS error_type,
        value ->> '$.error_message' AS error_message, value ->> '$.traceback' AS traceback,
        value ->> '$.attempts' AS attempts, value ->> '$.result' AS result, value ->> '$.uncommitted' AS uncommitted,
        value ->> '$.progress' AS progress, value ->> '$.log' AS log,
        value ->> '$.log_count' AS log_count, value ->> '$.moved_at' AS moved_at FROM json_each(:outcomes)) o
    WHERE j.id = o.id AND j.claim = o.claim AND (+j.state = 3 OR (+j.state = 4 AND j.slot IS NOT NULL))
    RETURNING id, claim, state, watched
    """
)

HELD = text(
    """
    SELECT * FROM (SELECT id, slot, seq FROM asgi_jobs j INDEXED BY asgi_jobs_held
        WHERE state = 2 AND run_at <= :now AND deaths < 2 AND task IN (SELECT value FROM json_each(:tasks))
        AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue) ORDER BY run_at, seq LIMIT :n)
    UNION ALL
    SELECT * FROM (SELECT id, slot, seq FROM asgi_jobs j INDEXED BY asgi_jobs_held
        WHERE state = 2 AND run_at <= :now AND deaths >= 2 AND task IN (SELECT value FROM json_each(:tasks))
        AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue) ORDER BY run_at, seq LIMIT :suspects)
    """
)

SWEEP = text(
    """
    WITH RECURSIVE sweep(queue, k) AS (
        SELECT * FROM (SELECT queue, 1 FROM asgi_jobs INDEXED BY asgi_jobs_waiting
            WHERE state = 1 AND queue IS NOT NULL AND queue > :cursor ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT queue FROM asgi_jobs INDEXED BY asgi_jobs_waiting
            WHERE state = 1 AND queue IS NOT NULL AND queue > s.queue ORDER BY queue LIMIT 1), s.k + 1
            FROM sweep s WHERE s.queue IS NOT NULL AND s.k < :depth)
    SELECT queue, k, NOT EXISTS (SELECT 1 FROM asgi_jobs t WHERE t.queue = s.queue AND t.slot = 0) AS idle
    FROM sweep s WHERE queue IS NOT NULL
    """
)

HEADS = text(
    """
    WITH lim(queue, n) AS (SELECT value ->> '$[0]', value ->> '$[1]' FROM json_each(:limits)),
    names(queue, n) AS (SELECT u.queue, coalesce((SELECT n FROM lim WHERE lim.queue = u.queue), 1) FROM (
        SELECT value AS queue FROM json_each(:names) UNION SELECT queue FROM lim) u
        WHERE NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = u.queue)),
    slots(queue, slot, n) AS (SELECT queue, 0, n FROM names UNION ALL
        SELECT queue, slot + 1, n FROM slots WHERE slot + 1 < n),
    open(queue, slot, rn) AS (SELECT queue, slot, row_number() OVER (PARTITION BY queue ORDER BY slot) FROM slots s
        WHERE NOT EXISTS (SELECT 1 FROM asgi_jobs t WHERE t.queue = s.queue AND t.slot = s.slot)),
    heads(queue, n, rn, seq) AS (
        SELECT queue, n, 1, (SELECT min(seq) FROM asgi_jobs v WHERE v.state = 1 AND v.queue = names.queue) FROM names
        UNION ALL SELECT queue, n, rn + 1, (SELECT min(seq) FROM asgi_jobs v WHERE v.state = 1 AND v.queue = h.queue
            AND v.seq > h.seq) FROM heads h WHERE h.rn < h.n AND h.seq IS NOT NULL)
    SELECT id, slot FROM (SELECT j.id, o.slot, o.rn, min(j.task IN (SELECT value FROM json_each(:tasks)))
        OVER (PARTITION BY h.queue ORDER BY h.rn) AS known
        FROM heads h CROSS JOIN open o ON o.queue = h.queue AND o.rn = h.rn
        CROSS JOIN asgi_jobs j INDEXED BY asgi_jobs_waiting ON j.state = 1 AND j.queue = h.queue AND j.seq = h.seq)
    WHERE known ORDER BY rn LIMIT :n
    """
)

FREE = text(
    """
    SELECT id, NULL AS slot FROM asgi_jobs INDEXED BY asgi_jobs_free WHERE state = 1 AND queue IS NULL
    AND task IN (SELECT value FROM json_each(:tasks)) ORDER BY seq LIMIT :n
    """
)

TAKE = text(
    """
    UPDATE asgi_jobs AS j SET state = 3, slot = c.slot, worker = :me, claim = :claim + c.k, attempt = attempt + 1,
        started_at = :now, waiting_at = NULL
    FROM (SELECT value ->> '$[0]' AS id, value ->> '$[1]' AS slot, key AS k FROM json_each(:taken)) c
    WHERE j.id = c.id RETURNING *
    """
)

PROMOTE = text(
    """
    UPDATE asgi_jobs AS j SET state = 1, seq = :first + r.k, since_at = j.run_at
    FROM (SELECT value AS id, key AS k FROM json_each(:ids)) r WHERE j.id = r.id RETURNING queue
    """
)


class Sqlite:
    """SQLite, each transaction at one go in a thread: WAL, and every commit on the disk before it returns.

    aiosqlite would hand each call of the driver to its thread and back, four times a statement; a claim of a few
    statements then takes five times as long.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine: Engine
        self._watcher: Any = None  # a connection of the driver

    async def open(self, *, create_tables: bool) -> None:
        self._writing = ThreadPoolExecutor(1, "asgi_jobs store, writing")  # our own writers wait for their turn here
        self._reading = ThreadPoolExecutor(READERS, "asgi_jobs store, reading")
        self.engine = create_engine(
            self.url.set(drivername="sqlite"),
            pool_size=READERS + 2,
            max_overflow=0,
            connect_args={"timeout": BUSY, "check_same_thread": False},
        )
        event.listen(self.engine, "connect", _set_up)
        event.listen(self.engine, "begin", _begin)
        self._readers = self.engine.execution_options(**{READS: True})
        await self.write(partial(self._prepare, create_tables))

    def _prepare(self, create_tables: bool, connection: Connection) -> None:
        prepare(connection, create_tables=create_tables)
        found = set(connection.execute(text("SELECT key FROM asgi_jobs_meta")).scalars())
        missing = [{"key": key, "value": 0} for key in COUNTERS if key not in found]
        if missing:
            connection.execute(meta.insert(), missing)

    async def close(self) -> None:
        await self._in_thread(self._writing, self._close)
        self._writing.shutdown(wait=False)
        self._reading.shutdown(wait=False)

    def _close(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.engine.dispose()

    def break_off(self, task: asyncio.Task[Any]) -> None:
        """A transaction waits no longer than `BUSY`."""

    async def forget_connections(self) -> None:
        """A file is never away."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._in_thread(self._writing, self._transact, self.engine, work)

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._in_thread(self._reading, self._transact, self._readers, work)

    def _transact(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        with engine.begin() as connection:
            return work(connection)

    async def _in_thread(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    async def version(self) -> int:
        """A number that changes when another connection has committed, here or in another process."""
        return await self._in_thread(self._reading, self._version)

    def _version(self) -> int:
        if self._watcher is None:  # always the same connection, and never in a transaction
            self._watcher = self.engine.raw_connection()
        cursor = self._watcher.cursor()
        version = int(cursor.execute("PRAGMA data_version").fetchone()[0])
        cursor.close()
        return version

    async def clock(self) -> float | None:
        return None

    def _next(self, connection: Connection, key: str, n: int) -> int:
        """Draw n numbers of a counter; the first. There is one writer: their order is that of the commits."""
        answer = connection.execute(
            text("UPDATE asgi_jobs_meta SET value = value + :n WHERE key = :key RETURNING value"), {"n": n, "key": key}
        )
        return int(answer.scalar_one()) - n + 1

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
        first = self._next(connection, "place", len(rows))
        answer = connection.execute(INSERT, {"first": first, "rows": as_json(rows)})
        return {row.id for row in answer}

    def insert_in(self, session: Any, rows: Sequence[dict[str, Any]]) -> None:
        answer = session.execute(
            text("UPDATE asgi_jobs_meta SET value = value + :n WHERE key = 'place' RETURNING value"), {"n": len(rows)}
        )
        first = int(answer.scalar_one()) - len(rows) + 1
        session.execute(INSERT, {"first": first, "rows": as_json(rows)}).all()

    async def exchange(self, asked: Asked) -> Exchanged:
        return await self.write(partial(self._exchange, asked))

    def _exchange(self, asked: Asked, connection: Connection) -> Exchanged:
        now, want = asked.time(), asked.want
        told = self._hand_in(connection, asked.outcomes, now) if asked.outcomes else {}
        found = self._claim_round(connection, asked.me, want, now) if want is not None else Found()
        if asked.known is None:
            return Exchanged(now, told, found, ())
        known = asked.known | {row.id for row in found.rows}
        ours = (jobs.c.worker == asked.me) & (jobs.c.state == State.RUNNING)
        adopted = [row for row in connection.execute(select(jobs).where(ours)) if row.id not in known]
        return Exchanged(now, told, found, adopted)

    def _hand_in(self, connection: Connection, outcomes: Sequence[dict[str, Any]], now: float) -> ToldBy:
        answer = connection.execute(HAND_IN, {"outcomes": as_json(outcomes), "now": now})
        told = {(row.id, row.claim): Told(row.id, row.claim, row.state, bool(row.watched)) for row in answer}
        missing = {(one["id"], one["claim"]) for one in outcomes}.difference(told)
        if missing:  # stored by an exchange that failed all the same, when nobody has claimed the job since
            stored = select(jobs.c.id, jobs.c.claim, jobs.c.state).where(
                jobs.c.id.in_([id for id, _ in missing]), jobs.c.state != State.RUNNING
            )
            rows = connection.execute(stored).all()
            told |= {(row.id, row.claim): Told(*row, False) for row in rows if (row.id, row.claim) in missing}
        return told

    def _claim_round(self, connection: Connection, me: int, want: Want, now: float) -> Found:
        """Claim, and where the round has come to the last queue with room left, go on at the first."""
        found = self._claim(connection, me, want, now)
        rest = want.n - len(found.rows)
        if not found.ends or not want.cursor or not rest:
            return found
        suspects = want.suspects and not any(row.deaths >= 2 for row in found.rows)
        again = self._claim(connection, me, replace(want, n=rest, cursor="", suspects=int(suspects)), now)
        again.rows = [*found.rows, *again.rows]  # whose turn it still was comes first
        again.ends += found.ends
        return again

    def _claim(self, connection: Connection, me: int, want: Want, now: float) -> Found:
        tasks = as_json(list(want.tasks))
        found = Found()
        held = connection.execute(HELD, {"now": now, "tasks": tasks, "n": want.n, "suspects": want.suspects})
        taken = [(row.id, row.slot) for row in held][: want.n]
        names = self._names(connection, want, found)
        heads: list[tuple[str, int | None]] = []
        if names or want.limits:
            answer = connection.execute(
                HEADS,
                {"names": as_json(names), "limits": as_json(list(want.limits.items())), "tasks": tasks, "n": want.n},
            )
            heads = [(row.id, row.slot) for row in answer]
        room = want.n - len(taken)
        answer = connection.execute(FREE, {"tasks": tasks, "n": max(room - min(want.n // 2, len(heads)), 0)})
        free = [(row.id, None) for row in answer]
        taken += heads[: max(room - len(free), 0)] + free
        if taken:
            claim = self._next(connection, "claim", len(taken))
            answer = connection.execute(TAKE, {"me": me, "now": now, "claim": claim, "taken": as_json(taken)})
            found.rows = sorted(answer, key=place)
        return found

    def _names(self, connection: Connection, want: Want, found: Found) -> list[str]:
        """The hinted queues, and those of the round that are idle, as far as there is room."""
        if not want.depth:
            return list(want.hints)
        names: list[str] = []
        visited = 0
        for row in connection.execute(SWEEP, {"cursor": want.cursor, "depth": want.depth}):
            visited, found.cursor = row.k, row.queue
            if row.idle:
                names.append(row.queue)
                if len(names) == want.n:
                    return names
        if visited < want.depth:
            found.cursor, found.ends = "", 1
        return names

    def promote(self, connection: Connection, now: float, limit: int) -> list[str | None]:
        answer = connection.execute(
            text("SELECT id FROM asgi_jobs WHERE state = 0 AND run_at <= :now ORDER BY run_at, id LIMIT :limit"),
            {"now": now, "limit": limit},
        )
        ids = list(answer.scalars())
        if not ids:
            return []
        first = self._next(connection, "place", len(ids))
        answer = connection.execute(PROMOTE, {"first": first, "ids": as_json(ids)})
        return [row.queue for row in answer]

    def shut_gate(self, connection: Connection) -> None:
        """Whoever writes is alone."""

    def next_worker(self, connection: Connection) -> int:
        return self._next(connection, "worker", 1)

    def next_claim(self, connection: Connection) -> int:
        return self._next(connection, "claim", 1)

    def insert_tick(self, connection: Connection, row: dict[str, Any]) -> None:
        connection.execute(insert(ticks).values(row).on_conflict_do_nothing())

    def seize(self, connection: Connection, worker: int) -> bool:
        """We hold the lock of the one that runs jobs: no other can be alive."""
        return True

    def wake(self, connection: Connection, queues: Sequence[str | None]) -> None:
        """The others see the commit itself."""

    def tell(self, connection: Connection, message: Mapping[str, Any]) -> None:
        """The others see the commit itself."""


def _set_up(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to send
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: Any) -> None:
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
