"""Airports from a CSV file: reading, checking, and replacing those of a tenant."""

import asyncio
import csv
import importlib.resources
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from sample_app.database import Airport

BATCH = 250
INSERT_BATCH = 2000

Text = Annotated[str, StringConstraints(max_length=200)]


class BadLine(ValueError):
    """A line of the file that cannot be imported."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


class AirportRow(BaseModel):
    """One line of the file, checked."""

    model_config = ConfigDict(str_strip_whitespace=True, allow_inf_nan=False)

    icao: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]{4}$")]
    iata: Annotated[str, StringConstraints(pattern=r"^([A-Z0-9]{3})?$")] = ""
    name: Annotated[Text, Field(min_length=1)]
    city: Text = ""
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    elevation: float = 0.0
    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]


def bundled_file() -> Path:
    """The 28,000 airports that the package `airportsdata` carries."""
    return Path(str(importlib.resources.files("airportsdata") / "airports.csv"))


def count_lines(path: Path) -> int:
    """How many airports the file has at most: its lines without the heading."""
    with path.open("rb") as file:
        return max(sum(1 for _ in file) - 1, 0)


def read(path: Path) -> Iterator[AirportRow]:
    """Yield the airports of a file; raise `BadLine` at the first one that is wrong."""
    seen: dict[str, int] = {}
    for line, record in records(path):
        row = check(line, record)
        if first := seen.get(row.icao):
            raise BadLine(line, f"icao: {row.icao} was already on line {first}")
        seen[row.icao] = line
        yield row


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each record with the number of the line on which it begins."""
    # What is not UTF-8 becomes surrogates, which the check refuses: so even that has a line number.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            columns = next(reader, [])
            check_columns(columns)
            while line := reader.line_num + 1:
                fields = next(reader)
                if len(fields) > len(columns):
                    raise BadLine(line, f"{len(fields)} fields, but the heading has {len(columns)}")
                if fields:
                    yield line, dict(zip(columns, fields, strict=False))
        except StopIteration:
            return
        except csv.Error as error:
            raise BadLine(line, str(error)) from error


def check_columns(columns: Sequence[str]) -> None:
    needed = {name for name, field in AirportRow.model_fields.items() if field.is_required()}
    if missing := sorted(needed.difference(columns)):
        raise BadLine(1, f"the heading lacks {', '.join(missing)}")


def check(line: int, record: dict[str, Any]) -> AirportRow:
    try:
        return AirportRow.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        given = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!a}"
        raise BadLine(line, f"{first['loc'][0]}: {first['msg']}{given}") from None


async def replace(session: AsyncSession, tenant: str, rows: Sequence[AirportRow]) -> None:
    """Put these airports in the place of the tenant's, in one transaction.

    Nothing is read first, so the transaction begins by taking the write lock and cannot lose it half way; and
    what can be made ready is ready before, so that it is short.
    """
    values = await asyncio.to_thread(lambda: [{"tenant": tenant, **row.model_dump()} for row in rows])
    table = Airport.metadata.tables[Airport.__tablename__]  # past the mapper: the lock is held half as long
    await session.execute(delete(Airport).where(Airport.tenant == tenant))
    for start in range(0, len(values), INSERT_BATCH):  # between two batches the loop serves requests
        await session.execute(insert(table), values[start : start + INSERT_BATCH])
    await session.commit()


async def counts(session: AsyncSession) -> dict[str, int]:
    """How many airports each tenant has."""
    query = select(Airport.tenant, func.count()).group_by(Airport.tenant)
    return dict((await session.execute(query)).all())


async def highest(session: AsyncSession, tenant: str, limit: int = 8) -> Sequence[Airport]:
    query = select(Airport).where(Airport.tenant == tenant).order_by(Airport.elevation.desc()).limit(limit)
    return (await session.scalars(query)).all()


async def by_country(session: AsyncSession, tenant: str, limit: int = 8) -> list[tuple[str, int]]:
    airports = func.count()
    query = (
        select(Airport.country, airports)
        .where(Airport.tenant == tenant)
        .group_by(Airport.country)
        .order_by(airports.desc())
        .limit(limit)
    )
    return [(country, number) for country, number in await session.execute(query)]


def batches(rows: Iterable[AirportRow], size: int = BATCH) -> Iterator[list[AirportRow]]:
    batch: list[AirportRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
