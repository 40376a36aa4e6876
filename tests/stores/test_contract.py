"""What every store promises (DESIGN, sections 4 and 6), whichever it is. Nothing here knows which."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import pytest

from asgi_jobs.engine.dispatcher import resolve
from asgi_jobs.errors import QueueFull
from asgi_jobs.job import ALLOWED, JobError, JobState, Record
from asgi_jobs.stores.base import COUNTED, Minute, Query, Verdict
from tests.stores.bench import Bench, Ended, names

SCHEDULED, QUEUED, RUNNING = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING
SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
HELD = Verdict.HELD
Make = Callable[..., Awaitable[Bench]]
ERROR = JobError("ValueError", "a bad day\nand more", "Traceback …")


# Adding


async def test_jobs_without_a_queue_start_in_the_order_in_which_they_were_added(store: Bench) -> None:
    await store.queue(None, "a", "b", "c")
    assert names(await store.claim()) == ["a", "b", "c"]


async def test_many_added_at_once_keep_their_order_within_a_queue(store: Bench) -> None:
    await store.add(*(store.job(str(n), "q") for n in range(20)))
    seen = []
    while claimed := await store.claim():
        seen += names(claimed)
        await store.end(claimed[0])
    assert seen == [str(n) for n in range(20)]


async def test_what_add_gives_back_is_what_was_given(store: Bench) -> None:
    first, second = store.job("a"), store.job("b", "q")
    assert await store.add(first, second) == [first.id, second.id]


async def test_adding_is_all_or_nothing_when_not_all_fit(make: Make) -> None:
    store = await make(max_queued=3)
    await store.queue("q", "a", "b")
    with pytest.raises(QueueFull):
        await store.add(store.job("c"), store.job("d"))
    assert await store.find() == ["b", "a"]
    assert await store.add(store.job("e"))
    assert await store.find() == ["e", "b", "a"]


async def test_the_bound_counts_what_waits_and_not_what_runs(make: Make) -> None:
    store = await make(max_queued=2)
    running, _ = await store.queue(None, "running", "too")
    await store.claim()
    await store.add(store.job("delayed", delay=60))
    await store.end(running, HELD, delay=60)  # between attempts: counts
    with pytest.raises(QueueFull):
        await store.add(store.job("late"))
    await store.cancel(running.id)
    await store.add(store.job("fits"))


async def test_jobs_of_a_committed_transaction_are_taken_beyond_the_bound(make: Make) -> None:
    store = await make(max_queued=1)
    await store.queue(None, "a")
    await store.add(store.job("b"), store.job("c"), bounded=False)
    assert names(await store.claim()) == ["a", "b", "c"]


async def test_a_reservation_is_refused_when_the_store_is_full(make: Make) -> None:
    store = await make(max_queued=2)
    store.store.refuse_full(2)
    await store.queue(None, "a")
    store.store.refuse_full(1)
    with pytest.raises(QueueFull):
        store.store.refuse_full(2)


# Unique


async def test_a_unique_key_gives_the_unfinished_job_back(store: Bench) -> None:
    first = store.job("first", unique="k")
    await store.add(first)
    assert await store.add(store.job("again", unique="k")) == [first.id]
    await store.claim()
    assert await store.add(store.job("again", unique="k")) == [first.id]  # also while it runs
    assert await store.find() == ["first"]


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED])
async def test_a_unique_key_is_free_again_when_its_job_has_ended(store: Bench, verdict: Verdict) -> None:
    first = store.job("first", unique="k")
    await store.add(first)
    (running,) = await store.claim()
    await store.end(running, verdict, error=ERROR if verdict is Verdict.FAILED else None)
    second = store.job("second", unique="k")
    assert await store.add(second) == [second.id]


async def test_a_unique_key_is_free_again_when_its_waiting_job_was_cancelled(store: Bench) -> None:
    first = store.job("first", "q", unique="k")
    await store.add(first)
    await store.cancel(first.id)
    second = store.job("second", "q", unique="k")
    assert await store.add(second) == [second.id]


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_a_unique_key_stays_taken_between_two_attempts(store: Bench, delay: float) -> None:
    first = store.job("first", "q", unique="k")
    await store.add(first)
    (running,) = await store.claim()
    await store.end(running, HELD, delay=delay, error=ERROR)
    assert await store.add(store.job("again", unique="k")) == [first.id]


async def test_a_unique_key_is_taken_by_a_delayed_job(store: Bench) -> None:
    first = store.job("first", unique="k", delay=60)
    await store.add(first)
    assert await store.add(store.job("again", unique="k")) == [first.id]


async def test_two_jobs_of_one_unique_key_added_at_once_are_one(store: Bench) -> None:
    first, second = store.job("first", unique="k"), store.job("second", unique="k")
    assert await store.add(first, second) == [first.id, first.id]
    assert names(await store.claim()) == ["first"]


async def test_a_full_store_still_gives_back_the_job_of_a_unique_key(make: Make) -> None:
    store = await make(max_queued=1)
    first = store.job("first", unique="k")
    await store.add(first)
    assert await store.add(store.job("again", unique="k")) == [first.id]


async def test_different_unique_keys_do_not_meet(store: Bench) -> None:
    first, second = store.job("first", unique="k"), store.job("second", unique="K")
    assert await store.add(first, second) == [first.id, second.id]


# The exchange


async def test_a_claimed_job_is_running_and_counts_an_attempt(store: Bench) -> None:
    await store.queue("q", "a")
    (claimed,) = await store.claim()
    assert (claimed.state, claimed.attempt, claimed.started) == (RUNNING, 1, store.now)


async def test_a_queue_runs_one_job_at_a_time(store: Bench) -> None:
    await store.queue("q", "a", "b")
    assert names(await store.claim()) == ["a"]
    assert await store.claim() == []


async def test_the_end_of_a_job_hands_out_its_successor_in_the_same_exchange(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    assert names((await store.exchange([Ended(first)])).jobs) == ["b"]
    assert await store.state(first) is SUCCEEDED


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED])
async def test_however_a_job_ends_the_next_one_of_its_queue_may_start(store: Bench, verdict: Verdict) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.end(first, verdict, error=ERROR if verdict is Verdict.FAILED else None)
    assert await store.state(first) is verdict.value
    assert names(await store.claim()) == ["b"]


async def test_different_queues_run_side_by_side(store: Bench) -> None:
    await store.queue("x", "x1", "x2")
    await store.queue("y", "y1", "y2")
    await store.queue(None, "lone")
    assert names(await store.claim()) == ["x1", "y1", "lone"]


async def test_a_queue_with_n_slots_runs_n_at_once_and_starts_them_in_order(make: Make) -> None:
    store = await make(limits={"wide": 3})
    await store.queue("wide", "a", "b", "c", "d", "e")
    first = await store.claim()
    assert names(first) == ["a", "b", "c"]
    assert names((await store.exchange([Ended(first[1])])).jobs) == ["d"]
    assert names((await store.exchange([Ended(first[0]), Ended(first[2])])).jobs) == ["e"]


async def test_no_more_than_n_jobs_are_handed_out(store: Bench) -> None:
    await store.queue(None, *"abcde")
    assert names(await store.claim(2)) == ["a", "b"]
    assert names(await store.claim(2)) == ["c", "d"]


async def test_an_exchange_for_no_jobs_stores_outcomes_and_hands_out_nothing(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    assert (await store.exchange([Ended(first)], 0, 0)).jobs in ([], ())
    assert await store.state(first) is SUCCEEDED
    assert names(await store.claim()) == ["b"]


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED, HELD])
async def test_an_outcome_that_is_handed_in_again_changes_nothing(store: Bench, verdict: Verdict) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    outcome = Ended(first, verdict, delay=60.0 if verdict is HELD else 0.0)
    await store.exchange([outcome], 0, 0)
    before = await store.counts()
    await store.exchange([outcome], 0, 0)
    assert await store.counts() == before
    assert names(await store.claim()) == ([] if verdict is HELD else ["b"])
    assert (await store.get(first)).attempt == 1


async def test_the_times_of_a_job_are_those_of_the_exchange(store: Bench) -> None:
    (job,) = await store.queue("q", "a")
    store.now += 5
    (claimed,) = await store.claim()
    store.now += 7
    await store.end(claimed)
    job = await store.get(job)
    assert (job.enqueued, job.started, job.finished) == (1_000.0, 1_005.0, 1_012.0)


async def test_an_error_is_kept_with_the_record(store: Bench) -> None:
    await store.queue("q", "a")
    (claimed,) = await store.claim()
    await store.end(claimed, Verdict.FAILED, error=ERROR)
    assert (await store.get(claimed)).error == ERROR


# Threads


async def test_no_more_thread_jobs_are_handed_out_than_there_are_threads(store: Bench) -> None:
    await store.queue(None, "t1", "t2", threaded=True)
    assert names(await store.claim(10, 1)) == ["t1"]
    assert await store.claim(10, 0) == []
    assert await store.state(await _named(store, "t2")) is QUEUED
    assert names(await store.claim(10, 1)) == ["t2"]


async def test_a_job_that_waits_for_a_thread_holds_up_nobody_else(store: Bench) -> None:
    await store.queue(None, "t1", threaded=True)
    await store.queue(None, "async")
    assert names(await store.claim(10, 0)) == ["async"]


async def test_jobs_that_wait_for_a_thread_keep_their_order_and_come_first(store: Bench) -> None:
    await store.queue(None, "t1", "t2", threaded=True)
    await store.claim(10, 0)
    await store.queue(None, "t3", threaded=True)
    assert names(await store.claim(10, 2)) == ["t1", "t2"]
    assert names(await store.claim(10, 2)) == ["t3"]


async def test_a_queue_whose_head_waits_for_a_thread_keeps_its_order(store: Bench) -> None:
    await store.queue("q", "t1", threaded=True)
    await store.queue("q", "async")
    assert await store.claim(10, 0) == []
    (thread,) = await store.claim(10, 1)
    assert thread.name == "t1"
    assert names((await store.exchange([Ended(thread)], 10, 0)).jobs) == ["async"]


async def test_a_job_behind_a_cancelled_thread_job_does_not_wait_for_a_thread(store: Bench) -> None:
    (thread,) = await store.queue("q", "t1", threaded=True)
    await store.queue("q", "async")
    assert await store.claim(10, 0) == []
    await store.cancel(thread.id)
    assert names(await store.claim(10, 0)) == ["async"]


async def test_a_thread_job_that_was_cancelled_while_it_waited_for_one_is_not_handed_out(store: Bench) -> None:
    first, _ = await store.queue(None, "t1", "t2", threaded=True)
    await store.claim(10, 0)
    await store.cancel(first.id)
    assert names(await store.claim(10, 5)) == ["t2"]


async def test_a_paused_queue_that_waits_for_a_thread_gets_none(store: Bench) -> None:
    await store.queue("q", "t1", threaded=True)
    await store.claim(10, 0)
    await resolve(store.store.pause("q"))
    assert await store.claim(10, 5) == []
    await resolve(store.store.resume("q"))
    assert names(await store.claim(10, 5)) == ["t1"]


# Held: between two attempts


async def test_a_held_job_that_is_due_at_once_runs_before_those_behind_it(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    again = (await store.exchange([Ended(first, HELD, error=ERROR)])).jobs
    assert [(job.name, job.attempt) for job in again] == [("a", 2)]
    assert names((await store.exchange([Ended(again[0])])).jobs) == ["b"]


async def test_a_held_job_keeps_its_slot_and_its_place_until_its_time_comes(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.end(first, HELD, delay=30, error=ERROR)
    assert await store.state(first) is SCHEDULED
    assert await store.claim() == []
    assert await store.pass_time(29) == 1_030.0
    assert await store.claim() == []
    assert await store.pass_time(1) is None
    assert await store.state(first) is QUEUED
    assert names(await store.claim()) == ["a"]


async def test_a_held_job_takes_one_of_n_slots_only(make: Make) -> None:
    store = await make(limits={"q": 2})
    await store.queue("q", "a", "b", "c")
    first, second = await store.claim()
    await store.end(first, HELD, delay=30, error=ERROR)
    assert await store.claim() == []
    await store.end(second)
    assert names(await store.claim()) == ["c"]


async def test_a_held_job_without_a_queue_comes_back(store: Bench) -> None:
    await store.queue(None, "a")
    (first,) = await store.claim()
    await store.end(first, HELD, delay=30, error=ERROR)
    await store.pass_time(30)
    assert [(job.name, job.attempt) for job in await store.claim()] == [("a", 2)]


@pytest.mark.parametrize("delay", [0.0, 30.0])
async def test_cancelling_a_held_job_frees_its_slot_at_once(store: Bench, delay: float) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.end(first, HELD, delay=delay, error=ERROR)
    assert await store.cancel(first.id) == ([first.id], [])
    assert names(await store.claim()) == ["b"]
    await store.pass_time(60)
    assert await store.claim() == []


async def test_a_job_without_a_queue_that_is_cancelled_while_held_does_not_come_back(store: Bench) -> None:
    await store.queue(None, "a", "b")
    first, second = await store.claim()
    await store.exchange([Ended(first, HELD, delay=30), Ended(second, HELD)], 0, 0)
    await store.cancel(first.id, second.id)
    await store.pass_time(60)
    assert await store.claim() == []


async def test_pausing_a_queue_stops_the_next_attempt_of_its_held_job(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.end(first, HELD, delay=30, error=ERROR)
    await resolve(store.store.pause("q"))
    await store.pass_time(60)
    assert await store.claim() == []
    await resolve(store.store.resume("q"))
    assert names(await store.claim()) == ["a"]


async def test_a_job_held_while_its_queue_is_paused_can_be_cancelled(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await resolve(store.store.pause("q"))
    await store.end(first, HELD, error=ERROR)
    assert await store.claim() == []
    await store.cancel(first.id)
    await resolve(store.store.resume("q"))
    assert names(await store.claim()) == ["b"]
    assert await store.state(first) is CANCELLED


async def test_a_job_asked_to_stop_is_not_held(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.cancel(first.id)
    await store.end(first, HELD, delay=30, error=ERROR)
    assert await store.state(first) is CANCELLED
    assert names(await store.claim()) == ["b"]


async def test_an_attempt_that_does_not_count_is_not_counted(store: Bench) -> None:
    await store.queue("q", "a")
    (first,) = await store.claim()
    await store.end(first, HELD, counted=False)
    assert (await store.get(first)).attempt == 0
    (again,) = await store.claim()
    assert again.attempt == 1


# Delay


async def test_a_delayed_job_gets_its_place_at_the_end_when_it_is_due(store: Bench) -> None:
    await store.queue("q", "delayed", delay=10)
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    assert first.name == "a"  # it blocked nobody
    await store.pass_time(10)
    await store.queue("q", "c")
    seen: list[str] = []
    running = [first]
    while running:
        running = list((await store.exchange([Ended(running[0])])).jobs)
        seen += names(running)
    assert seen == ["b", "delayed", "c"]


async def test_due_says_when_the_next_delayed_job_is_due(store: Bench) -> None:
    assert await store.due() is None
    await store.queue(None, "late", delay=60)
    await store.queue(None, "early", delay=10)
    assert await store.due() == 1_010.0
    assert await store.pass_time(10) == 1_060.0
    assert names(await store.claim()) == ["early"]


async def test_delayed_jobs_become_due_in_the_order_of_their_times(store: Bench) -> None:
    for name, delay in (("c", 30), ("a", 10), ("b", 20)):
        await store.queue("q", name, delay=delay)
    await store.pass_time(60)
    assert [await store.place(await _named(store, name)) for name in "abc"] == [(1, None), (2, "a"), (3, "b")]


async def test_delayed_jobs_of_the_same_time_keep_the_order_of_the_calls(store: Bench) -> None:
    await store.queue("q", *"abcdef", delay=10)
    await store.pass_time(10)
    assert [(await store.place(await _named(store, name)) or (0,))[0] for name in "abcdef"] == [1, 2, 3, 4, 5, 6]


async def test_a_delayed_job_that_was_cancelled_never_becomes_due(store: Bench) -> None:
    (job,) = await store.queue("q", "a", delay=10)
    await store.cancel(job.id)
    assert await store.pass_time(10) is None
    assert await store.claim() == []


# Cancel


@pytest.mark.parametrize("queue", ["q", None])
async def test_cancelling_a_waiting_job_ends_it_at_once(store: Bench, queue: str | None) -> None:
    first, _, third = await store.queue(queue, "a", "b", "c")
    assert await store.cancel(first.id, third.id, reason="not needed") == ([first.id, third.id], [])
    job = await store.get(first)
    assert (job.state, job.finished) == (CANCELLED, store.now)
    assert job.details is not None
    assert job.details.cancel_reason == "not needed"
    assert names(await store.claim()) == ["b"]


async def test_cancelling_a_running_job_only_marks_it(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    assert await store.cancel(first.id, reason="enough") == ([], [first.id])
    job = await store.get(first)
    assert (job.state, job.cancelling) == (RUNNING, True)
    assert await store.claim() == []  # its code has not ended
    await store.end(first, Verdict.CANCELLED)
    assert (await store.get(first)).cancelling is False
    assert names(await store.claim()) == ["b"]


async def test_the_first_reason_and_time_of_a_cancel_stay(store: Bench) -> None:
    await store.queue("q", "a")
    (job,) = await store.claim()
    await store.cancel(job.id, reason="first")
    store.now += 10
    await store.cancel(job.id, reason="second")
    details = (await store.get(job)).details
    assert details is not None
    assert (details.cancel_reason, details.cancel_requested) == ("first", 1_000.0)


async def test_a_job_asked_to_stop_that_finishes_anyway_has_succeeded(store: Bench) -> None:
    await store.queue("q", "a")
    (job,) = await store.claim()
    await store.cancel(job.id)
    await store.end(job)
    assert await store.state(job) is SUCCEEDED


@pytest.mark.parametrize("verdict", [Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED])
async def test_cancelling_a_finished_job_changes_nothing(store: Bench, verdict: Verdict) -> None:
    await store.queue("q", "a")
    (job,) = await store.claim()
    await store.end(job, verdict)
    assert await store.cancel(job.id, reason="late") == ([], [])
    job = await store.get(job)
    assert job.state is verdict.value
    assert job.details is None or job.details.cancel_reason is None


async def test_unknown_ids_are_passed_over_by_a_cancel(store: Bench) -> None:
    (job,) = await store.queue("q", "a")
    unknown = ["", "x", job.id + "0", job.id[:-1], job.id.upper() + "g", "0" * 300, "0123456789ffffff", "é", "\0"]
    assert await store.cancel(*unknown, job.id) == ([job.id], [])


async def test_the_same_id_twice_in_one_cancel_is_cancelled_once(store: Bench) -> None:
    (job,) = await store.queue("q", "a")
    assert await store.cancel(job.id, job.id) == ([job.id], [])


async def test_cancelling_many_that_wait_leaves_the_others_in_order(store: Bench) -> None:
    jobs = await store.queue("q", *(str(n) for n in range(400)))
    await store.cancel(*(job.id for job in jobs if int(job.name) % 7))
    seen = []
    while claimed := await store.claim():
        seen += names(claimed)
        await store.end(claimed[0])
    assert seen == [str(n) for n in range(0, 400, 7)]


async def test_cancelling_many_without_a_queue_leaves_the_others_in_order(store: Bench) -> None:
    jobs = await store.queue(None, *(str(n) for n in range(400)))
    await store.cancel(*(job.id for job in jobs if int(job.name) % 7))
    assert names(await store.claim()) == [str(n) for n in range(0, 400, 7)]


# Pause


async def test_no_job_of_a_paused_queue_is_handed_out(store: Bench) -> None:
    await store.queue("q", "a", "b")
    await store.queue("other", "o")
    await resolve(store.store.pause("q"))
    assert names(await store.claim()) == ["o"]


async def test_what_runs_goes_on_while_its_queue_is_paused_and_nothing_follows(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await resolve(store.store.pause("q"))
    assert (await store.exchange([Ended(first)])).jobs in ([], ())
    assert await store.state(first) is SUCCEEDED


async def test_a_resumed_queue_goes_on_where_it_was(store: Bench) -> None:
    await resolve(store.store.pause("q"))
    await store.queue("q", "a", "b")
    assert await store.claim() == []
    await resolve(store.store.resume("q"))
    (first,) = await store.claim()
    assert first.name == "a"
    assert names((await store.exchange([Ended(first)])).jobs) == ["b"]


async def test_pausing_and_resuming_twice_is_as_once(store: Bench) -> None:
    await store.queue("q", "a", "b")
    for verb in (store.store.pause, store.store.pause, store.store.resume, store.store.resume):
        await resolve(verb("q"))
    assert names(await store.claim()) == ["a"]
    assert await store.claim() == []


async def test_a_paused_queue_is_listed_with_the_time_of_its_pause_though_it_is_empty(store: Bench) -> None:
    await resolve(store.store.pause("q"))
    store.now += 5
    await resolve(store.store.pause("q"))
    standing = await store.standing("q")
    assert standing is not None
    assert (standing.paused, standing.queued) == (1_000.0, 0)
    await resolve(store.store.resume("q"))
    assert await store.standing("q") is None


async def test_resuming_a_queue_that_nobody_knows_does_nothing(store: Bench) -> None:
    await resolve(store.store.resume("unknown"))
    assert await resolve(store.store.standings()) == []


# Fairness


async def test_a_job_that_comes_last_starts_in_the_next_round_of_a_hundred_deep_queues(store: Bench) -> None:
    for n in range(100):
        await store.queue(f"deep{n}", *(f"{n}.{i}" for i in range(5)))
    first = await store.claim(100)
    assert len({job.queue for job in first}) == 100
    await store.queue("late", "late")
    running, started = list(first), Counter[str | None]()
    while "late" not in started:  # nobody starts twice before it has started
        running = list((await store.exchange([Ended(job) for job in running], 100)).jobs)
        started.update(job.queue for job in running)
    assert max(started.values()) == 1


async def test_an_endless_producer_on_one_name_starves_nobody(store: Bench) -> None:
    await store.queue("greedy", *(str(n) for n in range(50)))
    (running,) = await store.claim(1)
    await store.queue("modest", "modest")
    started: list[str] = []
    for n in range(50, 53):
        await store.queue("greedy", str(n))
        (running,) = (await store.exchange([Ended(running)], 1)).jobs
        started.append(running.name)
        if running.name == "modest":
            break
    assert "modest" in started


async def test_a_queue_with_many_slots_lets_others_start_between_its_jobs(make: Make) -> None:
    store = await make(limits={"wide": 3})
    await store.queue("wide", "a", "b", "c")
    await store.queue("q", "other")
    assert names(await store.claim(2)) == ["a", "other"]
    assert names(await store.claim(2)) == ["b", "c"]


async def test_every_ready_queue_starts_within_one_round(store: Bench) -> None:
    for n in range(30):
        await store.queue(f"q{n}", *"abc")
    started: list[str | None] = []
    running = await store.claim(7)
    while len(started) < 30:
        started += [job.queue for job in running]
        running = list((await store.exchange([Ended(job) for job in running], 7)).jobs)
    assert len(set(started[:30])) == 30


# Looking


async def test_an_unknown_job_is_none(store: Bench) -> None:
    await store.queue("q", "a")
    for id in ("", "nothing", "0123456789", "0123456789-00001", "0123456789000099", "0" * 300, "\0", "é" * 16):
        assert await resolve(store.store.get(id)) is None


async def test_places_count_from_the_next_and_name_who_stands_before(store: Bench) -> None:
    jobs = await store.queue("q", "a", "b", "c")
    assert [await store.place(job) for job in jobs] == [(1, None), (2, "a"), (3, "b")]
    await store.claim()
    assert [await store.place(job) for job in jobs] == [None, (1, "a"), (2, "b")]
    await store.cancel(jobs[1].id)
    assert [await store.place(job) for job in jobs] == [None, None, (1, "a")]


async def test_places_of_many_are_told_at_once_and_counted_out_to_a_thousand(store: Bench) -> None:
    jobs = await store.queue("deep", *(str(n) for n in range(COUNTED + 2)))
    (other,) = await store.queue("other", "other")
    places = await resolve(store.store.places([jobs[1], jobs[COUNTED - 1], jobs[COUNTED], jobs[-1], other]))
    assert [places[job.id].position for job in (jobs[1], jobs[COUNTED - 1], other)] == [2, COUNTED, 1]
    assert [places[job.id] for job in (jobs[COUNTED], jobs[-1])] == [(COUNTED + 1, None)] * 2
    assert places[jobs[1].id].behind is jobs[0]


async def test_jobs_without_a_queue_delayed_held_and_finished_ones_have_no_place(store: Bench) -> None:
    (lone,) = await store.queue(None, "lone")
    (delayed,) = await store.queue("q", "delayed", delay=5)
    (held,) = await store.queue("q", "held")
    assert await store.place(lone) is None
    assert await store.place(delayed) is None
    for job in await store.claim():
        await store.end(job, HELD, delay=60.0)
    assert await store.place(held) is None
    await store.cancel(held.id)
    assert await store.place(held) is None


async def test_a_standing_tells_who_runs_and_who_waits(make: Make) -> None:
    store = await make(limits={"wide": 2})
    await store.queue("wide", "a", "b", "c", "d")
    await store.claim()
    standing = await store.standing("wide")
    assert standing is not None
    assert (standing.limit, standing.queued, standing.paused) == (2, 2, None)
    assert names(standing.holders) == ["a", "b"]
    assert standing.head is not None
    assert standing.head.name == "c"


async def test_a_held_job_stands_among_the_holders(store: Bench) -> None:
    await store.queue("q", "a", "b")
    (first,) = await store.claim()
    await store.end(first, HELD, delay=5, error=ERROR)
    standing = await store.standing("q")
    assert standing is not None
    assert (names(standing.holders), standing.queued) == (["a"], 1)


async def test_configured_queues_are_listed_though_nothing_is_in_them(make: Make) -> None:
    store = await make(limits={"wide": 2})
    await store.queue("wide", "a")
    (job,) = await store.claim()
    await store.end(job)
    standing = await store.standing("wide")
    assert standing is not None
    assert (standing.limit, standing.queued, standing.holders, standing.head) == (2, 0, [], None)


async def test_standings_of_some_names_leave_the_others_out(make: Make) -> None:
    store = await make(limits={"wide": 2})
    await store.queue("a", "a1")
    await store.queue("b", "b1")
    await store.queue("c", "c1", delay=5)
    standings = await resolve(store.store.standings(["a", "c", "unknown"]))
    assert sorted(standing.name for standing in standings) == ["a", "c"]
    assert await resolve(store.store.standings([])) == []


async def test_limited_standings_are_those_at_work_paused_or_configured_and_the_oldest_others(make: Make) -> None:
    store = await make(limits={"wide": 2})
    await resolve(store.store.pause("paused"))
    await store.queue("works", "running", "waiting")
    await store.claim()
    for name in ("first", "second", "third"):
        store.now += 1
        await store.queue(name, name)
    standings = {s.name: s for s in await resolve(store.store.standings(None, 2))}
    assert sorted(standings) == ["first", "paused", "second", "wide", "works"]
    assert (standings["works"].queued, standings["second"].queued) == (1, 1)
    assert standings["works"].head is not None
    assert standings["works"].head.name == "waiting"
    assert sorted(s.name for s in await resolve(store.store.standings(None, 0))) == ["paused", "wide", "works"]


async def test_queues_are_counted_as_they_are_listed(make: Make) -> None:
    store = await make(limits={"wide": 2})
    assert await resolve(store.store.queue_count()) == 1
    await store.queue("a", "a1", "a2")
    await store.queue("wide", "w1")
    await store.queue("delayed", "d", delay=5)
    await resolve(store.store.pause("a"))
    await resolve(store.store.pause("empty"))
    await store.queue(None, "lone")
    assert await resolve(store.store.queue_count()) == 4
    assert len(await resolve(store.store.standings())) == 4


async def test_queue_names_used_once_are_not_listed_any_more(store: Bench) -> None:
    for n in range(5):
        await store.queue(f"once{n}", "a")
    (cancelled,) = await store.queue("cancelled", "a")
    await store.cancel(cancelled.id)
    for job in await store.claim():
        await store.end(job)
    assert await resolve(store.store.standings()) == []


async def test_a_standing_has_the_last_failure_of_its_queue(store: Bench) -> None:
    await store.queue("q", "a", "b", "c", "d")
    for n in range(3):
        (job,) = await store.claim()
        await store.end(job, Verdict.FAILED if n < 2 else Verdict.SUCCEEDED, error=ERROR if n < 2 else None)
    standing = await store.standing("q")
    assert standing is not None
    assert standing.last_failed is not None
    assert standing.last_failed.name == "b"


async def test_find_gives_the_newest_first_and_no_more_than_asked_for(store: Bench) -> None:
    await store.queue(None, *"abcde")
    assert await store.find() == list("edcba")
    assert await store.find(limit=2) == ["e", "d"]


async def test_find_filters_by_all_that_is_given(store: Bench) -> None:
    await store.queue("x", "x1", "x2", task="m:one")
    await store.queue("y", "y1", "y2", task="m:two")
    await store.claim()
    assert await store.find(queue="x") == ["x2", "x1"]
    assert await store.find(task="m:two") == ["y2", "y1"]
    assert await store.find(state=RUNNING) == ["y1", "x1"]
    assert await store.find(state=QUEUED, queue="y", task="m:two") == ["y2"]
    assert await store.find(state=QUEUED, queue="y", task="m:one") == []


async def test_find_by_state_finds_every_job_of_the_state_wherever_it_stands(make: Make) -> None:
    store = await make(limits={"wide": 2})
    await resolve(store.store.pause("paused"))
    for queue in ("q", "wide", "paused", "r", None):
        await store.queue(queue, *(f"{queue} {n}" for n in range(4)))
        await store.queue(queue, f"{queue} delayed", delay=10)
    await store.queue(None, "thread", threaded=True)
    held = [job for job in await store.claim(100, 0) if job.queue in ("q", "r")]
    await store.end(held[0], HELD, delay=5)
    await resolve(store.store.pause("r"))
    await store.end(held[1], HELD)
    await store.claim(100, 0)
    for state, verdict in ((FAILED, Verdict.FAILED), (CANCELLED, Verdict.CANCELLED), (SUCCEEDED, Verdict.SUCCEEDED)):
        jobs = [r for r in await resolve(store.store.find(Query(limit=100))) if r.state is RUNNING]
        await store.end(jobs[0], verdict)
        assert await store.state(jobs[0]) is state
    kept = await resolve(store.store.find(Query(limit=1_000)))
    assert {record.state for record in kept} == set(JobState)
    for state in JobState:
        expected = names([record for record in kept if record.state is state])
        assert await store.find(state=state) == expected
        seen: list[str] = []
        before = None
        while page := await resolve(store.store.find(Query(state=state, limit=3, before=before))):
            seen += names(page)
            before = page[-1].id
        assert seen == expected


async def test_find_looks_for_text_in_name_function_queue_error_and_id(store: Bench) -> None:
    await store.queue("Letters", "Grüße")
    (failing,) = await store.queue("q", "b", task="billing:Invoice.send")
    for job in await store.claim():
        if job.id == failing.id:
            await store.end(job, Verdict.FAILED, error=ERROR)
    assert await store.find(text="grüSSE") in (["Grüße"], [])  # ß and ss: a database may differ
    assert await store.find(text="GRÜ") == ["Grüße"]
    assert await store.find(text="letter") == ["Grüße"]
    assert await store.find(text="invoice") == ["b"]
    assert await store.find(text="valueerror") == ["b"]
    assert await store.find(text="BAD DAY") == ["b"]
    assert await store.find(text=failing.id) == ["b"]
    assert await store.find(text="nowhere") == []


async def test_text_is_looked_for_literally(store: Bench) -> None:
    await store.queue(None, "100%", "a_b", "axb", "c\\d", "[x]", "it's")
    assert await store.find(text="%") == ["100%"]
    assert await store.find(text="a_b") == ["a_b"]
    assert await store.find(text="\\") == ["c\\d"]
    assert await store.find(text="[x]") == ["[x]"]
    assert await store.find(text="'") == ["it's"]
    assert await store.find(text=".*") == []


async def test_pages_follow_one_another_without_gap_or_repetition(store: Bench) -> None:
    jobs = await store.queue(None, *(str(n) for n in range(25)))
    ids, seen, before = {job.name: job.id for job in jobs}, [], None
    while page := await store.find(limit=4, before=before):
        seen += page
        before = ids[page[-1]]
    assert seen == [str(n) for n in reversed(range(25))]


async def test_a_page_goes_on_after_a_job_that_has_been_pruned(store: Bench) -> None:
    jobs = await store.queue(None, *"abcdef")
    await store.claim()
    for job in jobs[2:4]:  # c and d
        await store.end(job)
    assert await store.find(limit=3) == ["f", "e", "d"]
    store.now += 10
    await resolve(store.store.prune(5, 100))
    assert await store.find(limit=3, before=jobs[3].id) == ["b", "a"]


async def test_pages_lose_nothing_that_is_kept_while_records_go(store: Bench) -> None:
    jobs = await store.queue(None, *(str(n) for n in range(60)))
    ids = {job.name: job.id for job in jobs}
    claimed = await store.claim()
    await store.exchange([Ended(job) for job in claimed if int(job.name) % 2], 0, 0)
    store.now += 10
    seen: list[str] = []
    before = None
    while page := await store.find(limit=5, before=before):
        seen += page
        before = ids[page[-1]]
        await resolve(store.store.prune(5, 4))
    kept = [str(n) for n in reversed(range(60)) if n % 2 == 0]
    assert [name for name in seen if int(name) % 2 == 0] == kept


async def test_a_page_after_nonsense_is_empty(store: Bench) -> None:
    await store.queue(None, "a")
    for before in ("", "nonsense", "\0", "0123456789zz"):
        assert await store.find(before=before) == []


async def test_every_state_is_counted(store: Bench) -> None:
    assert await store.counts() == dict.fromkeys(JobState, 0)
    await store.queue("q", "a", "b")
    await store.queue(None, "delayed", delay=5)
    (job,) = await store.claim()
    assert await store.counts() == dict.fromkeys(JobState, 0) | {QUEUED: 1, RUNNING: 1, SCHEDULED: 1}
    await store.end(job, HELD, delay=5)
    assert await store.counts() == dict.fromkeys(JobState, 0) | {QUEUED: 1, SCHEDULED: 2}


async def test_the_last_hour_tells_by_the_minute_what_ended_and_how_long_it_had_waited(store: Bench) -> None:
    ended, failed, *_ = await store.queue("q", "ended", "failed", "runs")
    (cancelled,) = await store.queue(None, "cancelled")
    await store.cancel(cancelled.id)
    await store.claim()
    await store.end(ended)
    await store.pass_time(90)
    await store.claim()
    await store.end(failed, Verdict.FAILED, error=ERROR)
    await store.claim()
    assert await _hour(store) == [Minute()] * 57 + [Minute(1, 0, 0.0), Minute(), Minute(0, 1, 90.0)]


async def test_the_last_hour_forgets_what_is_older(store: Bench) -> None:
    (job,) = await store.queue(None, "a")
    await store.claim()
    await store.end(job)
    await store.pass_time(59 * 60)
    assert await _hour(store) == [Minute(1), *[Minute()] * 59]
    await store.pass_time(60)
    assert await _hour(store) == [Minute()] * 60


async def test_back_off_and_a_wanted_delay_are_no_wait(store: Bench) -> None:
    tried, _ = await store.queue(None, "tried again", "delayed", delay=20)
    await store.pass_time(20)
    delayed = next(record for record in await store.claim() if record.id != tried.id)  # due together: in any order
    await store.end(tried, HELD, delay=30)
    await store.end(delayed)
    await store.pass_time(40)
    await store.claim()
    await store.end(tried)
    assert await _hour(store) == [Minute()] * 59 + [Minute(2, 0, 0.0)]


async def test_pending_is_what_is_queued_running_or_between_attempts(store: Bench) -> None:
    await store.queue("q", "a", "b")
    await store.queue(None, "delayed", delay=5)
    assert await resolve(store.store.pending()) == 2
    (job,) = await store.claim()
    assert await resolve(store.store.pending()) == 2
    await store.end(job, HELD, delay=5)
    assert await resolve(store.store.pending()) == 2
    await store.cancel(job.id)
    assert await resolve(store.store.pending()) == 1


async def test_what_waits_in_a_queue_is_what_is_queued_delayed_or_held(make: Make) -> None:
    store = await make(limits={"q": 2})
    await store.queue("q", "held", "running", "queued", "queued too")
    await store.queue("q", "delayed", delay=5)
    await store.queue("other", "other")
    held = (await store.claim())[0]
    await store.end(held, HELD, delay=5)
    waiting = await resolve(store.store.waiting_in("q", 100))
    assert sorted(names(waiting)) == ["delayed", "held", "queued", "queued too"]
    await store.pass_time(5)
    waiting = await resolve(store.store.waiting_in("q", 100))
    assert sorted(names(waiting)) == ["delayed", "held", "queued", "queued too"]
    for limit in range(4):
        assert len(await resolve(store.store.waiting_in("q", limit))) == limit


async def test_the_revision_grows_with_every_change(store: Bench) -> None:
    seen = [store.store.revision]

    def changed() -> bool:
        seen.append(store.store.revision)
        return seen[-1] > seen[-2]

    first, second = await store.queue("q", "a", "b")
    assert changed()
    await store.claim()
    assert changed()
    await store.cancel(second.id)
    assert changed()
    await resolve(store.store.pause("q"))
    assert changed()
    await resolve(store.store.resume("q"))
    assert changed()
    await store.end(first)
    assert changed()
    store.now += 5
    await resolve(store.store.prune(0, 10))
    assert changed()
    await store.queue("q", "delayed", delay=5)
    assert changed()
    await store.pass_time(5)
    assert changed()


# Schedules


async def test_a_tick_leads_to_one_run(store: Bench) -> None:
    assert await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0)) is True
    assert await resolve(store.store.propose(store.job("again", task="m:nightly"), 100.0)) is False
    assert await resolve(store.store.propose(store.job("older", task="m:nightly"), 99.0)) is False
    assert names(await store.claim()) == ["run"]


async def test_a_tick_is_skipped_and_counted_while_the_last_run_is_unfinished(store: Bench) -> None:
    await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0))
    assert await resolve(store.store.propose(store.job("late", task="m:nightly"), 200.0)) is False
    ticket = await resolve(store.store.ticket("m:nightly"))
    assert (ticket.last, ticket.skipped) == (200.0, 1)
    (job,) = await store.claim()
    await store.end(job)
    assert await resolve(store.store.propose(store.job("next", task="m:nightly"), 300.0)) is True


async def test_a_ticket_names_the_last_run_while_its_record_is_kept(store: Bench) -> None:
    ticket = await resolve(store.store.ticket("m:nightly"))
    assert (ticket.last, ticket.skipped, ticket.job) == (None, 0, None)
    await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0))
    ticket = await resolve(store.store.ticket("m:nightly"))
    assert ticket.job is not None
    assert ticket.job.name == "run"
    (job,) = await store.claim()
    await store.end(job)
    store.now += 10
    await resolve(store.store.prune(5, 10))
    ticket = await resolve(store.store.ticket("m:nightly"))
    assert (ticket.last, ticket.job) == (100.0, None)


async def test_tickets_of_several_tasks_are_looked_at_together(store: Bench) -> None:
    await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0))
    tickets = await resolve(store.store.tickets(["m:nightly", "m:hourly"]))
    assert [(ticket.last, ticket.job and ticket.job.name) for ticket in tickets.values()] == [
        (100.0, "run"),
        (None, None),
    ]
    assert await resolve(store.store.tickets([])) == {}


async def test_a_run_that_the_store_has_no_room_for_may_be_proposed_again(make: Make) -> None:
    store = await make(max_queued=1)
    (blocking,) = await store.queue(None, "blocking")
    with pytest.raises(QueueFull):
        await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0))
    await store.cancel(blocking.id)
    assert await resolve(store.store.propose(store.job("run", task="m:nightly"), 100.0)) is True


# Going


async def test_finished_records_go_when_they_are_old_enough(store: Bench) -> None:
    await store.queue(None, "a", "b")
    a, b = await store.claim()
    await store.end(a)
    store.now += 60
    await store.end(b, Verdict.FAILED, error=ERROR)
    assert await resolve(store.store.prune(61, 100)) == 0
    assert await resolve(store.store.prune(60, 100)) == 1
    assert await store.find() == ["b"]


async def test_unfinished_records_never_go(store: Bench) -> None:
    await store.queue("q", "running", "queued")
    await store.queue("held", "held")
    await store.queue(None, "delayed", delay=10**9)
    claimed = {job.name: job for job in await store.claim()}
    await store.end(claimed["held"], HELD, delay=10**9)
    store.now += 10**6
    assert await resolve(store.store.prune(0, 100)) == 0
    assert len(await store.find()) == 4


async def test_pruning_does_a_bounded_step_at_a_time(store: Bench) -> None:
    await store.queue(None, *(str(n) for n in range(10)))
    await store.exchange([Ended(job) for job in await store.claim()], 0, 0)
    store.now += 1
    assert [await resolve(store.store.prune(0, 4)) for _ in range(4)] == [4, 4, 2, 0]


async def test_more_finished_records_than_allowed_are_gone_after_a_cleanup_the_oldest_first(make: Make) -> None:
    store = await make(max_finished=3)
    await store.queue(None, *"abcdef")
    for job in await store.claim():
        await store.end(job)
    await resolve(store.store.prune(10**6, 100))
    assert await store.find() == ["f", "e", "d"]


async def test_no_finished_record_at_all_may_be_kept(make: Make) -> None:
    store = await make(max_finished=0)
    await store.queue("q", "a", "b")
    while claimed := await store.claim():
        await store.end(claimed[0])
    await resolve(store.store.prune(10**6, 100))
    assert await store.find() == []


async def test_abandon_ends_what_would_be_lost_and_nothing_that_runs(store: Bench) -> None:
    await store.queue("q", "running", "queued")
    await store.queue("r", "held")
    await store.queue(None, "delayed", delay=5)
    claimed = {job.name: job for job in await store.claim()}
    await store.end(claimed["held"], HELD, delay=5)
    lost = await resolve(store.store.abandon("stopped"))
    assert sorted(names(lost)) == ([] if store.store.durable else ["delayed", "held", "queued"])
    for record in lost:
        job = await store.get(record)
        assert job.details is not None
        assert (job.state, job.details.cancel_reason) == (CANCELLED, "stopped")
    assert await store.state(claimed["running"]) is RUNNING


async def test_records_outlive_a_close_and_an_open(store: Bench) -> None:
    (job,) = await store.queue("q", "a")
    await store.claim()
    await store.end(job)
    await resolve(store.store.close())
    await resolve(store.store.open(store))
    assert await store.find() == ["a"]


async def test_odd_queue_names_never_meet(store: Bench) -> None:
    odd = [
        "a/b",
        "a",
        "..",
        "__proto__",
        "constructor",
        "é",
        "e\u0301",
        "🦊",
        "\u202eabc",
        " a",
        "a ",
        "A",
        "%",
        "'",
        "n" * 200,
    ]
    for name in odd:
        await store.queue(name, name)
    assert names(await store.claim()) == odd


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_queue_runs_more_than_it_may_and_order_holds(  # noqa: C901 - a random walk
    make: Make, seed: int
) -> None:
    rng = random.Random(seed)
    store = await make(limits={"wide": 3}, max_finished=40)
    steps, rest = store.pace
    limits, running, started = {"wide": 3}, {}, {}  # type: ignore[var-annotated]
    jobs: list[Record] = []

    async def step() -> None:
        roll = rng.random()
        if roll < 0.35:
            queue = rng.choice(["a", "b", "wide", None])
            delay = rng.choice([None, None, None, 3.0])
            jobs.extend(await store.queue(queue, f"{len(jobs)}", delay=delay, threaded=rng.random() < 0.3))
        elif roll < 0.5 and jobs:
            await store.cancel(*(job.id for job in rng.sample(jobs, min(len(jobs), 2))))
        elif roll < 0.6:
            await resolve(rng.choice([store.store.pause, store.store.resume])(rng.choice(["a", "b", "wide"])))
        elif roll < 0.7:
            await store.pass_time(rng.choice([0.5, 2.0]))
        else:
            ending = rng.sample(list(running.values()), min(len(running), rng.randrange(4)))
            outcomes = [
                Ended(job, rng.choice(list(Verdict)), rng.choice([0.0, 1.0]), rng.random() < 0.8) for job in ending
            ]
            for outcome in outcomes:
                del running[outcome.record.id]
            for job in (await store.exchange(outcomes, rng.randrange(6), rng.randrange(3))).jobs:
                assert job.id not in running
                running[job.id] = job
                assert job.state is RUNNING
                started.setdefault(job.queue, []).append(job)

    for n in range(steps):
        await step()
        assert not _crowded(running.values(), limits)
        if n % rest == 0:
            await store.check_books()
    for queue in ("a", "b"):
        assert _in_order(started.get(queue, ()))


def _crowded(running: Iterable[Record], limits: dict[str, int]) -> list[str]:
    per_queue = Counter(job.queue for job in running if job.queue)
    return [queue for queue, n in per_queue.items() if n > limits.get(queue, 1)]


def _in_order(started: Iterable[Record]) -> bool:
    firsts = list(dict.fromkeys(job.number for job in started if not _was_delayed(job)))
    return firsts == sorted(firsts)


def _was_delayed(job: Record) -> bool:
    return job.details is not None and job.details.due is not None


async def test_the_states_have_no_way_out_of_an_end() -> None:
    assert {state for state in JobState if not ALLOWED[state]} == {SUCCEEDED, FAILED, CANCELLED}


async def _hour(store: Bench) -> list[Minute | None]:
    return list(await resolve(store.store.hour()))


async def _named(store: Bench, name: str) -> Record:
    return next(r for r in await resolve(store.store.find(Query(limit=10_000))) if r.name == name)
