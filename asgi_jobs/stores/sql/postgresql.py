"""The store's statements for PostgreSQL.

One READ COMMITTED transaction hands in outcomes and then claims, in two statements, so that the claim's snapshot
sees what the outcomes freed. Formulations that look simpler and are wrong: `ORDER BY seq LIMIT 1 FOR UPDATE SKIP
LOCKED` for a queue's head (it slides to the second job when the first is locked, which a rollback then leaves
behind), and outcomes and claim in one statement (one snapshot: the successor is not seen).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asgi_jobs.stores.sql.database import Found, Told, Want, as_json, place
from asgi_jobs.stores.sql.schema import prepare
from asgi_jobs.stores.sql.tables import ticks

T = TypeVar("T")
POOL = 5
CONNECT_TIMEOUT = 10  # seconds
GATE = 0
"""Claims hold this lock shared, a pause alone; workers lock their ids, which begin at 1."""
PAYLOAD = 7_500
"""Bytes of a NOTIFY: 8,000 are allowed."""

NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
SPACE = text("SELECT CAST(mod(CAST(CAST('asgi_jobs' AS regclass) AS bigint), 2147483647) AS int)")
INSERT = text(
    """
    WITH given AS (SELECT * FROM ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS (
        id text, queue text, task text, name text, args text, state smallint, source text, retry_of text,
        unique_key text, options text, enqueued_at float8, since_at float8, run_at float8)) WITH ORDINALITY
        AS v(id, queue, task, name, args, state, source, retry_of, unique_key, options, enqueued_at, since_at, run_at,
            o) ORDER BY o),
    made AS (INSERT INTO asgi_jobs (seq, id, queue, task, name, args, state, source, retry_of, unique_key, options,
            enqueued_at, since_at, run_at)
        SELECT nextval('asgi_jobs_place'), id, queue, task, name, args, state, source, retry_of, unique_key, options,
            enqueued_at, since_at, run_at FROM given
        ON CONFLICT DO NOTHING RETURNING id)
    SELECT id, (SELECT pg_notify(:channel, :payload)) FROM made
    """
)

HAND_IN = text(
    """
    WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(:space, 0)),
    granted AS MATERIALIZED (SELECT l.queue FROM gate, unnest(CAST(:limited AS text[])) l(queue)
        WHERE pg_try_advisory_xact_lock(hashtextextended(l.queue, :space))),
    o AS MATERIALIZED (SELECT o.* FROM gate, json_to_recordset(CAST(:outcomes AS json)) AS o(
        id text, claim bigint, state smallint, delay float8, uncounted int, error_type text, error_message text,
        traceback text, attempts text, result text, uncommitted boolean,
        progress text, log text, log_count int, moved_at float8)),
    u AS (UPDATE asgi_jobs j SET
        state = CASE WHEN j.state = 4 THEN 4 WHEN o.state <> 2 THEN o.state
            WHEN j.cancel_at IS NOT NULL THEN 6 ELSE 2 END,
        slot = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN j.slot END,
        attempt = j.attempt - CASE WHEN j.state = 3 THEN coalesce(o.uncounted, 0) ELSE 0 END,
        run_at = CASE WHEN j.state = 3 AND o.state = 2 THEN :now + o.delay ELSE j.run_at END,
        since_at = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN :now ELSE j.since_at END,
        started_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL THEN j.started_at END,
        finished_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL
            THEN coalesce(j.finished_at, greatest(CAST(:now AS float8), j.started_at)) END,
        error_type = CASE WHEN j.state = 3 THEN o.error_type END,
        error_message = CASE WHEN j.state = 3 THEN o.error_message END,
        traceback = CASE WHEN j.state = 3 THEN o.traceback END,
        attempts = coalesce(o.attempts, j.attempts), result = coalesce(o.result, j.result),
        uncommitted = coalesce(o.uncommitted, j.uncommitted),
        progress = coalesce(o.progress, j.progress), log = coalesce(o.log, j.log),
        log_count = coalesce(o.log_count, j.log_count), moved_at = coalesce(o.moved_at, j.moved_at), waiting_at = NULL
        FROM o WHERE j.id = o.id AND j.claim = o.claim AND (j.state = 3 OR (j.state = 4 AND j.slot IS NOT NULL))
        RETURNING j.id, j.state, j.watched)
    SELECT ARRAY(SELECT queue FROM granted) AS granted, u.id, u.state, u.watched FROM gate LEFT JOIN u ON true
    """
)

CLAIM = text(
    """
    WITH RECURSIVE
    lim AS (SELECT l.queue, l.n FROM json_to_recordset(CAST(:limits AS json)) AS l(queue text, n int)),
    held AS MATERIALIZED (SELECT j.id, j.slot FROM asgi_jobs j WHERE j.state = 2 AND j.run_at <= :now
        AND j.deaths < 2 AND j.task = ANY(CAST(:tasks AS text[]))
        AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue)
        ORDER BY j.run_at, j.seq LIMIT :n FOR UPDATE SKIP LOCKED),
    suspects AS MATERIALIZED (SELECT j.id, j.slot FROM asgi_jobs j WHERE j.state = 2 AND j.run_at <= :now
        AND j.deaths >= 2 AND j.task = ANY(CAST(:tasks AS text[]))
        AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue)
        ORDER BY j.run_at, j.seq LIMIT :suspects FOR UPDATE SKIP LOCKED),
    sweep(queue, k) AS (
        (SELECT queue, 1 FROM asgi_jobs WHERE state = 1 AND queue IS NOT NULL AND queue > CAST(:cursor AS text)
            AND CAST(:depth AS int) > 0 ORDER BY queue LIMIT 1)
        UNION ALL SELECT x.queue, s.k + 1 FROM sweep s CROSS JOIN LATERAL
        (SELECT queue FROM asgi_jobs WHERE state = 1 AND queue IS NOT NULL AND queue > s.queue ORDER BY queue LIMIT 1) x
        WHERE s.k < :depth),
    -- count(*) and not NOT EXISTS, which becomes a hash join, so that the LIMIT no longer stops the recursion
    swept AS MATERIALIZED (SELECT s.queue, s.k FROM sweep s WHERE (SELECT count(*) FROM (SELECT 1 FROM asgi_jobs t
        WHERE t.queue = s.queue AND t.slot IS NOT NULL AND t.slot = 0 LIMIT 1) z) = 0 LIMIT :n),
    names AS (SELECT u.queue, coalesce((SELECT n FROM lim WHERE lim.queue = u.queue), 1) AS n FROM (
        SELECT unnest(CAST(:hints AS text[])) COLLATE "C" AS queue UNION SELECT queue FROM swept
        UNION SELECT queue FROM lim) u WHERE NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = u.queue)
        AND NOT (u.queue = ANY(CAST(:locked AS text[])))),
    heads AS MATERIALIZED (SELECT h.id, h.slot, h.rn FROM (
        SELECT w.id, f.slot, f.rn,
            bool_and(j.task = ANY(CAST(:tasks AS text[]))) OVER (PARTITION BY nm.queue ORDER BY f.rn) AS known
        FROM names nm
        CROSS JOIN LATERAL (SELECT CAST(g AS smallint) AS slot, row_number() OVER (ORDER BY g) AS rn
            FROM generate_series(0, nm.n - 1) g WHERE (SELECT count(*) FROM (SELECT 1 FROM asgi_jobs t
                WHERE t.queue = nm.queue AND t.slot IS NOT NULL AND t.slot = g LIMIT 1) z) = 0) f
        CROSS JOIN LATERAL (SELECT v.id, row_number() OVER (ORDER BY v.seq) AS rn FROM
            (SELECT id, seq FROM asgi_jobs WHERE state = 1 AND queue IS NOT NULL AND queue = nm.queue
                ORDER BY seq LIMIT nm.n) v) w
        JOIN asgi_jobs j ON j.id = w.id WHERE f.rn = w.rn) h
        WHERE h.known ORDER BY h.rn LIMIT :n),
    free AS MATERIALIZED (SELECT id FROM asgi_jobs WHERE state = 1 AND queue IS NULL
        AND task = ANY(CAST(:tasks AS text[]))
        ORDER BY seq LIMIT greatest(0, :n - (SELECT count(*) FROM held) - (SELECT count(*) FROM suspects)
            - least(CAST(:n AS int) / 2, (SELECT count(*) FROM heads))) FOR UPDATE SKIP LOCKED),
    picked AS MATERIALIZED (SELECT id, slot FROM heads ORDER BY rn LIMIT greatest(0, :n - (SELECT count(*) FROM held)
        - (SELECT count(*) FROM suspects) - (SELECT count(*) FROM free))),
    -- a fixed set, looked at again under the lock: another job of the queue must not slip in for one that is locked
    locked AS MATERIALIZED (SELECT j.id FROM asgi_jobs j WHERE j.id = ANY(ARRAY(SELECT id FROM picked)) AND j.state = 1
        FOR UPDATE SKIP LOCKED),
    c AS MATERIALIZED (SELECT id, slot FROM held UNION ALL SELECT id, slot FROM suspects
        UNION ALL SELECT id, CAST(NULL AS smallint) FROM free
        UNION ALL SELECT id, slot FROM picked WHERE id IN (SELECT id FROM locked)),
    -- ANY(ARRAY()) and not a join: a computed LIMIT is estimated as a tenth of the table
    u AS (UPDATE asgi_jobs j SET state = 3, slot = (SELECT c.slot FROM c WHERE c.id = j.id), worker = :me,
        claim = nextval('asgi_jobs_claim'), attempt = j.attempt + 1, started_at = :now, waiting_at = NULL
        WHERE j.id = ANY(ARRAY(SELECT id FROM c)) RETURNING j.*)
    SELECT i.sweep_last, i.sweep_visited, i.skipped, u.* FROM (SELECT
        (SELECT CASE WHEN count(*) < :n THEN (SELECT max(queue) FROM sweep) ELSE max(queue) END FROM swept)
            AS sweep_last,
        (SELECT CASE WHEN count(*) < :n THEN (SELECT count(*) FROM sweep) ELSE :depth END FROM swept)
            AS sweep_visited,
        (SELECT count(*) FROM picked) - (SELECT count(*) FROM locked) AS skipped) i LEFT JOIN u ON true
    """
)

PROMOTE = text(
    """
    WITH ready AS MATERIALIZED (SELECT id, run_at FROM asgi_jobs WHERE state = 0 AND run_at <= :now
        ORDER BY run_at, id LIMIT :limit FOR UPDATE SKIP LOCKED),
    placed AS MATERIALIZED (SELECT id, nextval('asgi_jobs_place') AS seq
        FROM (SELECT id FROM ready ORDER BY run_at, id) r)
    UPDATE asgi_jobs j SET state = 1, seq = p.seq, since_at = j.run_at FROM placed p WHERE j.id = p.id RETURNING j.queue
    """
)


class Postgresql:
    """PostgreSQL by asyncpg."""

    def __init__(self, url: URL, engine: AsyncEngine | None) -> None:
        self.url = url
        self._given = engine
        self.engine: AsyncEngine
        self.space = 0  # of advisory locks: the table's oid, so that stores in one database do not meet
        self.channel = ""

    async def open(self, *, create_tables: bool) -> None:
        self.engine = self._given or create_async_engine(
            self.url,
            pool_size=POOL,
            max_overflow=POOL,
            connect_args={
                "timeout": CONNECT_TIMEOUT,
                "server_settings": {"application_name": "asgi_jobs", "jit": "off"},
            },
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.space = await self.write(partial(self._prepare, create_tables))
        self.channel = f"asgi_jobs_{self.space}"

    def _prepare(self, create_tables: bool, connection: Connection) -> int:
        # Two processes that make the same table at once would fail on each other.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('asgi_jobs tables', 0))"))
        prepare(connection, create_tables=create_tables)
        return int(connection.scalar(SPACE) or 0)

    async def close(self) -> None:
        if self._given is None:
            await self.engine.dispose()

    async def forget_connections(self) -> None:
        """The server was away: the connections of the pool may be dead without having been closed."""
        if self._given is None:
            await self.engine.dispose(close=False)

    async def write(self, work: Callable[[Connection], T]) -> T:
        async with self.engine.begin() as connection:
            return await connection.run_sync(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One statement, one snapshot: no transaction to begin and to end."""
        async with self._autocommit.connect() as connection:
            return await connection.run_sync(work)

    async def clock(self) -> float | None:
        return await self.read(lambda connection: float(connection.scalar(NOW) or 0))

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
        answer = connection.execute(INSERT, self._insertion(rows))
        return {row.id for row in answer}

    def insert_in(self, session: Any, rows: Sequence[dict[str, Any]]) -> None:
        session.execute(INSERT, self._insertion(rows))

    def _insertion(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        names = sorted({row["queue"] for row in rows if row["queue"] is not None and row["state"] == 1})
        return {"rows": as_json(rows), "channel": self.channel, "payload": wake_message(names)}

    def hand_in(
        self, connection: Connection, outcomes: Sequence[dict[str, Any]], now: float, limited: Sequence[str]
    ) -> tuple[list[Told], list[str]]:
        answer = connection.execute(
            HAND_IN, {"space": self.space, "outcomes": as_json(outcomes), "now": now, "limited": list(limited)}
        )
        rows = answer.all()
        told = [Told(row.id, row.state, row.watched) for row in rows if row.id is not None]
        return told, list(rows[0].granted)

    def claim(self, connection: Connection, want: Want) -> Found:
        answer = connection.execute(
            CLAIM,
            {
                "me": want.me,
                "now": want.now,
                "n": want.n,
                "tasks": list(want.tasks),
                "hints": list(want.hints),
                "limits": as_json([{"queue": queue, "n": n} for queue, n in want.limits.items() if n]),
                "locked": [queue for queue, n in want.limits.items() if not n],
                "cursor": want.cursor,
                "depth": want.depth,
                "suspects": want.suspects,
            },
        )
        rows = answer.all()
        first = rows[0]
        return Found(
            sorted((row for row in rows if row.id is not None), key=place),
            first.sweep_last,
            first.sweep_visited,
            first.skipped,
        )

    def promote(self, connection: Connection, now: float, limit: int) -> list[str | None]:
        answer = connection.execute(PROMOTE, {"now": now, "limit": limit})
        names = [row.queue for row in answer]
        if names:
            self.wake(connection, names)
        return names

    def shut_gate(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:space, 0)"), {"space": self.space})

    def next_worker(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT nextval('asgi_jobs_worker')")) or 0)

    def next_claim(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT nextval('asgi_jobs_claim')")) or 0)

    def insert_tick(self, connection: Connection, row: dict[str, Any]) -> None:
        connection.execute(insert(ticks).values(row).on_conflict_do_nothing())

    def seize(self, connection: Connection, worker: int) -> bool:
        answer = connection.scalar(
            text("SELECT pg_try_advisory_xact_lock(:space, :worker)"), {"space": self.space, "worker": worker}
        )
        return bool(answer)

    def wake(self, connection: Connection, queues: Sequence[str | None]) -> None:
        """Tell all that jobs of these queues may be ready."""
        names = sorted({queue for queue in queues if queue is not None})
        self._notify(connection, wake_message(names))

    def tell(self, connection: Connection, message: Mapping[str, Any]) -> None:
        self._notify(connection, json.dumps(message))

    def _notify(self, connection: Connection, payload: str) -> None:
        connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": self.channel, "payload": payload})


def wake_message(names: Sequence[str]) -> str:
    """The queues in which something may be ready; too many to be named: look yourself."""
    message = json.dumps({"wake": names})
    return message if len(message) < PAYLOAD else json.dumps({"wake": None})
