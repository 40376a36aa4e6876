"""The store's statements for PostgreSQL; the exchange has a file of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asgi_jobs.errors import StoreUnusable
from asgi_jobs.stores.sql.connections import Pooled
from asgi_jobs.stores.sql.database import Asked, Exchanged, Found, ReadRow, Told, as_json
from asgi_jobs.stores.sql.pg_exchange import CALL, Exchanger
from asgi_jobs.stores.sql.schema import prepare
from asgi_jobs.stores.sql.tables import ticks

T = TypeVar("T")
POOL = 5
CONNECT_TIMEOUT = 10  # seconds
FROZEN = 10_000
"""Milliseconds that a transaction may do nothing: less than others wait for an answer."""
PARTING = 2  # seconds for the server to see that we go
SHARED = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
"""Through a pooler that shares sessions nothing may outlive its transaction: statements are prepared without a name."""
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
        SELECT nextval('asgi_jobs_seq_seq'), id, queue, task, name, args, state, source, retry_of, unique_key, options,
            enqueued_at, since_at, run_at FROM given
        ON CONFLICT DO NOTHING RETURNING id)
    SELECT id, (SELECT pg_notify(:channel, :payload)) FROM made
    """
)

PROMOTE = text(
    """
    WITH ready AS MATERIALIZED (SELECT id, run_at FROM asgi_jobs WHERE state = 0 AND run_at <= :now
        ORDER BY run_at, id LIMIT :limit FOR UPDATE SKIP LOCKED),
    placed AS MATERIALIZED (SELECT id, nextval('asgi_jobs_seq_seq') AS seq
        FROM (SELECT id FROM ready ORDER BY run_at, id) r)
    UPDATE asgi_jobs j SET state = 1, seq = p.seq, since_at = j.run_at FROM placed p WHERE j.id = p.id RETURNING j.queue
    """
)


class Postgresql:
    """PostgreSQL by asyncpg.

    Args:
        url: of the database.
        engine: where one was given.
        direct: leads past a pooler that shares server sessions between transactions.
    """

    def __init__(self, url: URL, engine: AsyncEngine | None, direct: URL | None) -> None:
        self.url = url
        self.direct = direct
        self._given = engine
        self.engine: AsyncEngine
        self.space = 0  # of advisory locks: the table's oid, so that stores in one database do not meet
        self.channel = ""
        self._pools: list[Pooled] = []
        self._exchanger: Exchanger

    async def open(self, *, create_tables: bool) -> None:
        self.engine = self._given or _engine(self.url, POOL, **(SHARED if self.direct is not None else {}))
        # What holds a connection goes past a pooler, and takes none away from the pool of an engine that was given.
        ours = self._given is None and self.direct is None
        past = self.engine if ours else _engine(self.direct or self.url, 1)
        self._pools = [Pooled(engine) for engine in dict.fromkeys((self.engine, past))]
        self._exchanger = Exchanger(self._pools[-1])
        self._at_once = self.engine
        if self.direct is None:  # one statement, one snapshot: no transaction to begin and to end
            self._at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.space = await self.write(partial(self._prepare, create_tables))
        self.channel = f"asgi_jobs_{self.space}"

    def _prepare(self, create_tables: bool, connection: Connection) -> int:
        # Two processes that make the same table at once would fail on each other.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('asgi_jobs tables', 0))"))
        prepare(connection, create_tables=create_tables)
        if not connection.scalar(text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")):
            raise StoreUnusable(
                f"the store at {self.url.render_as_string(hide_password=True)} cannot be used: its role may not create "
                f"temporary objects, which the exchange needs. GRANT TEMPORARY ON DATABASE … TO …"
            )
        return int(connection.scalar(SPACE) or 0)

    async def close(self) -> None:
        await self._exchanger.close()
        for pool in self._pools:
            pool.end()
            if pool.engine is not self._given:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PARTING):
                        await pool.engine.dispose()
                pool.drop_idle()

    def break_off(self, task: asyncio.Task[Any]) -> None:
        for pool in self._pools:
            pool.break_off(task)

    async def forget_connections(self) -> None:
        """The server was away: connections may be dead without having been closed."""
        self._exchanger.drop()
        for pool in self._pools:
            if pool.engine is not self._given:
                pool.drop_idle()

    async def write(self, work: Callable[[Connection], T]) -> T:
        async with self.engine.begin() as connection:
            # A process that freezes just now would hold up the fleet for as long as it is frozen. Set here, for poolers
            # know no such setting of a connection's.
            await connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {FROZEN}")
            return await connection.run_sync(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.write_at_once(work)

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        async with self._at_once.begin() as connection:
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

    async def exchange(self, asked: Asked) -> Exchanged:
        """One call, one round trip, its own transaction."""
        want = asked.want
        limits = [{"queue": queue, "n": n} for queue, n in want.limits.items()] if want is not None else []
        async with self._exchanger.connected() as driver:
            now = asked.time()
            said = await driver.fetchval(
                CALL,
                self.space,
                self.channel,
                asked.me,
                now,
                as_json(asked.outcomes) if asked.outcomes else None,
                None if asked.known is None else list(asked.known),
                want.n if want is not None else 0,
                want.tasks if want is not None else (),
                want.hints if want is not None else (),
                as_json(limits) if limits else None,
                want.cursor if want is not None else "",
                want.depth if want is not None else 0,
                want.suspects if want is not None else 0,
            )
        answer = json.loads(said)
        told = {(one[0], one[1]): Told(*one) for one in answer["told"] or ()}
        rows = [ReadRow(**row) for row in answer["jobs"] or ()]
        adopted = [ReadRow(**row) for row in answer["adopted"] or ()]
        found = Found(rows, answer["cursor"], answer["ends"], answer["skipped"])
        return Exchanged(now, told, found, adopted)

    def promote(self, connection: Connection, now: float, limit: int) -> list[str | None]:
        answer = connection.execute(PROMOTE, {"now": now, "limit": limit})
        names = [row.queue for row in answer]
        if names:
            self.wake(connection, names)
        return names

    def shut_gate(self, connection: Connection) -> None:
        # Claims hold this lock shared, a pause alone; workers lock their ids, which begin at 1.
        connection.execute(text("SELECT pg_advisory_xact_lock(:space, 0)"), {"space": self.space})

    def next_worker(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT nextval('asgi_jobs_workers_id_seq')")) or 0)

    def next_claim(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT nextval('asgi_jobs_seq_seq')")) or 0)

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


def _engine(url: URL, size: int, **rest: Any) -> AsyncEngine:
    settings = {"application_name": "asgi_jobs", "jit": "off"}
    arguments = {"timeout": CONNECT_TIMEOUT, "server_settings": settings, **rest}
    return create_async_engine(url, pool_size=size, max_overflow=size, connect_args=arguments)


def wake_message(names: Sequence[str]) -> str:
    """The queues in which something may be ready; too many to be named: look yourself."""
    message = json.dumps({"wake": names})
    return message if len(message) < PAYLOAD else json.dumps({"wake": None})
