from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from asgi_jobs.engine.watchdog import AFTERWARDS, Blocked, Watchdog

LIMIT = 20  # seconds after which a test gives up; none waits so long


@dataclass(frozen=True)
class AJob:
    id: str
    name: str


class Log(logging.Handler):
    """What the watchdog writes; each line opens a gate that the blocked loop may wait at."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.written = threading.Event()
        self.on_line: Callable[[], object] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.on_line()
        self.written.set()

    async def second_line(self) -> str:
        while len(self.lines) < 2:
            self.written.clear()
            if len(self.lines) < 2:
                assert await asyncio.to_thread(self.written.wait, LIMIT)
        return self.lines[1]


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("asgi_jobs")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
async def watch() -> Any:
    """Starts a watchdog over the test's loop that needs little patience."""
    dogs: list[Watchdog] = []

    def start(current: Callable[[Any], AJob | None], **options: Any) -> Watchdog:
        options = {"after": 0.05, "interval": 0.001} | options
        dogs.append(dog := Watchdog(asyncio.get_running_loop(), current=current, **options))
        dog.start()
        return dog

    yield start
    for dog in dogs:
        dog.stop()


def resize(log: Log) -> None:
    assert log.written.wait(LIMIT)


def nobody(task: Any) -> None:
    return None


async def test_it_names_the_job_and_the_line_that_blocks_the_loop(watch: Any, log: Log) -> None:
    async def body() -> None:
        resize(log)

    job = asyncio.create_task(body())
    dog = watch(lambda task: AJob("17", "Resize") if task is job else None)
    await job
    first, second = log.lines[0], await log.second_line()

    assert first.startswith("Job 'Resize' (17) has blocked the event loop for 0.")
    assert "s at tests/engine/test_watchdog.py:" in first
    assert " in resize: assert log.written.wait(LIMIT). " in first
    assert "asyncio.to_thread" in first
    assert second.startswith("Job 'Resize' (17) no longer blocks the event loop; it did for 0.")
    assert isinstance(dog.blocked, Blocked)
    assert (dog.blocked.job_id, dog.blocked.name, dog.blocked.function) == ("17", "Resize", "resize")
    assert dog.blocked.file == "tests/engine/test_watchdog.py"
    assert dog.blocked.code == "assert log.written.wait(LIMIT)"
    assert not dog.blocked.lasting
    assert dog.blocked.seconds >= 0.05


async def test_while_it_lasts_other_threads_can_ask(watch: Any, log: Log) -> None:
    seen: list[Blocked] = []
    log.on_line = lambda: seen.append(dog.blocked)

    dog = watch(nobody)
    resize(log)

    assert seen[0].lasting
    assert seen[0].seconds >= 0.05
    assert abs(datetime.now(UTC) - seen[0].since) < timedelta(seconds=LIMIT)


async def test_a_long_blocking_is_told_twice_not_more(watch: Any, log: Log) -> None:
    rounds = threading.Event()
    waits = 0

    def wait(event: threading.Event, seconds: float) -> None:
        nonlocal waits
        event.wait(seconds)
        waits += bool(log.lines)
        if waits == 20:  # the watchdog has looked twenty times since it wrote its line
            rounds.set()

    watch(nobody, wait=wait)
    assert rounds.wait(LIMIT)
    await log.second_line()
    turns = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for turn in turns:
        asyncio.get_running_loop().call_soon(turn.set_result, None)
        await turn

    assert len(log.lines) == 2


async def test_code_outside_jobs_is_told_too(watch: Any, log: Log) -> None:
    done = asyncio.Event()

    def callback() -> None:
        resize(log)
        done.set()

    dog = watch(nobody)
    asyncio.get_running_loop().call_soon(callback)
    await done.wait()
    await log.second_line()

    assert log.lines[0].startswith("Code outside jobs has blocked the event loop")
    assert (dog.blocked.job_id, dog.blocked.name) == (None, "code outside jobs")
    assert dog.blocked.function == "resize"


async def test_a_job_that_cannot_be_told_is_no_reason_to_be_silent(watch: Any, log: Log) -> None:
    def current(task: Any) -> AJob:
        raise LookupError

    watch(current)
    resize(log)

    assert log.lines[0].startswith("Code outside jobs has blocked")


async def test_it_says_nothing_while_the_loop_goes_on(watch: Any, log: Log) -> None:
    beats = 0
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(event: threading.Event, seconds: float) -> None:
        nonlocal beats
        beats += 1
        if beats == 50:
            loop.call_soon_threadsafe(enough.set)
        event.wait(seconds)

    def step() -> None:
        if not enough.is_set():
            loop.call_soon(step)

    dog = watch(nobody, after=LIMIT, wait=wait)
    step()
    await enough.wait()

    assert log.lines == []
    assert dog.blocked is None


async def test_it_stops_at_once_leaves_no_thread_and_can_start_again(log: Log) -> None:
    dog = Watchdog(asyncio.get_running_loop(), current=nobody, after=3_600, interval=3_600)
    before = threading.active_count()
    for _ in range(20):
        dog.start()
        dog.start()
        assert threading.active_count() == before + 1
        dog.stop()
        dog.stop()
        assert threading.active_count() == before


async def test_it_can_be_stopped_while_it_reports(watch: Any, log: Log) -> None:
    dog = watch(nobody, interval=3_600)
    resize(log)
    dog.stop()

    assert not [thread for thread in threading.enumerate() if thread.name == "asgi_jobs watchdog"]


