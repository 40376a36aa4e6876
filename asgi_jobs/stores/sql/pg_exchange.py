"""The exchange on PostgreSQL: outcomes in, jobs out, in one round trip.

A function of the session (`pg_temp`) holds the statements, so that each has a snapshot of its own and the claim sees
what the outcomes freed. Formulations that look simpler and are wrong: `ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED`
for a queue's head (it slides to the second job when the first is locked, which a rollback then leaves behind), and
outcomes and claim in one statement (one snapshot: the successor is not seen).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from asgi_jobs.stores.sql.connections import Pooled

CALL = "SELECT CAST(pg_temp.asgi_jobs_exchange($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS text)"
TAKEN = "23505"
"""SQLSTATE of a unique index that refuses."""

FUNCTION = """
CREATE OR REPLACE FUNCTION pg_temp.asgi_jobs_exchange(
    p_space int, p_channel text, p_me int, p_now float8, p_outcomes json, p_known text[],
    p_n int, p_tasks text[], p_hints text[], p_limits json, p_cursor text, p_depth int, p_suspects int)
RETURNS json LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_told json[]; v_before json[]; v_jobs json[]; v_more json[]; v_adopted json[]; v_watched json;
    v_locked text[] := '{}'; v_last text; v_visited int; v_skipped int := 0; v_ends int := 0;
    v_ids text[]; v_slots smallint[]; v_names text[]; v_heads text[]; v_head_slots smallint[]; v_free text[];
    v_room int;
