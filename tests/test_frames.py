from __future__ import annotations

import asyncio
import json
import linecache
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from asgi_jobs.frames import (
    FRAMES,
    Frame,
    code_at,
    frames_of_task,
    frames_of_thread,
    frames_of_traceback,
)

Look = Callable[[Callable[[], Coroutine[Any, Any, object]]], Awaitable[list[Frame]]]


class Sea:
    """Where the coroutines of these tests wait: forever, once they have said that they are here."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.never = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.never.wait()


@pytest.fixture
async def sea() -> Sea:
    return Sea()


@pytest.fixture
async def look(sea: Sea) -> AsyncIterator[Look]:
    """Starts a coroutine function and gives the frames it waits in, once it has reached the sea."""
    tasks = []

    async def start(function: Callable[[], Coroutine[Any, Any, object]]) -> list[Frame]:
        tasks.append(task := asyncio.create_task(function()))
        task.add_done_callback(lambda _: sea.reached.set())  # it failed
        await sea.reached.wait()
        return frames_of_task(task) if not task.done() else task.result()  # type: ignore[return-value]

    yield start
    sea.never.set()
    await asyncio.wait(tasks)


def functions(frames: list[Frame]) -> list[str]:
    return [frame.function.replace("<locals>.", "").rpartition("test_")[2] for frame in frames]


def own(frames: list[Frame]) -> list[str]:
    """The application's functions, without the test they are defined in."""
    return [frame.function.rpartition(".")[2] for frame in frames if frame.own]


async def test_a_task_waits_in_its_innermost_coroutine_first(sea: Sea, look: Look) -> None:
    async def send() -> None:
        await sea.wait()

    async def job() -> None:
        await send()

    frames = await look(job)

    assert own(frames) == ["wait", "send", "job"]
    assert frames[0].file == "asyncio/locks.py"
    assert not frames[0].own
    innermost = next(frame for frame in frames if frame.own)
    assert innermost.file == "tests/test_frames.py"
    assert innermost.function == "Sea.wait"
    assert innermost.code == "await self.never.wait()"
    assert linecache.getline(__file__, innermost.line).strip() == innermost.code


async def test_it_looks_into_async_generators_and_context_managers(sea: Sea, look: Look) -> None:
    async def rows() -> AsyncIterator[int]:
        await sea.wait()
        yield 1

    @asynccontextmanager
    async def scope() -> AsyncIterator[None]:
        async for _ in rows():
            pass
        yield

    async def job() -> None:
        async with scope():
            pass

    assert own(await look(job)) == ["wait", "rows", "scope", "job"]


async def test_it_looks_into_the_closing_of_async_generators(sea: Sea, look: Look) -> None:
    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await sea.wait()

    async def job() -> None:
        generator = rows()
        await anext(generator, None)
        await generator.aclose()  # type: ignore[attr-defined]

    assert own(await look(job)) == ["wait", "rows", "job"]


async def test_it_looks_into_awaitables_and_generator_based_coroutines(sea: Sea, look: Look) -> None:
    class Wrapped:
        def __await__(self) -> Generator[Any, None, None]:
            return sea.wait().__await__()

    class Written:
        def __await__(self) -> Generator[Any, None, None]:
            yield from Wrapped().__await__()

    @types.coroutine
    def old_style() -> Generator[Any, None, None]:
        yield from Written().__await__()

    async def job() -> None:
        await old_style()

    assert own(await look(job)) == ["wait", "__await__", "old_style", "job"]


async def test_it_looks_into_an_awaited_task(sea: Sea, look: Look) -> None:
    async def job() -> None:
        await asyncio.create_task(sea.wait())

    assert own(await look(job)) == ["wait", "job"]


async def test_it_looks_into_a_task_that_has_a_time_limit(sea: Sea, look: Look) -> None:
    async def job() -> None:
        await asyncio.wait_for(sea.wait(), 3_600)

    assert own(await look(job)) == ["wait", "job"]