def test_a_closed_loop_ends_it() -> None:
    loop = asyncio.new_event_loop()
    dog = Watchdog(loop, current=nobody, interval=0.001)

    async def start() -> None:
        dog.start()

    loop.run_until_complete(start())
    loop.close()
    thread = dog._thread
    assert thread is not None
    thread.join(LIMIT)

    assert not thread.is_alive()
    dog.stop()


class Scripted:
    """A loop that answers when told, and the time, which only the waiting of the watchdog moves."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.used = 0.0
        self.questions: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.steps: list[Callable[[float], None]] = []
        self.finished = threading.Event()
        self.running = True

    def is_running(self) -> bool:
        return self.running

    def is_closed(self) -> bool:
        return False

    def call_soon_threadsafe(self, function: Callable[..., object], *args: object) -> None:
        self.questions.append((function, args))

    def wait(self, event: threading.Event, seconds: float) -> None:
        if self.steps:
            self.steps.pop(0)(seconds)
        else:
            self.finished.set()
            event.wait(LIMIT)

    def silence(self, seconds: float) -> None:
        self.time += seconds

    def answer(self, seconds: float) -> None:
        function, args = self.questions.pop()
        function(*args)

    def suspended(self, seconds: float) -> None:
        self.time += seconds + 3_600

    def computing(self, seconds: float) -> None:
        self.time += seconds + 30
        self.used += 30

    def run(self, *steps: Callable[[float], None]) -> Watchdog:
        """What the watchdog makes of these waits; it watches the thread of the test."""
        self.steps = list(steps)
        dog = Watchdog(
            cast("asyncio.AbstractEventLoop", self),
            current=nobody,
            after=1.0,
            monotonic=lambda: self.time,
            now=lambda: self.time,
            cpu=lambda: self.used,
            wait=self.wait,
        )
        dog.start()
        assert self.finished.wait(LIMIT)
        dog.stop()
        return dog


def test_it_waits_as_long_as_it_was_told_and_counts_the_whole_time(log: Log) -> None:
    script = Scripted()

    dog = script.run(script.silence, script.silence, script.silence, script.silence, script.answer)

    assert "has blocked the event loop for 1.0 s" in log.lines[0]
    assert "it did for 1.5 s" in log.lines[1]
    assert dog.blocked is not None
    assert dog.blocked.since == datetime.fromtimestamp(1_000, UTC)
    assert dog.blocked.seconds == 1.5


def test_an_answer_in_time_is_fine(log: Log) -> None:
    script = Scripted()

    dog = script.run(script.silence, script.answer, script.silence, script.silence, script.answer)

    assert log.lines == []
    assert dog.blocked is None


def test_it_is_told_for_an_hour_after_it_is_over(log: Log) -> None:
    script = Scripted()
    dog = script.run(script.silence, script.silence, script.answer)

    script.time += AFTERWARDS - 1
    assert dog.blocked is not None
    script.time += 2
    assert dog.blocked is None


def test_a_suspended_process_is_not_the_loops_fault(log: Log) -> None:
    script = Scripted()

    dog = script.run(script.suspended, script.silence, script.answer)

    assert log.lines == []
    assert dog.blocked is None


def test_after_a_suspension_the_time_is_counted_anew(log: Log) -> None:
    script = Scripted()

    script.run(script.silence, script.suspended, script.silence, script.answer)

    assert log.lines[0].startswith("Code outside jobs has blocked the event loop for 1.0 s")


def test_c_code_that_held_the_interpreter_lock_is_the_loops_fault(log: Log) -> None:
    script = Scripted()

    script.run(script.computing, script.silence, script.answer)

    assert "has blocked the event loop for 30.0 s" in log.lines[0]


def test_c_code_that_follows_an_answer_is_told_too(log: Log) -> None:
    script = Scripted()

    def answer_and_compute(seconds: float) -> None:
        script.answer(seconds)
        script.computing(0)

    script.run(answer_and_compute, script.answer)

    assert "has blocked the event loop for 30.0 s" in log.lines[0]
    assert len(log.lines) == 2


def test_c_code_before_the_loop_could_be_asked_is_told_too(log: Log) -> None:
    script = Scripted()

    script.run(script.answer, script.computing, script.answer)

    assert "has blocked the event loop for 30.0 s" in log.lines[0]
    assert len(log.lines) == 2


def test_a_loop_that_does_not_run_is_not_blocked(log: Log) -> None:
    script = Scripted()

    def stops(seconds: float) -> None:
        script.silence(seconds)
        script.running = False

    script.run(script.silence, stops)

    assert log.lines == []


def test_a_loop_that_closes_while_it_is_asked_ends_it_quietly(log: Log) -> None:
    class Closing(Scripted):
        def call_soon_threadsafe(self, function: Callable[..., object], *args: object) -> None:
            raise RuntimeError("Event loop is closed")

    script = Closing()

    dog = script.run(script.silence)

    assert log.lines == []
    assert dog.blocked is None


def test_many_short_steps_are_not_blamed_on_one_job(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted()
    tasks = iter(["first", "second"])
    monkeypatch.setattr(asyncio, "current_task", lambda loop: next(tasks))

    script.run(script.silence, script.silence, script.answer)

    assert log.lines[0].startswith("A row of many short steps has blocked the event loop")
