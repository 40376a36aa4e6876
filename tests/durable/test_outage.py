"""PostgreSQL goes away: stopped and started again, or behind a network that goes silent without breaking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from asgi_jobs import Jobs, JobState, StoreAway
from asgi_jobs.testing import settle
from tests.durable.fleet import worker
from tests.durable.proxy import Proxy, proxy
from tests.durable.server import Server, until
from tests.durable.worker import Stage, declare, hurried, impatient

pytestmark = pytest.mark.postgresql
Start = Callable[..., Any]
Complaints = Callable[[], list[str]]


@pytest.fixture
async def database(server: Server) -> str:
    return await server.database()


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Proxy]:
    async with proxy(server.port) as made:
        yield made


@pytest.fixture
def away(wire: Proxy, server: Server, database: str) -> str:
    """The URL through the proxy."""
    return server.url(database, wire.port)


async def ill(jobs: Jobs) -> bool:
    return not (await jobs.health()).ok


async def well(jobs: Jobs) -> bool:
    return (await jobs.health()).ok


def outages(complaints: list[str]) -> list[str]:
    """What the store said of the database, in short; every other complaint as it is."""
    said = []
    for line in complaints:
        if line.startswith("ERROR The store at") and "does not answer" in line:
            said.append("away")
        elif line.startswith("WARNING The store answers again"):
            said.append("back")
        elif "may not go on in this process" in line:
            said.append("given up")
        else:
            said.append(line)
    return said


async def test_a_server_that_is_stopped_and_started_again_loses_nothing(
    server: Server, database: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(server.url(database))
    long = await jobs.using(queue="q").enqueue(tasks["hold"], "long")
    await jobs.using(queue="q").enqueue(tasks["note"], "behind it")
    await stage.hears("began", "long")
    server.stop()
    try:
        await until(lambda: ill(jobs))
        waiting = asyncio.ensure_future(_enqueued(jobs, tasks["note"], "meanwhile"))
        await stage.hears("cancelled", "long")  # longer than the grace: another process may have it by now
        assert not waiting.done()
        assert [reason for reason in (await jobs.health()).reasons if "does not answer" in reason]
    finally:
        server.start()
    await stage.hears("began", "long", times=2)
    stage.gates["long"].set()
    await (await waiting).wait()
    await jobs.join()
    assert stage.texts("ran") in (["meanwhile", "behind it"], ["behind it", "meanwhile"])
    assert (await jobs.counts())[JobState.SUCCEEDED] == 3
    await long.refresh()
    assert (long.attempt, long.state) == (1, JobState.SUCCEEDED)
    assert await well(jobs)
    await until(lambda: outages(complaints()) == ["away", "given up", "back"], 8)


async def _enqueued(jobs: Jobs, task: Any, *args: Any, **options: Any) -> Any:
    return await jobs.using(**options).enqueue(task, *args)


async def test_a_job_outlives_an_outage_shorter_than_the_grace(
    server: Server, database: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(server.url(database), grace=8.0)
    job = await jobs.enqueue(tasks["hold"], "job")
    await stage.hears("began", "job")
    server.stop()
    try:
        await until(lambda: ill(jobs))
        stage.gates["job"].set()
        await stage.hears("ended", "job")
    finally:
        server.start()
    assert (await job.wait()).state is JobState.SUCCEEDED
    assert stage.texts("began") == ["job"]
    await until(lambda: outages(complaints()) == ["away", "back"], 8)


async def test_a_silence_shorter_than_the_grace_is_only_a_delay(
    wire: Proxy, away: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(away, grace=8.0)
    job = await jobs.enqueue(tasks["hold"], "job")
    await stage.hears("began", "job")
    wire.fall_silent()
    waiting = asyncio.ensure_future(_enqueued(jobs, tasks["note"], "meanwhile"))
    stage.gates["job"].set()
    await stage.hears("ended", "job")
    await asyncio.sleep(0.3)  # the network is silent for so long
    wire.go_on()
    await (await waiting).wait()
    assert (await job.wait()).state is JobState.SUCCEEDED
    assert stage.texts("began") == ["job"]
    assert complaints() == []


@pytest.mark.parametrize("then", ["go_on", "drop", "strand"])
async def test_a_silence_longer_than_the_grace_ends_what_runs_and_it_runs_again(
    then: str, wire: Proxy, away: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(away)
    await jobs.using(queue="q").enqueue(tasks["hold"], "long")
    await jobs.using(queue="q").enqueue(tasks["note"], "first")
    await stage.hears("began", "long")
    wire.fall_silent()
    waiting = [asyncio.ensure_future(_enqueued(jobs, tasks["note"], text, queue="q")) for text in ("second", "third")]
    await stage.hears("cancelled", "long")
    assert await ill(jobs)
    getattr(wire, then)()
    stage.gates["long"].set()
    for enqueued in waiting:
        await (await enqueued).wait()
    await jobs.join()
    assert stage.texts("began") == ["long", "long"]
    assert stage.texts("ran") == ["first", "second", "third"]
    assert (await jobs.counts())[JobState.SUCCEEDED] == 4
    await until(lambda: "away" not in outages(complaints()) or "back" in outages(complaints()), 8)
    said = outages(complaints())
    said.remove("given up")
    assert said in ([], ["away", "back"]), "the late answer may still have come in time for the transactions"


@pytest.mark.parametrize("network", ["fall_silent", "strand"])
async def test_what_must_ask_the_database_raises_when_nobody_answers_and_says_so_soon(
    network: str, wire: Proxy, away: str, start: Start
) -> None:
    jobs, _tasks = await start(away, beat=60.0, grace=600.0)
    getattr(wire, network)()
    async with asyncio.timeout(4):
        with pytest.raises(StoreAway, match="no answer within 1 s"):
            await jobs.counts()
    wire.go_on()
    await until(lambda: well(jobs))


async def test_connections_that_ended_while_nobody_used_them_are_not_noticed(
    server: Server, database: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(server.url(database), beat=60.0, grace=600.0)
    await (await jobs.enqueue(tasks["note"], "before")).wait()
    idle = "datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'"
    pids = await server.ask(f"SELECT array_agg(pid) FROM pg_stat_activity WHERE {idle}", database)
    await server.ask(f"SELECT count(pg_terminate_backend(pid)) FROM unnest(ARRAY{pids}) AS one(pid)")
    await until(lambda: server.ask(f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY(ARRAY{pids})"))
    await settle()  # what the driver has received it has seen
    await (await jobs.enqueue(tasks["note"], "afterwards")).wait()
    assert stage.texts("ran") == ["before", "afterwards"]
    assert complaints() == []


@pytest.mark.processes
async def test_a_process_that_is_cut_off_stops_before_another_one_takes_over(
    server: Server, database: str, wire: Proxy, away: str, start: Start, stage: Stage, complaints: Complaints
) -> None:
    jobs, tasks = await start(away)
    job = await jobs.using(queue="q").enqueue(tasks["hold"], "job")
    await stage.hears("began", "job")
    async with worker(server.url(database)) as other:
        waiting = asyncio.ensure_future(job.wait())  # while it still runs here
        wire.cut()
        await stage.hears("cancelled", "job")
        assert other.texts("began") == []
        await other.hears("began", "job")
        wire.go_on()
        await until(lambda: well(jobs))
        other.open("job")
        await waiting
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
        assert stage.texts("began") == ["job"]
        assert [attempt.error.type for attempt in job.attempts if attempt.error] == ["asgi_jobs.errors.ProcessDied"]
        note = await jobs.enqueue(tasks["note"], "afterwards")
        await note.wait()
    said = outages(complaints())
    assert [line for line in said if line in {"away", "given up", "back"}].count("away") == 1
    assert [line for line in said if "was refused" in line], said


async def test_an_application_stops_in_time_while_the_database_is_away(
    server: Server, database: str, wire: Proxy, away: str, stage: Stage, complaints: Complaints
) -> None:
    jobs = hurried(Jobs(store=away, shutdown_timeout=timedelta(seconds=3)), grace=2.0)
    tasks = declare(jobs, stage)
    async with asyncio.timeout(8):
        async with jobs:
            impatient(jobs)
            running = await jobs.enqueue(tasks["hold"], "running")
            await stage.hears("began", "running")
            wire.fall_silent()
            lost = jobs.enqueue(tasks["note"], "never stored")
    with pytest.raises(Exception, match="was not stored"):
        await lost
    wire.drop()
    async with hurried(Jobs(store=server.url(database))) as later:
        declare(later, stage)
        await stage.hears("began", "running", times=2)
        stage.gates["running"].set()
        job = await later.get(running.id)
        assert (await job.wait()).state is JobState.SUCCEEDED
    assert [line for line in complaints() if line.startswith("ERROR 1 job(s) were not stored")]
