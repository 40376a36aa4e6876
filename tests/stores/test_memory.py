"""What only the store in memory promises: it lets go of what is not needed, and its size stays bounded."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any
from weakref import ref

import pytest

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import QueueFull
from asgi_jobs.job import JobError, JobState, Record
from asgi_jobs.stores import archive, memory, search
from asgi_jobs.stores.base import Query, Verdict
from asgi_jobs.stores.memory import MemoryStore
from tests.stores.bench import Bench, Ended, names, opened

HELD = Verdict.HELD


@pytest.fixture
async def store() -> AsyncIterator[Bench]:
    async with opened("memory") as bench:
        yield bench


def inside(bench: Bench) -> MemoryStore:
    assert isinstance(bench.store, MemoryStore)
    return bench.store


class Thing:
    """An argument that can be watched."""


def error(traceback: str) -> JobError:
    return JobError("ValueError", "no", traceback)


async def test_a_succeeded_job_lets_go_of_function_and_arguments_at_once(store: Bench) -> None:
    thing = Thing()
    watched = ref(thing)
    await store.add(store.job("a", args=(thing,)))
    del thing
    (job,) = await store.claim()
    assert watched() is not None
    await store.end(job)
    assert (job.func, job.args, job.kwargs) == (None, (), None)
    assert watched() is None


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.CANCELLED])
async def test_the_last_thousand_failed_and_cancelled_jobs_keep_their_arguments(store: Bench, verdict: Verdict) -> None:
    await store.add(*(store.job(str(n), args=(n,)) for n in range(1_003)))
    claimed = await store.claim(2_000)
    await store.exchange([Ended(job, verdict, error=error("")) for job in claimed], 0, 0)
    assert [job.func for job in claimed[:3]] == [None] * 3
    assert [job.args for job in claimed[:4]] == [(), (), (), (3,)]
    assert claimed[3].func is not None
    assert claimed[-1].args == (1_002,)


async def test_logs_and_tracebacks_are_trimmed_at_their_limit_the_oldest_first(
    store: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "TEXT_LIMIT", 250)
    await store.queue(None, "a", "b", "c")
    claimed = await store.claim()
    for job in claimed[:2]:
        await store.end(job, Verdict.FAILED, error=error("x" * 100))
    assert store.store.trimmed is False
    await store.end(claimed[2], Verdict.FAILED, error=error("x" * 100))
    assert store.store.trimmed is True
    kept = [job.error.traceback for job in claimed if job.error is not None]
    assert kept == ["", "x" * 100, "x" * 100]
    assert claimed[0].error is not None
    assert claimed[0].error.message == "no"


async def test_texts_of_records_that_are_gone_count_no_more(store: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "TEXT_LIMIT", 250)
    for _ in range(10):
        await store.queue(None, "a", "b")
        for job in await store.claim():
            await store.end(job, Verdict.FAILED, error=error("x" * 100))
        assert store.store.trimmed is False
        store.now += 10
        inside(store).prune(5, 100)


def test_the_limit_of_all_texts_is_64_mib() -> None:
    assert archive.TEXT_LIMIT == 64 * 1024 * 1024


async def test_a_finished_record_over_the_count_goes_at_once() -> None:
    async with opened("memory", max_finished=2) as store:
        await store.queue(None, *"abcd")
        for job in await store.claim():
            await store.end(job)
        assert await store.find() == ["d", "c"]


async def test_names_used_once_leave_nothing_behind(store: Bench) -> None:
    for n in range(2_000):
        (job,) = await _add(store, f"once{n}")
        if n % 3 == 0:
            store.store.cancel([job.id], "")
        elif n % 3 == 1:
            store.store.exchange([Ended(r) for r in store.store.exchange((), 10, 10).jobs], 0, 0)  # type: ignore[union-attr]
    store.store.exchange([Ended(r) for r in store.store.exchange((), 9_999, 10).jobs], 0, 0)  # type: ignore[union-attr]
    assert inside(store)._lanes == {}
    assert not inside(store)._ready


async def test_delayed_jobs_that_were_cancelled_leave_nothing_behind_before_their_time(store: Bench) -> None:
    for n in range(2_000):
        (job,) = await _add(store, f"q{n}", delay=86_400)
        store.store.cancel([job.id], "")
        store.now += 1
    inside(store).prune(0, 5_000)
    assert inside(store)._records == {}
    assert len(inside(store)._delayed) <= 200


async def test_jobs_cancelled_while_every_place_is_taken_leave_nothing_behind(store: Bench) -> None:
    for n in range(2_000):
        (job,) = await _add(store, f"q{n}")
        store.store.cancel([job.id], "")
        (job,) = await _add(store, None)
        store.store.cancel([job.id], "")
    store.now += 1
    inside(store).prune(0, 5_000)
    assert inside(store)._records == {}
    assert len(inside(store)._ready) <= 200


async def test_a_line_of_cancelled_jobs_is_swept_while_its_head_waits(store: Bench) -> None:
    await _add(store, "q")
    for _ in range(2_000):
        (job,) = await _add(store, "q")
        store.store.cancel([job.id], "")
    line = inside(store)._lanes["q"].line
    assert line is not None
    assert len(line.records) <= 200


async def test_emptied_dictionaries_give_their_memory_back() -> None:
    async with opened("memory", max_queued=10**6) as store:
        gc.collect()
        tracemalloc.start()
        try:
            baseline = tracemalloc.get_traced_memory()[0]
            for _ in range(10):
                inside(store).add([store.job("a", f"q{id(object())}-{n}", unique=f"u{n}") for n in range(2_000)])
                claimed = inside(store).exchange((), 10_000, 10_000).jobs
                inside(store).exchange([Ended(r, Verdict.FAILED, error=error("")) for r in claimed], 0, 0)
                del claimed
            full = tracemalloc.get_traced_memory()[0] - baseline
            store.now += 10
            while inside(store).prune(5, 1_000):  # a whole number of steps
                pass
            gc.collect()
            left = tracemalloc.get_traced_memory()[0] - baseline
        finally:
            tracemalloc.stop()
    assert left < 100_000 < full


async def test_a_waiting_job_without_details_is_small(store: Bench) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        records = [store.job("a", "q", args=(1,)) for _ in range(5_000)]
        inside(store).add(records)
        size = (tracemalloc.get_traced_memory()[0] - before) / 5_000
    finally:
        tracemalloc.stop()
    assert size <= 700


async def test_adding_is_safe_from_many_threads_at_once(store: Bench) -> None:
    from threading import Thread

    def produce(letter: str) -> None:
        for n in range(500):
            inside(store).add((records[f"{letter}{n}"],))

    records = {f"{letter}{n}": store.job(f"{letter}{n}", "q") for letter in "abcd" for n in range(500)}
    threads = [Thread(target=produce, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen: list[str] = []
    while claimed := inside(store).exchange((), 10, 10).jobs:
        seen += names(claimed)
        inside(store).exchange([Ended(claimed[0])], 0, 0)
    assert len(seen) == 2_000
    for letter in "abcd":
        assert [name for name in seen if name[0] == letter] == [f"{letter}{n}" for n in range(500)]


async def test_a_shutdown_waits_for_what_runs_and_what_may_start_before_its_time(store: Bench) -> None:
    drained = inside(store).drained
    assert drained(store.now + 10)
    await store.queue("q", "a")
    assert not drained(store.now + 10)
    (job,) = await store.claim()
    assert not drained(store.now + 10)
    await store.end(job, HELD, delay=5, error=error(""))
    assert not drained(store.now + 10)
    assert drained(store.now + 4)
    await store.cancel(job.id)
    assert drained(store.now + 10)
    await store.queue("q", "delayed", delay=5)
    assert drained(store.now + 10)  # a delay is not waited for


async def test_a_shutdown_does_not_wait_for_a_paused_queue(store: Bench) -> None:
    inside(store).pause("q")
    await store.queue("q", "a")
    assert inside(store).drained(store.now + 10)


@pytest.mark.parametrize("state", ["scheduled", "queued", "running", "failed", "cancelled"])
async def test_a_rare_state_is_found_without_a_look_at_all_records(
    store: Bench, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    matches = search.matches

    def counting(record: Record, query: Query) -> bool:
        nonlocal looked_at
        looked_at += 1
        return matches(record, query)

    names_of = ("scheduled", "queued", "running", "failed", "cancelled")
    rare = [store.job(name, name, delay=10**6 if name == "scheduled" else None) for name in names_of]
    inside(store).pause("queued")
    inside(store).add(rare)
    for job in inside(store).exchange((), 10, 10).jobs:
        if job.name != "running":
            inside(store).exchange([Ended(job, Verdict[job.name.upper()])], 0, 0)
    for _ in range(20):
        inside(store).add([store.job("x") for _ in range(500)])
        inside(store).exchange([Ended(job) for job in inside(store).exchange((), 500, 0).jobs], 0, 0)
    monkeypatch.setattr(memory, "matches", counting)
    assert names(await resolve(inside(store).find(Query(state=JobState(state))))) == [state]
    assert looked_at <= 10


async def test_the_newest_records_are_found_without_a_look_at_all(
    store: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(store).add([store.job(str(n)) for n in range(20_000)])
    looked_at: list[Record] = []

    def counting(record: Record, _: Query) -> bool:
        looked_at.append(record)
        return True

    monkeypatch.setattr(memory, "matches", counting)
    assert len(await resolve(inside(store).find(Query(limit=25)))) == 25
    assert len(looked_at) <= 26


async def test_nothing_is_taken_in_when_a_batch_is_refused() -> None:
    async with opened("memory", max_queued=1) as store:
        with pytest.raises(QueueFull):
            await store.add(store.job("a", "x", unique="u"), store.job("b", "y", delay=5))
        assert inside(store)._lanes == {}
        assert inside(store)._unique == {}
        assert sum((await store.counts()).values()) == 0
        assert (await store.counts())[JobState.QUEUED] == 0


async def _add(store: Bench, queue: str | None, **options: Any) -> list[Record]:
    records = [store.job("x", queue, **options)]
    inside(store).add(records)
    return records


async def test_when_the_wall_clock_was_set_delayed_jobs_are_due_anew(store: Bench) -> None:
    (job,) = await store.queue("q", "a", delay=3_600)
    await store.queue("q", "b", delay=7_200)
    inside(store).reset_due(lambda record: 1_005.0 if record.id == job.id else 9_000.0)
    assert await store.due() == 1_005.0
    assert await store.pass_time(5) == 9_000.0
    assert names(await store.claim()) == ["a"]


async def test_a_job_that_was_committed_late_is_listed_however_many_were_called_after_it(store: Bench) -> None:
    early, later = (store.job(name) for name in ("early", "later"))
    await store.add(*(store.job(str(n)) for n in range(12_000)))
    *others, last = await store.claim(12_000)
    await store.add(early, later)  # called before all of those, committed after them
    await store.exchange([Ended(job) for job in others], 0, 0)
    await store.pass_time(10)
    assert inside(store).prune(5, 20_000) == 11_999
    all_of_them = Query(limit=10)
    assert names(await resolve(store.store.find(all_of_them))) == ["11999", "later", "early"]
    await store.claim()
    await store.end(early)
    await store.pass_time(10)
    assert inside(store).prune(5, 20_000) == 1
    assert names(await resolve(store.store.find(all_of_them))) == ["11999", "later"]
    await store.end(last)
    await store.end(later)
    await store.pass_time(10)
    assert inside(store).prune(5, 20_000) == 2
    assert names(await resolve(store.store.find(all_of_them))) == []
