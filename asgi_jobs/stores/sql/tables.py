"""The tables of a store in a database. `metadata` is what Alembic users import.

Times are seconds since 1970 by the database's clock, in double precision: the same in both databases, and a fifth
of the cost of a timestamp type to read. What few jobs have, and nobody searches for, is JSON in a text column.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

from asgi_jobs.job import JobState

VERSION = 1
"""Of the schema. A store refuses tables of a newer one."""


class State(IntEnum):
    """How a job stands, as its row says it."""

    SCHEDULED = 0
    """Delayed: it has no place yet."""
    QUEUED = 1
    HELD = 2
    """Between two attempts, given back at a shutdown, or rescued: it has begun its turn, and keeps its slot."""
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6


FINISHED = {
    State.SUCCEEDED: JobState.SUCCEEDED,
    State.FAILED: JobState.FAILED,
    State.CANCELLED: JobState.CANCELLED,
}

metadata = MetaData()

_Name = Text().with_variant(
    Text(collation="C"), "postgresql"
)  # by bytes: faster, and no upgrade of a locale reorders it


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


jobs = Table(
    "asgi_jobs",
    metadata,
    Column("id", _Name, primary_key=True),  # sorts by the time of the call
    # The place; a delayed job gets a new one when it is due. Claims draw their numbers here, too. PostgreSQL makes the
    # sequence asgi_jobs_seq_seq of it, without a cache, which would break the order.
    Column("seq", BigInteger, Identity(cache=1), nullable=False),
    Column("queue", _Name),
    Column("task", _Name, nullable=False),
    Column("name", Text, nullable=False),
    Column("args", Text, nullable=False),  # JSON
    Column("state", SmallInteger, nullable=False),
    Column("slot", SmallInteger),
    Column("worker", Integer),  # who runs it, or ran it last
    Column("claim", BigInteger),  # grows with each claim; the fence for outcomes
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("deaths", SmallInteger, nullable=False, server_default="0"),
    Column("source", Text, nullable=False),
    Column("retry_of", Text),
    Column("unique_key", _Name),
    Column("options", Text),  # JSON: the retries and the timeout of this job, where they are not its task's
    Column("enqueued_at", Double, nullable=False),
    Column("since_at", Double, nullable=False),  # since when it waits: later than enqueued after a delay or an attempt
    Column("run_at", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("cancel_at", Double),
    Column("cancel_reason", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("attempts", Text),  # JSON, as the following
    Column("progress", Text),
    Column("log", Text),
    Column("log_count", Integer, nullable=False, server_default="0"),
    Column("moved_at", Double),
    Column("waiting_at", Text),
    Column("uncommitted", Boolean, nullable=False, server_default=text("false")),
    Column("result", Text),
    Column("watched", Boolean, nullable=False, server_default=text("false")),  # some process waits for its end
    # A slot is held while the job runs or stands between attempts, and of an `atomic` one that has succeeded until its
    # scope has closed.
    CheckConstraint("slot IS NULL OR (queue IS NOT NULL AND state IN (2, 3, 4))", name="asgi_jobs_slot_of_whom"),
    CheckConstraint("slot IS NOT NULL OR queue IS NULL OR state NOT IN (2, 3)", name="asgi_jobs_slot_held"),
    # Exclusivity and place of running and held jobs are this index's, not a query's.
    Index("asgi_jobs_turn", "queue", "slot", unique=True, **_where("slot IS NOT NULL")),
    Index("asgi_jobs_unique", "unique_key", unique=True, **_where("unique_key IS NOT NULL AND state < 4")),
    Index("asgi_jobs_waiting", "queue", "seq", **_where("state = 1 AND queue IS NOT NULL")),
    Index("asgi_jobs_free", "seq", **_where("state = 1 AND queue IS NULL")),  # `queue IS NULL` gives a planner no order
    Index("asgi_jobs_due", "run_at", **_where("state = 0")),
    Index("asgi_jobs_held", "run_at", **_where("state = 2")),
    Index("asgi_jobs_running", "worker", **_where("state = 3")),
    Index("asgi_jobs_settled", "worker", **_where("state = 4 AND slot IS NOT NULL")),
    Index("asgi_jobs_finished", "finished_at", **_where("state >= 4")),
    Index("asgi_jobs_state", "state", "id", "task"),  # task only so that what waits is counted without its rows
    Index("asgi_jobs_failed", "queue", "id", **_where("state = 5")),
    Index("asgi_jobs_by_queue", "queue", "id", **_where("queue IS NOT NULL")),
)

paused = Table(
    "asgi_jobs_paused",
    metadata,
    Column("queue", _Name, primary_key=True),
    Column("since_at", Double, nullable=False),
)

ticks = Table(
    "asgi_jobs_ticks",
    metadata,
    Column("task", _Name, primary_key=True),
    Column("since_at", Double, nullable=False),  # when the schedule was first seen
    Column("tick", Double),
    Column("skipped", Integer, nullable=False, server_default="0"),
    Column("job", Text),
)

workers = Table(
    "asgi_jobs_workers",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("tasks", Text, nullable=False),  # JSON: the keys that it declares
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("stopping", Boolean, nullable=False, server_default=text("false")),  # what it leaves behind is no death
)

meta = Table(
    "asgi_jobs_meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

LONG = ("args", "traceback", "attempts", "log", "result")
"""Columns that a list does without."""
SHORT = tuple(column for column in jobs.columns if column.name not in LONG)