async def test_it_says_how_many_tasks_of_a_group_are_waited_for(sea: Sea, look: Look) -> None:
    async def job() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(sea.wait())

    frames = await look(job)

    assert own(frames) == ["wait", "job"]
    assert frames[-2].function == "waits for 3 tasks of a TaskGroup"
    assert frames[-2].file == "asyncio/taskgroups.py"


async def test_anyio_groups_are_told_alike(sea: Sea, look: Look) -> None:
    async def job() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sea.wait)
            group.start_soon(sea.wait)

    frames = await look(job)

    assert own(frames) == ["wait", "job"]
    assert frames[-2].function == "waits for 2 tasks of a TaskGroup"


async def test_it_says_how_many_tasks_are_gathered_and_counts_those_that_have_not_ended(sea: Sea, look: Look) -> None:
    async def nothing() -> None:
        pass

    async def job() -> None:
        await asyncio.gather(nothing(), asyncio.gather(sea.wait(), sea.wait()))

    async def late() -> None:
        await asyncio.gather(nothing(), job())

    frames = await look(late)

    waits = [frame.function for frame in frames if frame.function.startswith("waits")]
    assert own(frames) == ["wait", "job", "late"]
    assert waits[0] == "waits for 2 tasks of gather()"
    assert waits[-1].startswith("waits for ")
    assert frames[-2].file == "asyncio/tasks.py"


async def test_it_looks_through_wait_and_shield(sea: Sea, look: Look) -> None:
    async def shielded() -> None:
        await asyncio.shield(sea.wait())

    async def job() -> None:
        await asyncio.wait([asyncio.create_task(shielded())])

    frames = await look(job)

    assert own(frames) == ["wait", "shielded", "job"]
    assert "waits for a shielded task" in functions(frames)
    assert "waits for 1 task of asyncio.wait()" in functions(frames)


async def test_it_looks_into_synchronous_code_below_sqlalchemy(sea: Sea, look: Look) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")

    def report(connection: Connection) -> None:
        await_only(sea.wait())

    async def job() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(report)
        await engine.dispose()

    frames = await look(job)

    assert own(frames) == ["wait", "report", "job"]
    assert any(frame.file.startswith("sqlalchemy/") for frame in frames)


async def test_a_task_may_look_at_itself() -> None:
    def here() -> list[Frame]:
        task = asyncio.current_task()
        assert task is not None
        return frames_of_task(task)

    async def job() -> list[Frame]:
        return here()

    frames = await asyncio.create_task(job())

    assert own(frames) == ["here", "job"]
    assert len(frames) == 2


def test_another_thread_sees_where_a_task_runs_this_moment() -> None:
    seen: list[Frame] = []

    def busy(task: asyncio.Task[Any]) -> None:
        watcher = threading.Thread(target=lambda: seen.extend(frames_of_task(task)))
        watcher.start()
        watcher.join()

    async def job() -> None:
        task = asyncio.current_task()
        assert task is not None
        busy(task)

    asyncio.run(job())

    assert own(seen) == ["busy", "job"]
    assert seen[0].file == "threading.py"


async def test_a_task_that_has_ended_waits_nowhere_and_a_new_one_at_its_first_line() -> None:
    async def job() -> None:
        pass

    task = asyncio.create_task(job())
    fresh = frames_of_task(task)
    await task

    assert [frame.code for frame in fresh] == ["async def job() -> None:"]
    assert frames_of_task(task) == []


async def test_a_shielded_future_that_is_no_task_ends_the_look(look: Look, sea: Sea) -> None:
    future = asyncio.get_running_loop().create_future()

    async def shielding() -> None:
        sea.reached.set()
        await asyncio.shield(future)

    frames = await look(shielding)

    assert [frame.function for frame in frames][-1].endswith("shielding")
    future.cancel()


