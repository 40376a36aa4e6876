"""A FastAPI application whose jobs use the generator dependency of its handlers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asgi_jobs import Jobs, JobsMiddleware
from tests.servers.apps.work import AUTHORIZE, short, tell

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['DATABASE']}")
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session
        await session.commit()


Session = Annotated[AsyncSession, Depends(get_session)]
jobs = Jobs(session_factory=get_session, authorize=AUTHORIZE)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    tell("application starts")
    yield
    async with sessions() as session:
        tell(f"application stops with {await session.scalar(select(func.count()).select_from(Note))} notes")
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.mount("/jobs", jobs)
app.add_middleware(JobsMiddleware, jobs=jobs)


async def write(session: Session, text: str) -> None:
    session.add(Note(text=text))
    await session.flush()
    await short()


async def fail(session: Session, text: str) -> None:
    session.add(Note(text=text))
    await session.flush()
    raise RuntimeError("after the flush")


@app.get("/ready")
async def ready() -> str:
    return "ready"


@app.get("/notes")
async def notes(session: Session) -> list[str]:
    return list((await session.execute(select(Note.text))).scalars())


@app.post("/enqueue")
async def enqueue(request: Request, session: Session, text: str = "") -> dict[str, str]:
    return {"id": request.state.jobs.enqueue(fail if text == "bad" else write, text).id}
