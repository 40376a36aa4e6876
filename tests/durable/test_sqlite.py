"""What can befall a file: a full disk, one that may not be written, another's lock, garbage in it."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import Jobs, JobState, NotStored, StoreLocked, StoreUnusable
from asgi_jobs.stores.sql import outage, sqlite
from tests.durable.fleet import Worker, worker
from tests.durable.server import until
from tests.durable.worker import Stage

Start = Callable[..., Any]
Complaints = Callable[[], list[str]]


def url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    if os.geteuid():
        pytest.skip("only root can mount a disk; test_a_file_that_may_grow_no_further_… needs none")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a disk: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def whole(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


async def is_ill(jobs: Jobs) -> bool:
    return not (await jobs.health()).ok


async def is_well(jobs: Jobs) -> bool:
    return (await jobs.health()).ok


async def test_a_full_disk_is_said_where_a_job_is_enqueued_and_costs_none_that_was_accepted(
    disk: Path, start: Start, stage: Stage, complaints: Complaints, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, tasks = await start(url(disk / "jobs.db"))
    job = await jobs.using(queue="q").enqueue(tasks["hold"], "runs meanwhile")
    behind = await jobs.using(queue="q").enqueue(tasks["note"], "behind it")
    await stage.hears("began", "runs meanwhile")
    monkeypatch.setattr(outage, "CALM", 2.0)  # a small row may still fit in
    ballast = disk / "ballast"
    _fill(ballast)
    with pytest.raises(NotStored, match="full"):
        await jobs.enqueue(tasks["note"], "x" * 100_000)
    stage.gates["runs meanwhile"].set()  # its outcome cannot be stored
    await until(lambda: is_ill(jobs))
    assert any("full" in reason for reason in (await jobs.health()).reasons)
    assert (await jobs.get(job.id)).state is JobState.RUNNING  # what is there can be read
    ballast.unlink()
    await jobs.join()
    assert await is_well(jobs)
    for one in (job, behind):
        assert (await one.wait()).state is JobState.SUCCEEDED
    assert stage.texts("began") == ["runs meanwhile"]
    assert whole(disk / "jobs.db")
    await until(lambda: "answers again" in complaints()[-1])
    said = [line for line in complaints() if "could not be stored" not in line]
    assert len(said) == 2, said
    assert "full" in said[0]
    assert "answers again" in said[1]


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(b"x" * 4096):
            pass


@pytest.mark.processes
async def test_a_file_that_may_grow_no_further_costs_no_job_that_was_accepted(file: Path, start: Start) -> None:
    jobs, tasks = await start(url(file), concurrency=0)
    first = await jobs.enqueue(tasks["hold"], "first")
    async with worker(url(file)) as runner:
        await runner.hears("began", "first")
        _limit(runner, 4096)
        second = await jobs.enqueue(tasks["note"], "second")
        runner.open("first")
        await until(lambda: any("cannot be used" in line for line in runner.logged))
        _limit(runner, resource.RLIM_INFINITY)
        for job in (first, second):
            assert (await job.wait()).state is JobState.SUCCEEDED
        assert runner.texts("began") == ["first"]
    assert whole(file)


def _limit(process: Worker, size: int) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_a_disk_that_may_only_be_read_is_refused_at_the_start(disk: Path, start: Start, stage: Stage) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreUnusable, match=r"cannot be used: .*(read-?only|unable to open)"):
        await start(url(disk / "jobs.db"))


async def test_a_file_that_may_only_be_read_is_refused_at_the_start(disk: Path, start: Start, stage: Stage) -> None:
    with closing(sqlite3.connect(disk / "jobs.db")) as made:
        made.execute("CREATE TABLE other (id)")
        made.commit()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreUnusable, match=r"cannot be used: .*(read-?only|unable to open)"):
        await start(url(disk / "jobs.db"))


async def test_a_directory_that_is_not_there_is_refused_at_the_start(tmp_path: Path, start: Start) -> None:
    with pytest.raises(StoreUnusable, match="unable to open"):
        await start(url(tmp_path / "nowhere" / "jobs.db"))


async def test_garbage_is_refused_at_the_start(file: Path, start: Start) -> None:
    file.write_bytes(b"this is no database, but somebody's letter. " * 400)
    with pytest.raises(StoreUnusable, match="not a database"):
        await start(url(file))
    assert file.read_bytes().startswith(b"this is no database"), "it is left as it is"


async def test_a_damaged_file_is_refused_at_the_start(file: Path, start: Start) -> None:
    async with Jobs(store=url(file)):
        pass
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * (4096 - 100)  # the page on which the tables are listed
    file.write_bytes(data)
    with pytest.raises(StoreUnusable, match=r"malformed|not a database"):
        await start(url(file))


async def test_a_lock_held_for_too_long_is_said_where_a_job_is_enqueued_and_work_goes_on_afterwards(
    file: Path, start: Start, stage: Stage, complaints: Complaints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.3)
    jobs, tasks = await start(url(file))
    running = await jobs.enqueue(tasks["hold"], "running")
    await stage.hears("began", "running")
    with locked(file):
        with pytest.raises(StoreLocked, match="on_commit"):
            await jobs.enqueue(tasks["note"], "awaited")
        later = jobs.enqueue(tasks["note"], "not awaited yet")
        stage.gates["running"].set()
        await until(lambda: is_ill(jobs))
        assert (await jobs.get(running.id)).state is JobState.RUNNING  # reading waits for nobody
    await (await later).wait()
    assert (await running.wait()).state is JobState.SUCCEEDED
    assert stage.texts("ran") == ["not awaited yet"]
    await until(lambda: "answers again" in complaints()[-1])
    said = [line for line in complaints() if "could not be stored" not in line and "wait to be stored" not in line]
    assert len(said) == 2, said
    assert "for too long" in said[0]
    assert "answers again" in said[1]


@pytest.mark.processes
async def test_a_process_that_stands_by_runs_nothing_until_the_other_is_gone(file: Path, start: Start) -> None:
    jobs, tasks = await start(url(file), concurrency=0)
    async with worker(url(file)) as first, worker(url(file)) as second:
        for number in range(20):
            await jobs.enqueue(tasks["note"], f"{number}")
        await jobs.join()
        assert (len(first.texts("ran")), second.texts("ran")) == (20, [])
        await first.end()
        job = await jobs.enqueue(tasks["note"], "to the other")
        await job.wait()
        assert second.texts("ran") == ["to the other"]


async def test_awaiting_many_jobs_while_the_file_is_locked_loses_none(
    file: Path, start: Start, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.3)
    jobs, tasks = await start(url(file))
    with locked(file):
        answers = await asyncio.gather(
            *(_enqueued(jobs, tasks["note"], f"{number}") for number in range(50)), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {StoreLocked}
    await jobs.enqueue(tasks["note"], "afterwards")
    await jobs.join()
    assert stage.texts("ran") == ["afterwards"], "what was refused was not stored"


async def _enqueued(jobs: Jobs, task: Any, *args: Any) -> Any:
    return await jobs.enqueue(task, *args)
