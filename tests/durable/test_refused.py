"""Stores that cannot be used: each is refused with a sentence that names the remedy, and nothing is left behind."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asgi_jobs import InvalidCall, InvalidOption, InvalidOptionType, Jobs, JobState, StoreAway, StoreUnusable
from tests.durable.server import Server, free_port, until
from tests.durable.worker import Stage, declare

Start = Callable[..., Any]


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("postgresql://me@host/db", r"postgresql\+asyncpg://"),
        ("postgresql+psycopg2://me@host/db", r"not asyncpg; write postgresql\+asyncpg://"),
        ("postgresql+psycopg://me@host/db", r"not asyncpg; write postgresql\+asyncpg://"),
        ("sqlite:///jobs.db", r"not aiosqlite; write sqlite\+aiosqlite://"),
        ("mysql+aiomysql://me@host/db", "'mysql' is no database that keeps jobs"),
        ("redis://localhost", "'redis' is no database that keeps jobs"),
        ("jobs.db", "no database URL"),
        ("", "no database URL"),
        ("sqlite+aiosqlite://", "in memory keeps nothing"),
        ("sqlite+aiosqlite:///:memory:", "in memory keeps nothing"),
        ("sqlite+aiosqlite:///file:jobs?mode=memory&uri=true", "in memory keeps nothing"),
    ],
)
def test_a_url_that_cannot_work_is_refused_when_it_is_given(store: str, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Jobs(store=store)


@pytest.mark.parametrize("store", [42, b"sqlite+aiosqlite:///jobs.db", Path("jobs.db"), object()])
def test_what_is_no_url_is_refused_when_it_is_given(store: Any) -> None:
    with pytest.raises(InvalidOptionType, match=r"store must be \"sqlite\+aiosqlite:///jobs.db\""):
        Jobs(store=store)


async def test_an_engine_in_memory_is_refused_when_it_is_given() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(InvalidOption, match="in memory keeps nothing"):
        Jobs(store=engine)
    await engine.dispose()


def test_a_secret_in_a_url_is_not_repeated() -> None:
    with pytest.raises(InvalidOption) as refused:
        Jobs(store="mysql+aiomysql://me:secret@host/db")
    assert "secret" not in str(refused.value)


async def begin(store: Any, **options: Any) -> None:
    async with Jobs(store=store, **options):
        raise AssertionError("it has started")


@pytest.mark.postgresql
async def test_a_port_on_which_nobody_listens_is_said_at_the_start(server: Server) -> None:
    with pytest.raises(StoreAway, match=r"postgres@127.0.0.1:\d+/nobody does not answer"):
        await begin(server.url("nobody", free_port()))


@pytest.mark.postgresql
async def test_a_database_that_is_not_there_is_said_at_the_start(server: Server) -> None:
    with pytest.raises(StoreUnusable, match='"nowhere" does not exist'):
        await begin(server.url("nowhere"))


@pytest.mark.postgresql
async def test_a_role_that_may_not_log_in_is_said_at_the_start_without_its_password(server: Server) -> None:
    url = server.url(await server.database()).replace("postgres@", "nobody:secret@")
    with pytest.raises(StoreUnusable, match='"nobody" does not exist') as refused:
        await begin(url)
    assert "secret" not in str(refused.value)


@pytest.mark.postgresql
async def test_a_role_that_may_make_no_tables_is_said_at_the_start(server: Server) -> None:
    database = await server.database()
    await server.ask(f"CREATE ROLE {database} LOGIN")
    with pytest.raises(StoreUnusable, match="permission denied"):
        await begin(server.url(database).replace("postgres@", f"{database}@"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    server: Server = request.getfixturevalue("server")
    return server.url(await server.database())


@pytest.mark.postgresql
async def test_tables_that_are_missing_and_may_not_be_made_are_said_at_the_start(store: str) -> None:
    with pytest.raises(StoreUnusable, match=r"asgi_jobs.* not there.*create_tables=False.*Alembic"):
        await begin(store, create_tables=False)


@pytest.mark.postgresql
async def test_tables_of_a_newer_version_are_left_alone(store: str) -> None:
    async with Jobs(store=store):
        pass
    engine = create_async_engine(store)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE asgi_jobs_meta SET value = 1000 WHERE key = 'version'")
    await engine.dispose()
    with pytest.raises(StoreUnusable, match=r"version 1000.*Update asgi_jobs"):
        await begin(store)


@pytest.mark.postgresql
async def test_tables_that_are_there_need_no_right_to_make_any(store: str, stage: Stage) -> None:
    async with Jobs(store=store):
        pass
    jobs = Jobs(store=store, create_tables=False)
    tasks = declare(jobs, stage)
    async with jobs:
        assert (await (await jobs.enqueue(tasks["note"], "x")).wait()).state is JobState.SUCCEEDED


@pytest.mark.postgresql
async def test_what_cannot_be_stored_is_refused_where_it_is_enqueued(store: str, start: Start) -> None:
    jobs, tasks = await start(store)

    async def undeclared() -> None: ...

    for function in (lambda: None, undeclared):
        with pytest.raises(InvalidCall, match=r"@jobs\.task"):
            jobs.enqueue(function)
    with pytest.raises(InvalidCall, match="text"):
        jobs.enqueue(tasks["note"], object())
    with pytest.raises(InvalidCall, match="seconds"):
        jobs.enqueue(tasks["block"], "text", "not a number")
    assert sum((await jobs.counts()).values()) == 0


# Poolers


@contextmanager
def _pgbouncer(server: Server, folder: Path, mode: str) -> Iterator[int]:
    """A pgbouncer before the server; the port on which it listens."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer on this machine")
    port = free_port()
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text('"postgres" ""\n')
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = trust\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\n"
        f"logfile = {folder}/log\nmax_client_conn = 100\ndefault_pool_size = 10\n"
        f"ignore_startup_parameters = extra_float_digits, jit\n"
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    for parent in folder.parents:
        if parent.stat().st_uid == folder.stat().st_uid and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    account = ["-u", "nobody"] if folder.stat().st_uid == 0 else []
    process = subprocess.Popen([program, *account, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def pooler(server: Server, tmp_path: Path) -> Callable[[str], Any]:
    return lambda mode: _pgbouncer(server, tmp_path, mode)


async def listening(port: int) -> None:
    async def reached() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(reached)


@pytest.mark.postgresql
@pytest.mark.processes
async def test_a_pooler_that_shares_sessions_is_refused_and_the_message_names_direct_url(
    server: Server, pooler: Callable[[str], Any]
) -> None:
    database = await server.database()
    with pooler("transaction") as port:
        await listening(port)
        with pytest.raises(StoreUnusable, match=r"pooler.*direct_url"):
            await begin(server.url(database, port))


@pytest.mark.postgresql
@pytest.mark.processes
async def test_jobs_run_through_a_pooler_that_shares_sessions_when_direct_url_leads_past_it(
    server: Server, pooler: Callable[[str], Any], start: Start, stage: Stage
) -> None:
    database = await server.database()
    with pooler("transaction") as port:
        await listening(port)
        jobs, tasks = await start(server.url(database, port), direct_url=server.url(database))
        for number in range(30):
            await jobs.using(queue=f"q{number % 3}").enqueue(tasks["note"], f"{number}")
        await jobs.join()
        assert sorted(stage.texts("ran"), key=int) == [f"{number}" for number in range(30)]


@pytest.mark.postgresql
@pytest.mark.processes
async def test_a_pooler_that_keeps_sessions_needs_nothing_more(
    server: Server, pooler: Callable[[str], Any], start: Start, stage: Stage
) -> None:
    database = await server.database()
    with pooler("session") as port:
        await listening(port)
        jobs, tasks = await start(server.url(database, port))
        await (await jobs.enqueue(tasks["note"], "x")).wait()
        assert stage.texts("ran") == ["x"]