BEGIN
    -- claims hold the gate shared; a pause, which waits for them, holds it alone
    PERFORM pg_advisory_xact_lock_shared(p_space, 0);

    IF p_outcomes IS NOT NULL THEN
        WITH o AS MATERIALIZED (SELECT * FROM json_to_recordset(p_outcomes) AS o(
            id text, claim bigint, state smallint, delay float8, uncounted int, error_type text, error_message text,
            traceback text, attempts text, result text, uncommitted boolean,
            progress text, log text, log_count int, moved_at float8)),
        u AS (UPDATE asgi_jobs j SET
            state = CASE WHEN j.state = 4 THEN 4 WHEN o.state <> 2 THEN o.state
                WHEN j.cancel_at IS NOT NULL THEN 6 ELSE 2 END,
            slot = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN j.slot END,
            attempt = j.attempt - CASE WHEN j.state = 3 THEN coalesce(o.uncounted, 0) ELSE 0 END,
            run_at = CASE WHEN j.state = 3 AND o.state = 2 THEN p_now + o.delay ELSE j.run_at END,
            since_at = CASE WHEN j.state = 3 AND o.state = 2 AND j.cancel_at IS NULL THEN p_now ELSE j.since_at END,
            started_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL THEN j.started_at END,
            finished_at = CASE WHEN j.state = 4 OR o.state <> 2 OR j.cancel_at IS NOT NULL
                THEN coalesce(j.finished_at, greatest(p_now, j.started_at)) END,
            error_type = CASE WHEN j.state = 3 THEN o.error_type END,
            error_message = CASE WHEN j.state = 3 THEN o.error_message END,
            traceback = CASE WHEN j.state = 3 THEN o.traceback END,
            attempts = coalesce(o.attempts, j.attempts), result = coalesce(o.result, j.result),
            uncommitted = coalesce(o.uncommitted, j.uncommitted),
            progress = coalesce(o.progress, j.progress), log = coalesce(o.log, j.log),
            log_count = coalesce(o.log_count, j.log_count), moved_at = coalesce(o.moved_at, j.moved_at),
            waiting_at = NULL
            -- by the ids alone: left to itself the planner reads an index of all that has finished
            FROM o WHERE j.id = o.id AND j.id = ANY(ARRAY(SELECT id FROM o)) AND j.claim = o.claim
                AND (j.state + 0 = 3 OR (j.state + 0 = 4 AND j.slot IS NOT NULL))
            RETURNING j.id, j.claim, j.state, j.watched)
        SELECT array_agg(json_build_array(id, claim, state, watched)),
            json_agg(id) FILTER (WHERE watched AND state >= 4) INTO v_told, v_watched FROM u;
        -- stored by an exchange that failed all the same: nobody has claimed the job since
        IF coalesce(cardinality(v_told), 0) < json_array_length(p_outcomes) THEN
            SELECT array_agg(json_build_array(j.id, j.claim, j.state, false)) INTO v_before
            FROM json_to_recordset(p_outcomes) AS o(id text, claim bigint)
            JOIN asgi_jobs j ON j.id = o.id AND j.claim = o.claim AND j.state + 0 <> 3
            WHERE NOT EXISTS (SELECT 1 FROM unnest(v_told) t WHERE t ->> 0 = o.id AND (t ->> 1)::bigint = o.claim);
            v_told := v_told || v_before;
        END IF;
        IF v_watched IS NOT NULL THEN
            -- a message has room for so many; of more: look yourself
            PERFORM pg_notify(p_channel, json_build_object('ended',
                CASE WHEN json_array_length(v_watched) <= 100 THEN v_watched END)::text);
        END IF;
    END IF;

    -- of a queue with several slots, who claims first would leave others slots that do not fit their jobs
    IF p_limits IS NOT NULL THEN
        SELECT coalesce(array_agg(l.queue), '{}') INTO v_locked FROM json_to_recordset(p_limits) AS l(queue text)
        WHERE NOT pg_try_advisory_xact_lock(hashtextextended(l.queue, p_space));
    END IF;

    WHILE p_n > 0 LOOP
        v_ids := '{}'; v_slots := '{}'; v_names := p_hints; v_heads := '{}';
        IF EXISTS (SELECT 1 FROM asgi_jobs WHERE state = 2 AND run_at <= p_now) THEN
            WITH held AS MATERIALIZED (SELECT j.id, j.slot FROM asgi_jobs j WHERE j.state = 2 AND j.run_at <= p_now
                AND j.deaths < 2 AND j.task = ANY(p_tasks)
                AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue)
                ORDER BY j.run_at, j.seq LIMIT p_n FOR UPDATE SKIP LOCKED),
            suspects AS MATERIALIZED (SELECT j.id, j.slot FROM asgi_jobs j WHERE j.state = 2 AND j.run_at <= p_now
                AND j.deaths >= 2 AND j.task = ANY(p_tasks)
                AND NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = j.queue)
                ORDER BY j.run_at, j.seq LIMIT least(p_suspects, greatest(0, p_n - (SELECT count(*) FROM held)))
                FOR UPDATE SKIP LOCKED)
            SELECT coalesce(array_agg(id), '{}'), coalesce(array_agg(slot), '{}') INTO v_ids, v_slots
            FROM (SELECT * FROM held UNION ALL SELECT * FROM suspects) h;
        END IF;

        IF p_depth > 0 THEN
            WITH RECURSIVE sweep(queue, k) AS (
                (SELECT queue, 1 FROM asgi_jobs WHERE state = 1 AND queue IS NOT NULL AND queue > p_cursor
                    ORDER BY queue LIMIT 1)
                UNION ALL SELECT x.queue, s.k + 1 FROM sweep s CROSS JOIN LATERAL (SELECT queue FROM asgi_jobs
                    WHERE state = 1 AND queue IS NOT NULL AND queue > s.queue ORDER BY queue LIMIT 1) x
                WHERE s.k < p_depth),
            -- count(*) and not NOT EXISTS, which becomes a hash join, so that the LIMIT no longer stops the recursion
            swept AS MATERIALIZED (SELECT s.queue, s.k FROM sweep s WHERE (SELECT count(*) FROM (SELECT 1
                FROM asgi_jobs t WHERE t.queue = s.queue AND t.slot IS NOT NULL AND t.slot = 0 LIMIT 1) z) = 0
                LIMIT p_n)
            SELECT v_names || array_agg(queue),
                CASE WHEN count(*) < p_n THEN (SELECT max(queue) FROM sweep) ELSE max(queue) END,
                CASE WHEN count(*) < p_n THEN (SELECT count(*) FROM sweep) ELSE p_depth END
                INTO v_names, v_last, v_visited FROM swept;
        END IF;

        IF v_names <> '{}' OR p_limits IS NOT NULL THEN
            WITH lim AS (SELECT l.queue, l.n FROM json_to_recordset(p_limits) AS l(queue text, n int)),
            names AS (SELECT u.queue, coalesce((SELECT n FROM lim WHERE lim.queue = u.queue), 1) AS n FROM (
                SELECT unnest(v_names) COLLATE "C" AS queue UNION SELECT queue FROM lim) u
                WHERE NOT EXISTS (SELECT 1 FROM asgi_jobs_paused p WHERE p.queue = u.queue)
                AND NOT (u.queue = ANY(v_locked))),
            heads AS (SELECT h.id, h.slot, h.rn FROM (
                SELECT w.id, f.slot, f.rn,
                    bool_and(j.task = ANY(p_tasks)) OVER (PARTITION BY nm.queue ORDER BY f.rn) AS known
                FROM names nm
                CROSS JOIN LATERAL (SELECT g::smallint AS slot, row_number() OVER (ORDER BY g) AS rn
                    FROM generate_series(0, nm.n - 1) g WHERE (SELECT count(*) FROM (SELECT 1 FROM asgi_jobs t
                        WHERE t.queue = nm.queue AND t.slot IS NOT NULL AND t.slot = g LIMIT 1) z) = 0) f
                CROSS JOIN LATERAL (SELECT v.id, row_number() OVER (ORDER BY v.seq) AS rn FROM
                    (SELECT id, seq FROM asgi_jobs WHERE state = 1 AND queue IS NOT NULL AND queue = nm.queue
                        ORDER BY seq LIMIT nm.n) v) w
                JOIN asgi_jobs j ON j.id = w.id WHERE f.rn = w.rn) h
                WHERE h.known ORDER BY h.rn LIMIT p_n)
            SELECT coalesce(array_agg(id ORDER BY rn), '{}'), coalesce(array_agg(slot ORDER BY rn), '{}')
                INTO v_heads, v_head_slots FROM heads;
        END IF;

        -- those outside of any queue leave the heads half of the room
        v_free := ARRAY(SELECT id FROM asgi_jobs WHERE state = 1 AND queue IS NULL AND task = ANY(p_tasks)
            ORDER BY seq LIMIT greatest(0, p_n - cardinality(v_ids) - least(p_n / 2, cardinality(v_heads)))
            FOR UPDATE SKIP LOCKED);
        v_room := greatest(0, p_n - cardinality(v_ids) - cardinality(v_free));
        v_heads := v_heads[:v_room];
        IF v_heads <> '{}' THEN
            -- a fixed set, looked at again under the lock: no other job of the queue may slip in for one that is locked
            WITH locked AS MATERIALIZED (SELECT j.id FROM asgi_jobs j WHERE j.id = ANY(v_heads) AND j.state = 1
                FOR UPDATE SKIP LOCKED)
            SELECT v_ids || array_agg(h.id), v_slots || array_agg(h.slot),
                v_skipped + cardinality(v_heads) - count(*) INTO v_ids, v_slots, v_skipped
            FROM unnest(v_heads, v_head_slots) AS h(id, slot) JOIN locked ON locked.id = h.id;
        END IF;
        v_ids := v_ids || v_free;

        IF v_ids <> '{}' THEN
            WITH u AS (UPDATE asgi_jobs j SET state = 3, slot = v_slots[array_position(v_ids, j.id)], worker = p_me,
                claim = nextval('asgi_jobs_seq_seq'), attempt = j.attempt + 1, started_at = p_now, waiting_at = NULL
                WHERE j.id = ANY(v_ids) RETURNING j.*)
            SELECT v_jobs || array_agg(row_to_json(u) ORDER BY u.seq) INTO v_jobs FROM u;
            p_n := p_n - cardinality(v_ids);
        END IF;
        EXIT WHEN p_depth = 0 OR v_visited >= p_depth;
        -- the round has come to the last queue; where there is room left it goes on at the first, once
        v_ends := v_ends + 1;
        v_last := '';
        EXIT WHEN p_cursor = '' OR p_n <= 0;
        p_cursor := '';
        IF EXISTS (SELECT 1 FROM unnest(v_jobs) m WHERE (m ->> 'deaths')::int >= 2) THEN
            p_suspects := 0;
        END IF;
    END LOOP;

    -- claimed for us by an exchange that failed all the same
    IF p_known IS NOT NULL THEN
        SELECT array_agg(row_to_json(j)) INTO v_adopted FROM asgi_jobs j WHERE j.worker = p_me AND j.state = 3
        AND NOT (j.id = ANY(p_known)) AND NOT EXISTS (SELECT 1 FROM unnest(v_jobs) m WHERE m ->> 'id' = j.id);
    END IF;

    RETURN json_build_object('told', array_to_json(v_told), 'jobs', array_to_json(v_jobs),
        'adopted', array_to_json(v_adopted), 'cursor', coalesce(v_last, ''), 'ends', v_ends,
        'skipped', v_skipped);