def test_two_tasks_that_wait_for_each_other_are_told_once() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def job(number: int) -> None:
        await tasks[1 - number]

    async def start() -> list[Frame]:
        tasks.extend([asyncio.create_task(job(0)), asyncio.create_task(job(1))])
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)  # behind the first steps of both
        await turn.wait()
        return frames_of_task(tasks[0])

    loop = asyncio.new_event_loop()  # not asyncio.run: it cancels what is left, and this pair cannot be
    try:
        assert own(loop.run_until_complete(start())) == ["job", "job"]
    finally:
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


def test_the_middle_of_a_deep_stack_is_left_out() -> None:
    async def deep(levels: int) -> list[Frame]:
        if levels:
            return await deep(levels - 1)
        task = asyncio.current_task()
        assert task is not None
        return frames_of_task(task)

    async def outermost() -> list[Frame]:
        return await deep(200)

    frames = asyncio.run(outermost())

    assert len(frames) == FRAMES + 1
    assert frames[0].code == "return frames_of_task(task)"
    assert own(frames)[-1] == "outermost"
    assert [f.function for f in frames if f.file == "…"] == [f"{202 - FRAMES} frames are left out here"]


def test_a_thread_is_seen_where_it_waits_without_what_started_it() -> None:
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        frames = frames_of_thread(thread.ident or 0)
    finally:
        done.set()
        thread.join()

    assert own(frames) == ["work"]
    assert frames[-1].code in {"ready.set()", "done.wait()"}
    assert frames_of_thread(-1) == []


def raised(function: Callable[..., object], *args: object) -> BaseException:
    """What the function raises, with its traceback."""
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def fail(message: object = "no such file") -> None:
    raise ValueError(message)


def dive(levels: int) -> None:
    if levels:
        dive(levels - 1)
    else:
        fail()


@pytest.fixture
def deep_stack() -> Generator[None]:
    """As deep as a C extension or a raised limit lets a stack become."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(limit)


def test_frames_of_a_traceback_come_innermost_first() -> None:
    frames = frames_of_traceback(raised(dive, 1).__traceback__)

    assert own(frames) == ["fail", "dive", "dive", "raised"]
    assert frames[0].code == "raise ValueError(message)"
    assert frames_of_traceback(None) == []


@pytest.mark.usefixtures("deep_stack")
def test_frames_of_a_long_traceback_are_bounded() -> None:
    frames = frames_of_traceback(raised(dive, 10_000).__traceback__)

    assert len(frames) == FRAMES + 1
    assert own(frames)[0] == "fail"
    assert own(frames)[-1] == "raised"
    assert [f.function for f in frames if f.file == "…"] == ["9,943 frames are left out here"]


def test_source_lines_that_cannot_be_had_are_empty() -> None:
    class Broken:
        def get_source(self, name: str) -> str:
            raise RuntimeError

    module = {"__name__": "generated", "__loader__": Broken()}

    assert code_at("/nowhere/at/all.py", 1) == ""
    assert code_at(__file__, 10**9) == ""
    assert code_at("generated.py", 1, module) == ""


def test_files_are_named_for_people(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def file_of(path: object, module: str = "x") -> tuple[str, bool]:
        namespace = {"__name__": module}
        exec(compile("def f(): raise ValueError", str(path), "exec"), namespace)
        frame = frames_of_traceback(raised(namespace["f"]).__traceback__)[0]  # type: ignore[arg-type]
        return frame.file, frame.own

    monkeypatch.syspath_prepend(tmp_path / "work" / "source")
    monkeypatch.syspath_prepend(tmp_path / "work")

    assert file_of(tmp_path / "work" / "source" / "shop" / "mailer.py") == ("shop/mailer.py", True)
    assert file_of(tmp_path / "lib" / "site-packages" / "sqlalchemy" / "x.py") == ("sqlalchemy/x.py", False)
    assert file_of(tmp_path / "elsewhere.py") == (str(tmp_path / "elsewhere.py"), True)
    assert file_of(json.__file__) == ("json/__init__.py", False)
    assert file_of("<string>") == ("<string>", False)
    assert file_of("<string>", "__main__") == ("<string>", True)
