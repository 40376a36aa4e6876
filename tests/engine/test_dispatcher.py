"""The exchange with a store that needs I/O: batched while it is busy, repeated until it succeeds, never undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import pytest

from asgi_jobs.engine import dispatcher as module
from asgi_jobs.engine.dispatcher import Dispatcher, resolve
from asgi_jobs.job import JobState, Record
from asgi_jobs.stores.base import Answer, Claimed, Outcome, Verdict
from asgi_jobs.stores.memory import MemoryStore
from asgi_jobs.testing import settle
from tests.stores.bench import Bench, names


class SlowStore(MemoryStore):
    """The store in memory, behind a wire: it answers when told to, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(limits={}, max_queued=1_000, max_finished=1_000)
        self.asked: list[tuple[list[str], int, int]] = []
        self.go = asyncio.Event()
        self.failures = 0
        self.refuse: set[str] = set()
        self.more = False
        self.busy = 0

    def exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Awaitable[Claimed]:  # type: ignore[override]
        self.asked.append((names([outcome.record for outcome in outcomes]), n, threads))
        return self._answer(tuple(outcomes), n, threads)

    async def _answer(self, outcomes: tuple[Outcome, ...], n: int, threads: int) -> Claimed:
        self.busy += 1
        assert self.busy == 1, "two exchanges at once"
        try:
            await self.go.wait()
            if self.failures:
                self.failures -= 1
                raise ConnectionError("the database is away")
            claimed = super().exchange(outcomes, n, threads)
            refused = [outcome for outcome in outcomes if outcome.record.name in self.refuse]
            more, self.more = self.more, False
            return claimed._replace(refused=refused, more=more)
        finally:
            self.busy -= 1


class FakeRun:
    """An attempt whose end the test decides."""

    def __init__(self, record: Record, verdict: Verdict = Verdict.SUCCEEDED) -> None:
        self.record = record
        self.verdict = verdict
        self.delay = 0.0
        self.counted = True
        self.error = None


class FakeExecutor:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.running: set[FakeRun] = set()
        self.by_name: dict[str, FakeRun] = {}
        self.started: list[str] = []

    def start(self, record: Record) -> None:
        run = self.by_name[record.name] = FakeRun(record)
        self.running.add(run)
        self.started.append(record.name)


class Rig:
    """A dispatcher between the two."""

    def __init__(self) -> None:
        self.store = SlowStore()
        self.executor = FakeExecutor()
        self.told: list[str] = []
        self.bench = Bench()
        self.dispatcher = Dispatcher(
            self.store,
            self.executor,  # type: ignore[arg-type]
            concurrency=3,
            threads=2,
            started=lambda records: self.told.extend(f"started {record.name}" for record in records),
            recorded=lambda runs: self.told.extend(f"ended {run.record.name}" for run in runs),
        )
        self.dispatcher.claiming = True

    def add(self, *which: str, queue: str | None = None) -> None:
        self.store.add([self.bench.job(name, queue) for name in which])

    def end(self, name: str, verdict: Verdict = Verdict.SUCCEEDED) -> None:
        run = self.executor.by_name[name]
        run.verdict = verdict
        self.executor.running.discard(run)
        self.dispatcher.ended(run)  # type: ignore[arg-type]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(module, "PAUSE_AFTER_ERROR", 0)
    rig = Rig()
    yield rig
    rig.store.go.set()
    rig.store.failures = 0
    await rig.dispatcher.settle()
    await settle()


