"""Who keeps jobs in a database."""

from functools import partial

from benchmarks.peers import (
    flexiq_pg,
    huey_sqlite,
    ours_sql,
    pgqueuer_pg,
    procrastinate_pg,
    saq_pg,
    tinyjobs_sqlite,
)
from benchmarks.peers.sql import Contender

OURS = Contender("asgi_jobs", "asgi-jobs", ours_sql.contender)

HUEY = Contender("huey SqliteHuey(fsync=True)", "huey", huey_sqlite.contender)
TINYJOBS = Contender("tinyjobs, synchronous=FULL", "tinyjobs", tinyjobs_sqlite.contender)

PROCRASTINATE = Contender("Procrastinate, lock", "procrastinate", procrastinate_pg.contender)
PROCRASTINATE_POLLING = Contender(
    "Procrastinate, lock, looks every 0.1 s (default: 5 s)",
    "procrastinate",
    partial(procrastinate_pg.contender, polling=0.1),
)
PROCRASTINATE_ALONE = Contender(
    "Procrastinate, a worker of its own (concurrency=1)",
    "procrastinate",
    partial(procrastinate_pg.contender, concurrency=1),
)
PGQUEUER = Contender("PgQueuer, concurrency_limit=1", "pgqueuer", pgqueuer_pg.contender)
SAQ = Contender("SAQ, group_key", "saq", saq_pg.contender)
FLEXIQ = Contender("flexiq, max_concurrent=1", "flexiq", flexiq_pg.contender)

LIBRARIES = (HUEY, TINYJOBS, PROCRASTINATE, PGQUEUER, SAQ, FLEXIQ)