END
$$
"""


class Exchanger:
    """Holds the connection on which the function is called.

    Whoever calls asks the driver: SQLAlchemy's way to a statement, through the pool, takes longer than the statement.

    Args:
        pool: where the connection comes from.
    """

    def __init__(self, pool: Pooled) -> None:
        self._pool = pool
        self._held: AsyncConnection | None = None
        self._driver: Any = None  # of the one that is held

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """The driver's connection, with the function; nobody else uses it meanwhile.

        Raises:
            DBAPIError: with the driver's error; an IntegrityError where two claims reached for one slot.
            OSError: the connection has ended.
        """
        connection, driver = await self._take()
        try:
            with self._pool.used(driver), _as_sqlalchemy_says(driver):
                yield driver
        finally:
            if self._held is None and not driver.is_closed():
                self._held, self._driver = connection, driver
            else:
                await connection.close()

    async def _take(self) -> tuple[AsyncConnection, Any]:
        """The connection that is held, or a new one where it has ended or somebody else has it."""
        connection, self._held = self._held, None
        if connection is not None:
            if not self._driver.is_closed():
                return connection, self._driver
            await connection.close()
        connection = await self._pool.engine.connect()
        try:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            with _as_sqlalchemy_says(driver):
                await driver.execute(FUNCTION)  # the session's own: nothing to migrate, nothing to drop
        except BaseException:
            await connection.close()
            raise
        return connection, driver

    def drop(self) -> None:
        """The server was away: the connection may be dead without having been closed."""
        if self._held is not None:
            self._driver.terminate()

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._held = self._held, None
        if connection is not None:
            await connection.close()


@contextmanager
def _as_sqlalchemy_says(driver: Any) -> Iterator[None]:
    """What the driver raises, as SQLAlchemy would: the store looks at nothing else."""
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if state is not None:
            raise (IntegrityError if state == TAKEN else DBAPIError)(CALL, None, error) from error
        if driver.is_closed():
            raise ConnectionError(str(error)) from error
        raise
