"""What only stores in a database promise: uncertain commits, other processes, jobs whose process died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from asgi_jobs import Jobs
from asgi_jobs.clock import Clock
from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import InvalidOption, StoreAway, StoreUnusable
from asgi_jobs.job import JobState, Record
from asgi_jobs.stores.base import Claimed, Verdict
from asgi_jobs.stores.sql import SqlStore, pg_exchange, postgresql, taking
from asgi_jobs.stores.sql.database import Asked, Want
from asgi_jobs.stores.sql.leader import Leader
from asgi_jobs.stores.sql.presence import Presence
from asgi_jobs.stores.sql.tables import VERSION, jobs, meta, workers
from asgi_jobs.task import Retry
from tests.postgres import database, server
from tests.stores.bench import Bench, Clockwork, Ended, names, opened

SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
HELD = Verdict.HELD
SQL = ("sqlite", "postgresql")
Second = Callable[..., Awaitable[Bench]]


@pytest.fixture(params=SQL)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with opened(request.param, limits={"wide": 3}) as opened_bench:
        yield opened_bench


@pytest.fixture
async def second(bench: Bench) -> AsyncIterator[Second]:
    """Opens the same database a second time, as another process would."""
    async with AsyncExitStack() as stack:

        async def enter(**settings: Any) -> Bench:
            other = Bench()
            other.tasks = bench.tasks
            store = inside(bench)
            url = store._database.url.render_as_string(hide_password=False)
            other.store = SqlStore(
                url,
                tasks=lambda: other.tasks,
                clock=Clockwork(bench),
                **({"limits": {}, "max_queued": 1_000, "max_finished": 1_000, "concurrency": 10} | settings),
                direct_url=None,
                create_tables=True,
            )
            await inside(other).open(other)
            stack.push_async_callback(inside(other).close)
            return other

        yield enter


def inside(bench: Bench) -> SqlStore:
    assert isinstance(bench.store, SqlStore)
    return bench.store


async def rows(bench: Bench, *columns: Any) -> list[Any]:
    return list(await inside(bench)._read(lambda connection: connection.execute(select(*columns)).all()))


async def change(bench: Bench, record: Record, **values: Any) -> None:
    def work(connection: Connection) -> None:
        connection.execute(update(jobs).where(jobs.c.id == record.id).values(**values))

    await inside(bench)._write(work)


def fail_after(store: SqlStore, times: int = 1) -> None:
    """The database carries exchanges out, but its answer is lost."""
    exchange, left = store._database.exchange, [times]

    async def cut_off(asked: Any) -> Any:
        answer = await exchange(asked)
        if left[0]:
            left[0] -= 1
            raise StoreAway("cut off")
        return answer

    store._database.exchange = cut_off  # type: ignore[method-assign]


# Ids


async def test_ids_sort_by_the_time_of_the_call_whoever_made_them(bench: Bench, second: Second) -> None:
    other = await second()
    made = []
    for n in range(6):
        bench.now += 0.002
        record = bench.job(str(n))
        inside(bench if n % 2 else other).stamp(record)
        made.append(record.id)
    assert made == sorted(made)
    assert len(set(made)) == 6


async def test_an_id_does_not_go_back_when_the_clock_does(bench: Bench) -> None:
    first, later = bench.job("a"), bench.job("b")
    inside(bench).stamp(first)
    bench.now -= 3_600
    inside(bench).stamp(later)
    assert later.id > first.id


# Answers that are lost


async def test_a_claim_whose_answer_was_lost_is_found_again(bench: Bench) -> None:
    await bench.queue("q", "a", "b")
    fail_after(inside(bench))
    with pytest.raises(StoreAway):
        await bench.exchange()
    assert names(await bench.claim()) == ["a"]
    assert await bench.claim() == []


async def test_a_claim_whose_answer_was_lost_is_found_again_though_there_is_no_room(bench: Bench) -> None:
    (first, _) = await bench.queue("q", "a", "b")
    fail_after(inside(bench))
    with pytest.raises(StoreAway):
        await bench.exchange()
    claimed = await bench.exchange((), 1, 1)
    assert names(list(claimed.jobs)) == ["a"]
    assert claimed.jobs[0] is first


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_an_outcome_whose_answer_was_lost_is_not_refused_when_it_is_told_again(
    bench: Bench, verdict: Verdict
) -> None:
    await bench.queue("q", "a", "b")
    (job,) = await bench.claim()
    fail_after(inside(bench))
    outcome = Ended(job, verdict, delay=60.0)
    with pytest.raises(StoreAway):
        await bench.exchange([outcome], 0, 0)
    again = await bench.exchange([outcome], 0, 0)
    assert list(again.refused) == []
    assert job.state is verdict.value
    assert (await bench.get(job)).attempt == 1


async def test_a_job_that_was_stored_though_the_answer_was_lost_is_not_stored_twice(bench: Bench) -> None:
    job = bench.job("a", "q")
    await bench.add(job)
    assert await bench.add(job) == [job.id]
    assert await bench.find() == ["a"]


async def test_what_becomes_ready_while_an_exchange_is_under_way_is_found_by_the_next(bench: Bench) -> None:
    store = inside(bench)
    await bench.queue("q", "a")
    exchange = store._database.exchange

    async def slowly(asked: Any) -> Any:
        answer = await exchange(asked)
        store._database.exchange = exchange  # type: ignore[method-assign]
        await bench.queue("other", "late")  # committed after the claim has looked
        store.heard({"wake": None})
        return answer

    store._database.exchange = slowly  # type: ignore[method-assign]
    assert names(await bench.claim()) == ["a"]
    assert names(await bench.claim()) == ["late"]


# The round over all queues


async def _until_no_more(bench: Bench) -> tuple[list[str], int]:
    """Exchanges until the store says that there is no more; the names of what was claimed, and how many it took."""
    claimed: list[str] = []
    for n in range(1, 20):
        answer = await bench.exchange()
        claimed += names(list(answer.jobs))
        if not answer.more:
            return claimed, n
    raise AssertionError("the store always wants to be asked again")


async def test_a_round_over_more_queues_than_are_looked_at_in_one_step_comes_to_an_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "DEPTH", 3)
    for n in range(10):
        await bench.queue(f"q{n}", f"{n} runs", f"{n} waits")
    inside(bench).heard({"wake": None})
    claimed, _ = await _until_no_more(bench)
    assert sorted(claimed) == sorted(f"{n} runs" for n in range(10))
    inside(bench).heard({"wake": None})
    claimed, steps = await _until_no_more(bench)
    assert (claimed, steps <= 8) == ([], True)  # 10 blocked queues in steps of 3, from where the last round was
    await bench.cancel(*(job.id for job in await resolve(bench.store.waiting_in("q9", 10))))
    await bench.queue("q9", "late")
    await bench.queue("z", "new")
    inside(bench).heard({"wake": None})
    claimed, _ = await _until_no_more(bench)
    assert claimed == ["new"]


async def test_a_round_goes_on_where_there_was_no_room_for_more(bench: Bench) -> None:
    for n in range(6):
        await bench.queue(f"q{n}", f"{n}a", f"{n}b")
    inside(bench).heard({"wake": None})
    started: list[str] = []
    running: list[Record] = []
    for _ in range(6):
        running = list((await bench.exchange([Ended(job) for job in running], 2, 2)).jobs)
        started += names(running)
    assert started == ["0a", "1a", "2a", "3a", "4a", "5a", "0b", "1b", "2b", "3b", "4b", "5b"]


# What is read


async def test_a_record_is_one_object_as_long_as_somebody_holds_it(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    assert await bench.get(job) is job
    (claimed,) = await bench.claim()
    assert claimed is job


async def test_a_view_shows_what_another_process_did_once_its_row_is_read(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    (job,) = await bench.queue("q", "a")
    seen = await other.get(job)
    (claimed,) = await bench.claim()
    await bench.end(claimed)
    assert seen.state is JobState.QUEUED  # as last read
    await other.get(seen)
    assert (seen.state, seen.finished) == (SUCCEEDED, bench.now)


async def test_a_read_that_began_before_the_end_does_not_undo_it(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    (claimed,) = await bench.claim()
    (old,) = await rows(bench, jobs)
    await bench.end(claimed)
    inside(bench)._record(old)
    assert job.state is SUCCEEDED


async def test_a_job_of_a_task_that_is_not_declared_here_is_shown_and_never_claimed(
    bench: Bench, second: Second
) -> None:
    other = await second(concurrency=0)
    other.tasks = {}
    (job,) = await bench.queue("q", "a", task="newer:task")
    seen = await other.get(job)
    assert (seen.plan.key, seen.plan.label, seen.func) == ("newer:task", "task", None)
    bench.tasks.pop("newer:task")
    await bench.queue("q", "b")  # behind it: nothing is skipped
    await bench.queue(None, "lone", task="newer:task")
    bench.tasks.pop("newer:task")
    assert await bench.claim() == []
    declared = update(workers).values(tasks='["suite:work"]')  # a beat may have come while the other was there
    await inside(bench)._write(lambda connection: connection.execute(declared))
    assert await inside(bench).unknown_tasks() in ({"newer:task": 2}, {"newer:task": 2, "suite:work": 1})


async def test_own_retries_and_time_limit_of_a_job_come_back_with_its_row(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    job = bench.job("a")
    retry = Retry(2, base=timedelta(seconds=3), on=(ValueError, OSError))
    job.detail().retries, job.detail().timeout = retry, timedelta(seconds=9)
    plain, none = bench.job("plain"), bench.job("none")
    none.detail().retries = none.detail().timeout = False
    await bench.add(job, plain, none)
    assert [(seen.retry, seen.timeout) for seen in [await other.get(one) for one in (job, plain, none)]] == [
        (retry, timedelta(seconds=9)),
        (None, None),
        (None, None),
    ]
    assert (await other.get(none)).detail().retries is False


async def test_retries_on_an_exception_that_no_row_can_name_are_refused_at_the_call(bench: Bench) -> None:
    class Ours(Exception):
        pass

    job = bench.job("a")
    job.detail().retries = Retry(2, on=(Ours,))
    with pytest.raises(InvalidOption, match=r"Ours.*@jobs\.task"):
        inside(bench).stamp(job)


async def test_text_that_a_database_cannot_hold_is_replaced(bench: Bench) -> None:
    from asgi_jobs.job import JobError

    await bench.queue("q", "a")
    (job,) = await bench.claim()
    await bench.end(job, Verdict.FAILED, error=JobError("ValueError", "nul \0 half \ud800", "at \0"))
    (row,) = await rows(bench, jobs)
    assert (row.error_message, row.traceback) == ("nul \ufffd half ?", "at \ufffd")


# Processes that die


async def test_a_job_whose_process_died_goes_to_its_place_the_attempt_not_counted(bench: Bench, second: Second) -> None:
    first, _ = await bench.queue("q", "a", "b")
    await bench.claim()
    await change(bench, first, worker=999)
    assert await inside(bench).rescue(999)
    job = await bench.get(first)
    assert (job.state, job.attempt, job.held, job.detail().deaths) == (JobState.QUEUED, 0, True, 1)
    assert [a.error.type for a in job.detail().attempts or () if a.error] == ["asgi_jobs.errors.ProcessDied"]
    inside(bench)._mine.clear()
    assert names(await bench.claim()) == ["a"]


async def test_the_outcome_of_a_job_that_was_taken_over_is_refused_and_changes_nothing(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    outcome = Ended(job)
    await change(bench, job, worker=999)
    await inside(bench).rescue(999)
    answer = await bench.exchange([outcome], 0, 0)
    assert list(answer.refused) == [outcome]
    assert await bench.state(job) is JobState.QUEUED


async def test_after_three_deaths_a_job_is_failed_and_its_queue_goes_on(bench: Bench) -> None:
    first, second = await bench.queue("q", "deadly", "next")
    for _ in range(3):
        (claimed,) = await bench.claim()
        assert claimed is first
        await change(bench, first, worker=999)
        inside(bench)._mine.clear()
        await inside(bench).rescue(999)
    job = await bench.get(first)
    assert (job.state, job.detail().deaths) == (FAILED, 3)
    assert job.error is not None
    assert "died" in job.error.message
    assert await bench.claim() == [second]


async def test_from_its_second_death_on_a_job_runs_beside_no_other_such_job(bench: Bench) -> None:
    jobs_made = [*await bench.queue("a", "a"), *await bench.queue("b", "b"), *await bench.queue("c", "c")]
    await bench.claim()
    inside(bench)._mine.clear()
    for job in jobs_made[:2]:
        await change(bench, job, deaths=1)
    for job in jobs_made:
        await change(bench, job, worker=999)
    await inside(bench).rescue(999)
    claimed = await bench.claim()
    assert len(claimed) == 2  # one that has died twice, and the one that died once
    suspect = next(job for job in claimed if job.detail().deaths == 2)
    assert await bench.claim() == []
    other = (await bench.exchange([Ended(suspect)])).jobs
    assert [job.detail().deaths for job in other] == [2]


async def test_a_job_that_was_asked_to_stop_when_its_process_died_is_cancelled(bench: Bench) -> None:
    first, second = await bench.queue("q", "a", "b")
    await bench.claim()
    await bench.cancel(first.id)
    await change(bench, first, worker=999)
    inside(bench)._mine.clear()
    await inside(bench).rescue(999)
    assert await bench.state(first) is CANCELLED
    assert await bench.claim() == [second]


async def test_a_released_job_runs_again_and_its_old_owner_is_told(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    claim = job.detail().claim
    assert await inside(bench).release(job.id) is job
    assert bench.taken == [[job.id]]
    (again,) = await bench.claim()
    assert again is job
    assert (job.detail().claim or 0) > (claim or 0)
    assert await inside(bench).release("0" * 22) is None


async def test_the_code_of_a_released_job_that_still_runs_here_cannot_speak_for_its_next_attempt(bench: Bench) -> None:
    (first,) = await bench.queue("q", "a")
    await bench.claim()
    first.run = object()  # its code does not stop
    await inside(bench).release(first.id)
    (second,) = await bench.claim()
    assert second is not first
    old, new = Ended(first, Verdict.FAILED), Ended(second)
    assert list((await bench.exchange([old], 0, 0)).refused) == [old]
    assert await bench.state(second) is JobState.RUNNING
    assert not bench.store.drained(0.0)  # a stop still waits for it
    old = Ended(first, Verdict.FAILED)
    assert list((await bench.exchange([old, new], 0, 0)).refused) == [old]
    assert await bench.state(second) is SUCCEEDED


async def test_an_outcome_that_comes_after_the_next_claim_does_not_end_that_attempt(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    late = Ended(job, HELD, counted=False)  # its code has ended, and its outcome waits for the exchange under way
    await inside(bench).release(job.id)
    assert await bench.claim() == [job]
    assert list((await bench.exchange([late], 10, 10)).refused) == [late]
    assert await bench.state(job) is JobState.RUNNING
    assert not bench.store.drained(0.0)
    assert not (await bench.exchange([Ended(job)], 0, 0)).refused


async def test_a_job_that_was_taken_over_is_shown_as_it_stands_there_while_its_code_still_runs_here(
    bench: Bench, second: Second
) -> None:
    other = await second(concurrency=0)
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    claim = job.detail().claim
    job.run = object()
    seen = await other.get(job)
    await inside(other).release(seen.id)
    await change(bench, seen, state=4, slot=None, finished_at=1.75e9)
    await bench.get(job)
    assert (job.state, job.detail().claim) == (SUCCEEDED, claim)


async def test_a_read_from_before_the_claim_does_not_undo_it(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    (old,) = await rows(bench, jobs)
    await bench.claim()
    job.run = object()
    inside(bench)._record(old)
    assert job.state is JobState.RUNNING


async def test_a_release_is_no_death(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    for _ in range(4):
        (job,) = await bench.claim()
        await inside(bench).release(job.id)
    job = await bench.get(job)
    assert (job.state, job.detail().deaths) == (JobState.QUEUED, 0)
    assert {a.error for a in job.detail().attempts or ()} == {None}  # interrupted


async def test_code_that_outlasts_an_orderly_stop_costs_its_job_no_life(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    for _ in range(4):
        await bench.claim()
        await inside(bench)._write(inside(bench)._part)  # as `close` does while it runs
        inside(bench)._mine.clear()
        await inside(bench)._write(lambda connection: connection.execute(update(workers).values(id=999)))
        await change(bench, job, worker=999)
        await inside(bench).rescue(999)
        await inside(bench).close()
        await inside(bench).open(bench)
    job = await bench.get(job)
    assert (job.state, job.attempt, job.detail().deaths) == (JobState.QUEUED, 0, 0)


async def test_a_claim_that_came_too_late_for_the_engine_goes_back_when_the_store_is_closed(bench: Bench) -> None:
    first, _ = await bench.queue("q", "a", "b")
    await bench.claim()
    inside(bench)._mine.clear()  # nobody runs it
    await inside(bench).close()
    await inside(bench).open(bench)
    job = await bench.get(first)
    assert (job.state, job.attempt, job.detail().deaths) == (JobState.QUEUED, 0, 0)
    assert await bench.claim() == [first]


async def test_a_process_of_which_only_a_running_job_is_left_is_seen_to_be_gone() -> None:
    async with opened("postgresql") as bench:
        (job,) = await bench.queue("q", "a")
        await bench.claim()
        await change(bench, job, worker=999)  # claimed while it was just leaving: no table knows it
        presence = inside(bench)._presence
        assert isinstance(presence, Presence)
        assert await presence._session.unlocked(presence.me) == [999]
        assert await inside(bench).rescue(999)
        assert await presence._session.unlocked(presence.me) == []


async def test_no_opening_and_closing_of_the_lock_file_loses_the_lock(tmp_path: Path) -> None:
    async with opened("sqlite") as bench:
        store = inside(bench)
        lock = Path(f"{store._database.url.database}.lock")
        (tmp_path / "copy").write_bytes(lock.read_bytes())
        other = SqlStore(
            store._database.url.render_as_string(), tasks=dict, limits={}, max_queued=1, max_finished=1,
            concurrency=1, direct_url=None, create_tables=True, clock=Clockwork(bench),
        )  # fmt: skip
        await other.open(Bench())
        assert (store._presence.may_run, other._presence.may_run) == (True, False)
        await other.close()


async def test_a_process_whose_lock_file_was_deleted_stops_running_jobs() -> None:
    async with opened("sqlite") as bench:
        presence = inside(bench)._presence
        assert isinstance(presence, Leader)
        Path(f"{inside(bench)._database.url.database}.lock").unlink()
        presence._look_at_lock()
        assert not presence.may_run
        assert bench.taken == [None]


@pytest.mark.postgresql
async def test_an_engine_that_was_given_keeps_its_only_connection() -> None:
    engine = create_async_engine(database(), pool_size=1, max_overflow=0, pool_timeout=5)
    jobs = Jobs(store=engine)

    @jobs.task(key="work")
    async def work() -> None:
        pass

    async with jobs:
        for _ in range(3):
            job = await jobs.enqueue(work)
            assert (await job.wait(timeout=timedelta(seconds=20))).state is JobState.SUCCEEDED
    await engine.dispose()


async def test_a_session_that_ends_while_the_exchange_makes_its_function_is_an_outage_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened("postgresql") as bench:
        (job,) = await bench.queue("q", "a")
        with monkeypatch.context() as patched:
            patched.setattr(pg_exchange, "FUNCTION", "SELECT pg_terminate_backend(pg_backend_pid())")
            with pytest.raises(StoreAway):
                await bench.claim()
        assert await bench.claim() == [job]


async def test_an_error_of_our_own_in_the_exchange_is_not_taken_for_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened("postgresql") as bench:
        (job,) = await bench.queue("q", "a")
        database = inside(bench)._database
        with monkeypatch.context() as patched:
            patched.setattr(database, "space", "no number")
            with pytest.raises(DBAPIError, match="no number"):
                await bench.claim()
        assert await bench.claim() == [job]


async def test_exchanges_at_the_same_time_do_not_meet() -> None:
    async with opened("postgresql") as bench:
        await bench.queue(None, *"abcd")
        store = inside(bench)
        want = Want(n=1, tasks=[*store._tasks()], hints=(), limits={}, cursor="", depth=0, suspects=1)
        asked = Asked(store._presence.me, store.time, (), want, None)
        answers = [await store._database.exchange(asked)]  # it holds a connection from here on
        answers += await asyncio.gather(*(store._database.exchange(asked) for _ in range(3)))
        assert sorted(row.name for answer in answers for row in answer.found.rows) == [*"abcd"]


# Other processes


async def test_a_process_that_freezes_in_a_transaction_holds_up_the_others_only_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgresql, "FROZEN", 200)
    async with opened("postgresql") as bench:
        (job,) = await bench.queue("q", "a")
        row = select(jobs.c.id, func.pg_backend_pid()).where(jobs.c.id == job.id)

        def freeze(connection: Connection) -> None:
            me = connection.execute(row.with_for_update()).one()[1]
            for _ in range(500):  # nothing else runs in this process meanwhile
                if "(0 rows)" in server().psql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {me}"):
                    break
            connection.execute(row)

        with pytest.raises(StoreAway):
            await inside(bench)._write(freeze)
        assert names(await bench.claim()) == ["a"]


async def test_more_ends_than_a_message_can_name_are_heard_of_all_the_same(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    made = await bench.queue(None, *(str(n) for n in range(450)))
    seen = [await other.get(job) for job in made]
    for one in seen:
        await inside(other).watch(one)
    claimed = await bench.claim()
    assert not (await bench.exchange([Ended(job) for job in claimed], 0, 0)).refused
    async with asyncio.timeout(20):
        while set(other.heard_of) != {job.id for job in made}:  # a look that a message began may still be under way
            await inside(other).look_around()


async def test_a_job_that_runs_elsewhere_is_watched_until_its_end(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    (job,) = await bench.queue("q", "a")
    seen = await other.get(job)
    await inside(other).watch(seen)
    assert other.heard_of == []
    (claimed,) = await bench.claim()
    await bench.end(claimed)
    await inside(other).look_around()
    assert set(other.heard_of) == {job.id}
    assert seen.state is SUCCEEDED


async def test_watching_a_job_that_has_ended_tells_so_at_once(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    (job,) = await bench.queue("q", "a")
    seen = await other.get(job)
    (claimed,) = await bench.claim()
    await bench.end(claimed)
    await inside(other).watch(seen)
    assert other.heard_of == [job.id]


async def test_a_cancel_elsewhere_reaches_the_owner_even_if_its_message_is_lost(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    ended, asked = await other.cancel(job.id, reason="enough")
    assert (ended, asked) == ([], [job.id])
    await inside(bench).look_around()
    assert job.id in bench.asked
    assert job.detail().cancel_reason == "enough"


async def test_processes_are_listed_with_what_they_run(bench: Bench, second: Second) -> None:
    bench.job()  # declares its task
    await second(concurrency=0)
    await inside(bench).close()
    await inside(bench).open(bench)
    (job,) = await bench.queue("q", "a")
    await bench.claim()
    other, first = await inside(bench).workers()
    assert [worker.alive for worker in (first, other)] == [True, True]
    assert (first.running, first.busy, first.tasks) == ((job,), 1, ("suite:work",))
    assert (other.running, other.busy, other.concurrency) == ((), 0, 0)
    assert [(w.busy, w.running) for w in await inside(bench).workers(running=False)] == [(0, ()), (1, ())]


async def test_on_sqlite_a_second_process_stands_by_and_on_postgresql_it_does_not(bench: Bench, second: Second) -> None:
    await second(concurrency=10)
    await second(concurrency=0)
    sqlite = inside(bench)._database.url.get_backend_name() == "sqlite"
    assert [worker.standby for worker in await inside(bench).workers()] == [False, sqlite, False]


async def test_a_process_that_has_closed_the_store_is_not_listed(bench: Bench, second: Second) -> None:
    other = await second(concurrency=0)
    assert len(await rows(bench, workers.c.id)) == 2
    await inside(other).close()
    assert len(await rows(bench, workers.c.id)) == 1
    await inside(other).open(other)


async def test_a_schedule_is_remembered_from_when_it_was_first_proposed_for_and_not_by_a_look(bench: Bench) -> None:
    assert (await inside(bench).tickets(["m:nightly"]))["m:nightly"].since is None
    first = (await inside(bench).ticket("m:nightly")).since
    bench.now += 60
    assert (await inside(bench).ticket("m:nightly")).since == first is not None
    assert (await inside(bench).tickets(["m:nightly"]))["m:nightly"].since == first


async def test_a_tick_leads_to_one_run_in_the_whole_fleet(bench: Bench, second: Second) -> None:
    other = await second()
    told = [
        await resolve(one.store.propose(bench.job("run", task="m:nightly"), 100.0)) for one in (bench, other, bench)
    ]
    assert told == [True, False, False]


# Signs of life


async def test_progress_log_and_place_in_the_code_are_read_elsewhere(bench: Bench, second: Second) -> None:
    from collections import deque
    from datetime import UTC, datetime

    from asgi_jobs.frames import Frame
    from asgi_jobs.job import LogLine, Progress, WaitingAt

    other = await second(concurrency=0)
    await bench.queue("q", "a")
    (job,) = await bench.claim()
    at = datetime(2026, 1, 2, tzinfo=UTC)
    details = job.detail()
    details.progress, details.moved = Progress(3, None, "rows", at), bench.now
    details.log, details.log_count = deque([LogLine("half \ud800 of it \0", at)]), 7
    details.waiting_at = WaitingAt((Frame("shop/mail.py", 3, "send", "await it", True),), at)
    await inside(bench).report([job])
    seen = (await other.get(job)).detail()
    assert (seen.progress, seen.waiting_at, seen.log_count) == (details.progress, details.waiting_at, 7)
    assert list(seen.log or ()) == list(details.log)
    assert (seen.log or [LogLine("", at)])[0].at == at


async def test_what_a_job_says_after_it_was_taken_over_is_not_kept(bench: Bench) -> None:
    from datetime import UTC, datetime

    from asgi_jobs.job import Progress

    await bench.queue("q", "a")
    (job,) = await bench.claim()
    job.detail().progress = Progress(3, None, "", datetime(2026, 1, 2, tzinfo=UTC))
    await change(bench, job, claim=10**6)
    await inside(bench).report([job])
    assert [row.progress for row in await rows(bench, jobs.c.progress)] == [None]


# Time


async def test_after_the_clock_was_set_forward_nothing_is_cleaned_up_early() -> None:
    async with opened("sqlite") as bench:
        store, clock = inside(bench), Clock()
        wall = [bench.now + 1_000_000.0]
        clock.monotonic, clock.time = lambda: bench.now, lambda: wall[0]
        store._clock = clock
        await store._follow_clock()
        await bench.queue(None, "a")
        (job,) = await bench.claim()
        await bench.end(job)
        wall[0] += 3_600
        await store._follow_clock()
        bench.now += 60
        assert await store.prune(1_800, 10) == 0
        bench.now += 1_800
        assert await store.prune(1_800, 10) == 1


# Opening


async def test_tables_of_a_newer_version_are_refused(bench: Bench, second: Second) -> None:
    def newer(connection: Connection) -> None:
        connection.execute(update(meta).where(meta.c.key == "version").values(value=VERSION + 1))

    await inside(bench)._write(newer)
    with pytest.raises(StoreUnusable, match=f"version {VERSION + 1}.*newer"):
        await second()


async def test_a_store_that_is_not_open_says_so(bench: Bench) -> None:
    (job,) = await bench.queue("q", "a")
    await inside(bench).close()
    with pytest.raises(StoreAway, match="not open"):
        await bench.get(job)
    await inside(bench).open(bench)
    assert await bench.get(job) is job


async def test_an_exchange_with_nothing_to_do_asks_nobody(bench: Bench) -> None:
    await bench.queue("q", "a")
    assert isinstance(bench.store.exchange((), 0, 0), Claimed)
    await bench.claim()
    assert isinstance(bench.store.exchange((), 5, 5), Claimed)  # nothing has happened since a look that found no more
    inside(bench).heard({"wake": ["q"]})
    answer = bench.store.exchange((), 5, 5)
    assert not isinstance(answer, Claimed)
    await answer
