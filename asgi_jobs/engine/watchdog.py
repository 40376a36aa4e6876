"""Names the job that blocks the event loop, with file and line: it cannot do so itself."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, NamedTuple, Protocol

from asgi_jobs.clock import Clock
from asgi_jobs.frames import Frame, frames_of_thread

AFTERWARDS = 3600.0
"""Seconds for which a blocking that is over is still told."""
PATIENCE = 2.0
"""Seconds that `stop` waits for the thread, which may hang in a log handler."""
LOOP = ("BaseEventLoop._run_once", "BaseEventLoop.run_forever", "Handle._run", "Runner.run")
"""Functions of asyncio below which there is no more of the blocking code."""
UNKNOWN = Frame("?", 0, "?", "", own=False)
logger = logging.getLogger("asgi_jobs")

Task = asyncio.Task[Any] | None


class Named(Protocol):
    """As much of a job as is told."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Blocked:
    """Code that keeps, or kept, the event loop from going on.

    Attributes:
        job_id: The job; None where no job runs, or where it is the sum of many short steps.
        name: The job's name, or in words what it is instead.
        file: Short, for people.
        line: Where it was when it was noticed, in the application's innermost function.
        function: Its qualified name.
        since: When it began, to a fraction of a second.
        seconds: How long it has taken up to now, or in all.
        code: The line's text.
        lasting: Whether it still blocks; False within the hour after it.
    """

    job_id: str | None
    name: str
    file: str
    line: int
    function: str
    since: datetime
    seconds: float
    code: str = ""
    lasting: bool = True


@dataclass(slots=True)
class Beat:
    """One question to the loop whether it goes on."""

    asked: float
    answered: bool = False


class Sight(NamedTuple):
    """What the loop's thread is at, and whether it was the same task all the time."""

    task: Task
    frames: list[Frame]
    steady: bool


