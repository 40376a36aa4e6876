"""Two versions of an application on one store: each has a task that the other does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import Job, Jobs, JobState
from tests.durable.fleet import worker
from tests.durable.server import Server, until
from tests.durable.worker import Stage, hurried

pytestmark = pytest.mark.postgresql
Start = Callable[..., Any]


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    server: Server = request.getfixturevalue("server")
    return server.url(await server.database())


@pytest.mark.processes
async def test_each_version_runs_what_it_knows_and_neither_fails_or_skips_the_others_jobs(
    store: str, start: Start
) -> None:
    jobs, tasks = await start(store, concurrency=0)
    old, new, both = tasks["note"], tasks["hold"], tasks["block"]
    async with worker(store, only=["note", "block"]) as older:
        known = await jobs.enqueue(old, "free, known to the old one")
        unknown = await jobs.enqueue(new, "free")
        line = [
            await jobs.using(queue="q").enqueue(old, "q 1"),
            await jobs.using(queue="q").enqueue(new, "q 2"),
            await jobs.using(queue="q").enqueue(old, "q 3"),
        ]
        other = await jobs.using(queue="r").enqueue(both, "other queue", 0.0)
        for job in (known, line[0], other):
            assert (await job.wait()).state is JobState.SUCCEEDED
        await until(lambda: _says(jobs, {"hold": 2}))
        for job in (unknown, line[1], line[2]):
            await job.refresh()
            assert (job.state, job.attempt) == (JobState.QUEUED, 0), "nothing is skipped, and nothing fails"
        async with _on_top(store, older, only=["hold", "block"]) as newer:
            # On SQLite one process runs jobs, and the old one is gone.
            await until(lambda: _says(jobs, {} if store.startswith("postgresql") else {"note": 1}))
            for text, job in (("free", unknown), ("q 2", line[1])):
                await newer.hears("began", text)
                newer.open(text)
                assert (await job.wait()).state is JobState.SUCCEEDED
            if store.startswith("postgresql"):
                assert (await line[2].wait()).state is JobState.SUCCEEDED
                ran = older.texts("ran")
                assert set(ran) == {"free, known to the old one", "q 1", "q 3"}
                assert ran.index("q 1") < ran.index("q 3")
            else:
                await line[2].refresh()
                assert (line[2].state, line[2].attempt) == (JobState.QUEUED, 0)


async def _says(jobs: Jobs, unknown: dict[str, int]) -> bool:
    return await jobs.unknown_tasks() == unknown


@asynccontextmanager
async def _on_top(store: str, older: Any, **options: Any) -> AsyncIterator[Any]:
    """The new version, beside the old one where both can run; on SQLite in its place."""
    if store.startswith("sqlite"):
        await older.end()
    async with worker(store, **options) as newer:
        yield newer


async def test_a_job_whose_arguments_do_not_fit_any_more_fails_and_can_be_run_again_when_they_do(store: str) -> None:
    stage = Stage()
    job = await _enqueue_with_the_old_signature(store)

    async def resize(path: str, width: int, height: int) -> None:
        stage.say("ran", f"{path} {width} {height}")

    async with hurried(Jobs(store=store)) as newer:
        newer.task(key="resize")(resize)
        old = await newer.get(job.id)
        await old.wait()
        assert (old.state, old.error and old.error.type) == (JobState.FAILED, "asgi_jobs.errors.ArgumentsUnreadable")
        assert "height" in (old.error.message if old.error else "")

    async def resize_square(path: str, width: int, height: int = 0) -> None:
        stage.say("ran", f"{path} {width} {height or width}")

    async with hurried(Jobs(store=store)) as mended:
        mended.task(key="resize")(resize_square)
        again = await mended.retry(job.id)
        assert (await again.wait()).state is JobState.SUCCEEDED
    assert stage.texts("ran") == ["a.png 10 10"]


async def _enqueue_with_the_old_signature(store: str) -> Job:
    async def resize(path: str, width: int) -> None: ...

    async with hurried(Jobs(store=store, concurrency=0)) as older:
        return await older.enqueue(older.task(key="resize")(resize), "a.png", 10)


async def test_a_job_whose_argument_changed_its_type_fails_and_the_queue_goes_on(store: str) -> None:
    stage = Stage()

    async def greet(name: str) -> None: ...

    async with hurried(Jobs(store=store, concurrency=0)) as older:
        task = older.task(key="greet")(greet)
        stale = await older.using(queue="q").enqueue(task, "Ada")

    async def greet_number(name: int) -> None:
        stage.say("ran", f"{name}")

    async with hurried(Jobs(store=store)) as newer:
        fresh = await newer.using(queue="q").enqueue(newer.task(key="greet")(greet_number), 7)
        await fresh.wait()
        failed = await newer.get(stale.id)
    assert (failed.state, fresh.state, stage.texts("ran")) == (JobState.FAILED, JobState.SUCCEEDED, ["7"])
    assert failed.error is not None
    assert "name" in failed.error.message
