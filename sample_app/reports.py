"""The nightly report, the heartbeat, and what they leave behind."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from sample_app import airports
from sample_app.database import Heartbeat, Person, Report, now


async def collect(session: AsyncSession) -> dict[str, Any]:
    """Gather the figures of a report."""
    day_ago = now() - timedelta(days=1)
    return {
        "people": await session.scalar(select(func.count()).select_from(Person)),
        "joined": await session.scalar(select(func.count()).where(Person.joined_at >= day_ago)),
        "airports": await airports.counts(session),
    }


async def latest(session: AsyncSession, limit: int = 10) -> Sequence[Report]:
    return (await session.scalars(select(Report).order_by(Report.id.desc()).limit(limit))).all()


async def beat(session: AsyncSession) -> None:
    """Note that the application is alive, in the one row there is for it."""
    insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[session.get_bind().dialect.name]
    first = insert(Heartbeat).values(id=1, at=now(), beats=1)
    again = first.on_conflict_do_update(index_elements=["id"], set_={"at": now(), "beats": Heartbeat.beats + 1})
    await session.execute(again)


def old_files(directories: Sequence[Path], age: timedelta) -> Iterator[Path]:
    limit = time.time() - age.total_seconds()
    for directory in directories:
        yield from (path for path in directory.iterdir() if path.stat().st_mtime < limit)