class Watchdog:
    """A thread that asks the event loop for a sign of life, and tells who is to blame when none comes.

    It asks every `interval` seconds. When no answer comes for `after` seconds, it logs one warning with the
    job and the line that the loop's thread is at, and one more with the whole time when it is over. Time in
    which the process itself was suspended is not the loop's; time in which a C function held the GIL is.

    Args:
        loop: The loop; `start` must be called in its thread.
        current: Tells the job that runs in a task. Called in the watchdog's thread.
        after: Seconds without an answer that count as blocked.
        interval: Seconds between two questions.
        monotonic: Measures durations.
        now: Tells dates, as seconds since the epoch.
        cpu: Seconds of processor time that this process has used.
        wait: Waits for an event at most so many seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        current: Callable[[Task], Named | None],
        after: float = 1.0,
        interval: float = 0.25,
        monotonic: Callable[[], float] = Clock.monotonic,
        now: Callable[[], float] = Clock.time,
        cpu: Callable[[], float] = time.process_time,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._loop = loop
        self._current = current
        self._after = after
        self._interval = interval
        self._monotonic = monotonic
        self._now = now
        self._cpu = cpu
        self._wait = wait
        self._looping = 0
        self._wake = threading.Event()  # an answer, or the end
        self._woken = inf
        self._thread: threading.Thread | None = None
        self._told: tuple[Blocked, Beat, float | None] | None = None  # the last one, and when it was over

    def start(self) -> None:
        """Begin to watch the loop of this thread; harmless when begun already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._looping = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="asgi_jobs watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, at once unless it is writing a log line."""
        thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None:
            thread.join(PATIENCE)

    @property
    def blocked(self) -> Blocked | None:
        """What blocks the loop now, or did so within the last hour."""
        if (told := self._told) is None:
            return None
        blocked, beat, over = told
        if over is None:
            return replace(blocked, seconds=self._monotonic() - beat.asked)
        return blocked if self._monotonic() - over < AFTERWARDS else None

    # In the watchdog's thread

    def _watch(self) -> None:
        try:
            while self._watching() and not self._loop.is_closed():
                self._ask()
                self._wake.clear()
                if self._watching():
                    self._sleep(self._interval)
        except Exception:
            logger.exception("The watchdog ends; what blocks the event loop is no longer told")

    def _watching(self) -> bool:
        return self._thread is threading.current_thread()

    def _ask(self) -> None:
        """Ask once, and see to it that an answer comes."""
        beat = Beat(self._monotonic())
        if self._send(beat) and self._silent(beat, self._after / 2):
            first = asyncio.current_task(self._loop)
            if self._silent(beat, self._after):
                sight = self._sight(first)
                if sight is not None and self._missing(beat):
                    self._report(beat, sight)

    def _send(self, beat: Beat) -> bool:
        if self._loop.is_running():
            with suppress(RuntimeError):  # closed this moment
                self._loop.call_soon_threadsafe(self._answer, beat)
                return True
        return False

    def _answer(self, beat: Beat) -> None:
        """In the loop's thread: it goes on."""
        beat.answered = True
        self._woken = self._monotonic()
        self._wake.set()

    def _missing(self, beat: Beat) -> bool:
        return not beat.answered and self._watching() and self._loop.is_running()

    def _silent(self, beat: Beat, seconds: float) -> bool:
        """Whether no answer comes for so long, in which this process did run."""
        while not beat.answered and self._watching():
            left = beat.asked + seconds - self._monotonic()
            if left <= 0:
                return True
            if self._sleep(left):
                beat.asked = self._monotonic()  # begin anew
        return False

    def _sleep(self, seconds: float) -> bool:
        """Sleep so long or until woken; what may have woken must be looked at before the next sleep.

        Where it lasts much longer this thread could not go on. When the processor was in use, C code held
        the GIL: that is told here, before anything lets the loop's thread go on. When it was not, the
        process was suspended, or the machine; then the answer is True.
        """
        before, cpu = self._monotonic(), self._cpu()
        self._wait(self._wake, seconds)
        self._wake.clear()
        now = self._monotonic()
        late = now - min(before + seconds, self._woken)
        self._woken = inf
        if late < self._after / 4:
            return False
        if self._cpu() - cpu < late / 2:
            return True
        if late >= self._after and (sight := self._sight()) and self._send(beat := Beat(now - late)):
            self._report(beat, sight)
        return False

    def _sight(self, *earlier: Task) -> Sight | None:
        """What the loop's thread is at; None where it waits, for the GIL say."""
        task = asyncio.current_task(self._loop)
        frames = frames_of_thread(self._looping)
        end = next((index for index, frame in enumerate(frames) if frame.function in LOOP), len(frames))
        frames = frames[:end]
        if task is None and (not frames or frames[0].file == "selectors.py"):
            return None
        # A task seen before has not left its step in between, or the loop had answered.
        return Sight(task, frames, all(task is other for other in earlier))

    def _report(self, beat: Beat, sight: Sight) -> None:
        """Say who does not let the loop go on, and when it goes on."""
        blocked = self._blame(beat, sight)
        self._told = blocked, beat, None
        logger.warning(
            "%s has blocked the event loop for %.1f s at %s:%d in %s: %s. Everything waits meanwhile: "
            "make it a plain `def` function, which runs in a thread, or use asyncio.to_thread",
            *(_who(blocked), blocked.seconds, blocked.file, blocked.line, blocked.function, blocked.code),
        )
        while self._missing(beat):
            self._wait(self._wake, self._interval)
            self._wake.clear()
        over = self._monotonic()
        blocked = replace(blocked, seconds=over - beat.asked, lasting=False)
        self._told = blocked, beat, over
        logger.warning(
            "%s no longer blocks the event loop; it did for %.1f s, seen at %s:%d in %s",
            *(_who(blocked), blocked.seconds, blocked.file, blocked.line, blocked.function),
        )

    def _blame(self, beat: Beat, sight: Sight) -> Blocked:
        frames = sight.frames or [UNKNOWN]
        place = next((frame for frame in frames if frame.own), frames[0])
        seconds = self._monotonic() - beat.asked
        job = self._job_of(sight.task) if sight.steady else None
        name = "code outside jobs" if sight.steady else "a row of many short steps"
        return Blocked(
            job_id=None if job is None else job.id,
            name=name if job is None else job.name,
            file=place.file,
            line=place.line,
            function=place.function,
            since=datetime.fromtimestamp(self._now(), UTC) - timedelta(seconds=seconds),
            seconds=seconds,
            code=place.code,
        )

    def _job_of(self, task: Task) -> Named | None:
        try:
            return self._current(task)
        except Exception:  # it looks at what the loop's thread changes meanwhile
            return None


def _who(blocked: Blocked) -> str:
    if blocked.job_id is None:
        return blocked.name.capitalize()
    return f"Job {blocked.name!r} ({blocked.job_id})"