async def test_several_wakes_make_one_exchange(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b")
    for _ in range(5):
        rig.dispatcher.wake()
    await settle()
    assert rig.store.asked == [([], 3, 2)]
    assert rig.executor.started == ["a", "b"]


async def test_what_ends_while_the_store_is_busy_goes_into_the_next_exchange_together(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b", "c", "d", "e")
    rig.dispatcher.wake()
    await settle()
    rig.store.go.clear()
    rig.end("a")
    await settle()
    rig.end("b")
    await settle()
    rig.end("c")
    await settle()
    assert [asked[0] for asked in rig.store.asked[1:]] == [["a"]]
    rig.store.go.set()
    await settle()
    assert [asked[0] for asked in rig.store.asked[1:3]] == [["a"], ["b", "c"]]
    assert rig.executor.started == ["a", "b", "c", "d", "e"]


async def test_what_ends_in_one_turn_goes_into_one_exchange(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b", "c")
    rig.dispatcher.wake()
    await settle()
    rig.end("a")
    rig.end("b")
    await settle()
    assert rig.store.asked[1][0] == ["a", "b"]


async def test_when_the_last_running_job_has_ended_the_exchange_comes_at_once(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a")
    rig.dispatcher.wake()
    await settle()
    rig.end("a")
    assert rig.store.asked[-1][0] == ["a"]


async def test_an_exchange_that_fails_is_repeated_until_it_succeeds_and_no_outcome_is_lost(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.store.go.set()
    rig.add("a", "b", "c")
    rig.dispatcher.wake()
    await settle()
    rig.store.failures = 3
    rig.store.go.clear()
    rig.end("a")
    await settle()
    rig.end("b")  # while the exchange that will fail is under way
    await settle()
    rig.store.go.set()
    await settle(60)
    assert rig.store.counts()[JobState.SUCCEEDED] == 2
    assert sorted(said for said in rig.told if said.startswith("ended")) == ["ended a", "ended b"]
    assert caplog.text.count("The store did not answer") == 3


async def test_outcomes_that_the_store_refuses_are_not_told(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b")
    rig.dispatcher.wake()
    await settle()
    rig.store.refuse = {"a"}
    rig.end("a")
    rig.end("b")
    await settle()
    assert [said for said in rig.told if said.startswith("ended")] == ["ended b"]


async def test_a_store_that_has_more_is_asked_again(rig: Rig) -> None:
    rig.store.go.set()
    rig.store.more = True
    rig.dispatcher.wake()
    await settle()
    assert len(rig.store.asked) == 2


async def test_a_wake_while_the_store_is_busy_is_not_lost(rig: Rig) -> None:
    rig.dispatcher.wake()
    await settle()
    rig.add("late")
    rig.dispatcher.wake()
    await settle()
    rig.store.go.set()
    await settle()
    assert rig.executor.started == ["late"]


async def test_no_more_is_asked_for_than_there_are_free_places(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b")
    rig.dispatcher.wake()
    await settle()
    rig.dispatcher.lent = 1
    rig.dispatcher.wake()
    await settle()
    assert [asked[1] for asked in rig.store.asked] == [3, 2]
    rig.dispatcher.lent = -5  # taken back while all places are taken
    rig.dispatcher.wake()
    await settle()
    assert rig.store.asked[-1][1] == 0


async def test_threads_are_counted_apart(rig: Rig) -> None:
    rig.store.go.set()
    rig.store.add([rig.bench.job(name, threaded=True) for name in "abc"])
    rig.dispatcher.wake()
    await settle()
    assert rig.executor.started == ["a", "b"]
    assert rig.dispatcher.free_threads == 0
    rig.end("a")
    await settle()
    assert rig.executor.started == ["a", "b", "c"]


async def test_nothing_is_claimed_when_not_claiming_but_outcomes_are_handed_in(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a")
    rig.dispatcher.wake()
    await settle()
    rig.dispatcher.claiming = False
    rig.add("b")
    rig.end("a")
    await rig.dispatcher.settle()
    assert rig.store.asked[-1] == (["a"], 0, 0)
    assert rig.executor.started == ["a"]
    assert rig.store.counts()[JobState.SUCCEEDED] == 1


async def test_ends_are_told_before_the_starts_of_successors(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b", queue="q")
    rig.dispatcher.wake()
    await settle()
    rig.end("a")
    await settle()
    assert rig.told == ["started a", "ended a", "started b"]


async def test_a_held_outcome_is_told_before_its_next_attempt_is_claimed(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", queue="q")
    rig.dispatcher.wake()
    await settle()
    rig.end("a", Verdict.HELD)
    await settle()
    assert rig.told == ["started a", "ended a", "started a"]
    assert [asked[1] for asked in rig.store.asked] == [3, 0, 3]


async def test_settle_waits_until_every_outcome_is_stored(rig: Rig) -> None:
    rig.store.go.set()
    rig.add("a", "b")
    rig.dispatcher.wake()
    await settle()
    rig.store.go.clear()
    rig.end("a")
    await settle()
    rig.end("b")
    settled = asyncio.create_task(rig.dispatcher.settle())
    await settle()
    assert not settled.done()
    rig.store.go.set()
    await settled
    assert rig.store.counts()[JobState.SUCCEEDED] == 2


async def test_resolve_takes_answers_of_both_kinds() -> None:
    async def later() -> int:
        return 2

    at_once: Answer[int] = 1
    assert await resolve(at_once) == 1
    awaited: Answer[int] = later()
    assert await resolve(awaited) == 2
