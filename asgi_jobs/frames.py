"""Where code is: the frames in which a task or a thread waits.

What the interpreter does not show directly is looked up in CPython's own objects, always with a way out:
a frame too few is fine, an exception from here is not.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import re
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType, TracebackType
from typing import Any, NamedTuple

FRAMES = 60
"""Most frames that are shown of one stack; of longer ones the middle is left out."""
STEPS = 100_000
CODE = 200

ENGINE = ("asgi_jobs/", "asyncio/", "concurrent/futures/", "contextlib.py", "threading.py")
"""Files that stand between the interpreter's start and a job's first line."""
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What a database or UTF-8 refuses: NUL and lone surrogates."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One place in the code.

    Attributes:
        file: Short, for people: "shop/mailer.py", "sqlalchemy/orm/session.py".
        line: Counted from 1.
        function: Its qualified name, or what is waited for: "waits for 3 tasks of a TaskGroup".
        code: The line, without its indentation; empty where there is no source.
        own: Whether it is the application's: not the standard library's, an installed package's or ours.
    """

    file: str
    line: int
    function: str
    code: str
    own: bool


def storable(text: str) -> str:
    """The text with U+FFFD for each NUL and lone surrogate, which no UTF-8 column takes."""
    if text.isascii() and "\0" not in text:
        return text
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


class Place(NamedTuple):
    """A line that is being executed; becomes a `Frame` when it is shown, which reads the source."""

    code: CodeType
    line: int | None
    module: object


# --- Files ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _libraries() -> list[tuple[str, str]]:
    """Directories whose files are not the application's, and what their short names begin with."""
    paths = sysconfig.get_paths()
    names = ("purelib", "platlib", "stdlib", "platstdlib", "scripts")
    installed = [Path(asyncio.__file__).parent.parent, *(Path(paths[name]) for name in names)]
    ours = Path(__file__).parent.as_posix() + "/"
    return [(ours, "asgi_jobs/"), *((path.as_posix() + "/", "") for path in installed)]


@lru_cache(maxsize=4_096)
def _short(filename: str) -> tuple[str, bool]:
    """A file's name for people, and whether it is the application's."""
    if filename.startswith("<"):
        return filename, False
    path = Path(filename).absolute().as_posix()
    installed = max(path.rfind("/site-packages/"), path.rfind("/dist-packages/"))
    if installed >= 0:
        return path[installed + len("/site-packages/") :], False
    for directory, prefix in _libraries():
        if path.startswith(directory):
            return prefix + path[len(directory) :], False
    roots = [Path.cwd(), *sorted((Path(entry) for entry in sys.path if entry), key=lambda p: -len(str(p)))]
    for root in roots:
        if path.startswith(start := root.as_posix().rstrip("/") + "/"):
            return path[len(start) :], True
    return path, True


def _place(filename: str) -> tuple[str, bool]:
    try:
        return _short(filename)
    except Exception:  # no working directory, an entry of sys.path that is no path
        return str(filename), True


def _of_the_engine(filename: str) -> bool:
    short, own = _place(filename)
    return not own and short.startswith(ENGINE)


def code_at(filename: str, line: int, module: dict[str, Any] | None = None) -> str:
    """The source line without its indentation, at most 200 characters; empty where there is none."""
    try:
        return linecache.getline(filename, line, module).strip()[:CODE]
    except Exception:  # a loader of the application's that raises
        return ""


def _frame(place: Place) -> Frame:
    filename, line = place.code.co_filename, place.line or place.code.co_firstlineno
    module = place.module if isinstance(place.module, dict) else {}
    file, own = _place(filename)
    if file.startswith("<"):  # python -c, a console
        own = module.get("__name__") == "__main__"
    return Frame(storable(file), line, storable(place.code.co_qualname), storable(code_at(filename, line, module)), own)


def _frames(places: list[Place | Frame]) -> list[Frame]:
    """Places, innermost first, as they are shown: bounded, without the engine's frames at the outer end."""
    count = len(places)
    while count and isinstance(outer := places[count - 1], Place) and _of_the_engine(outer.code.co_filename):
        count -= 1
    places = places[:count] or places  # the engine's alone are better than none
    tail = FRAMES // 4
    if (left_out := len(places) - FRAMES) > 1:
        places = [*places[: FRAMES - tail], _left_out(left_out), *places[-tail:]]
    return [place if isinstance(place, Frame) else _frame(place) for place in places]


def _left_out(count: int) -> Frame:
    return Frame("…", 0, f"{count:,} frames are left out here", "", own=False)


# --- Threads -------------------------------------------------------------------------------------------


def _place_of(frame: FrameType) -> Place:
    return Place(frame.f_code, frame.f_lineno, frame.f_globals)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and its callers."""
    for _ in range(STEPS):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def frames_of_thread(ident: int) -> list[Frame]:
    """Where a thread is now, innermost first; empty when there is none of this `threading.get_ident()`."""
    top = sys._current_frames().get(ident)
    return _frames([_place_of(f) for f in _stack(top) if f.f_code.co_filename != __file__])


def frames_of_traceback(traceback: TracebackType | None) -> list[Frame]:
    """Where an exception came from, innermost first; of a long one the middle is left out."""
    head, left_out, tail = ends(traceback)
    note = [_left_out(left_out)] if left_out else []
    return _frames([*reversed(tail), *note, *reversed(head)])


def ends(traceback: TracebackType | None) -> tuple[list[Place], int, list[Place]]:
    """The first and the last places of a traceback and how many lie between, the engine's first ones gone."""
    step = traceback
    while step is not None and _of_the_engine(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    step = traceback if step is None else step
    head: list[Place] = []
    tail: deque[TracebackType] = deque(maxlen=FRAMES - FRAMES // 4)
    count = 0
    while step is not None:
        if count < FRAMES // 4:
            head.append(Place(step.tb_frame.f_code, step.tb_lineno, step.tb_frame.f_globals))
        else:
            tail.append(step)
        step, count = step.tb_next, count + 1
    last = [Place(t.tb_frame.f_code, t.tb_lineno, t.tb_frame.f_globals) for t in tail]
    return head, count - len(head) - len(last), last


# --- Tasks ---------------------------------------------------------------------------------------------


def frames_of_task(task: asyncio.Task[Any]) -> list[Frame]:
    """Where a task waits now, innermost first; empty when it has ended.

    Follows what is awaited through coroutines, generators and async generators to its end, and on into a
    task that is awaited there. Of several, in `gather`, `wait` or a TaskGroup, it follows the first that
    has not ended; a frame's `function` then says how many are waited for.
    """
    places: list[Place | Frame] = []
    seen: set[int] = set()
    following: asyncio.Task[Any] | None = task
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        frames = _awaited(following.get_coro())
        places += [_place_of(frame) for frame in frames]
        following = _follow(getattr(following, "_fut_waiter", None), frames, places)
    return _frames(places[::-1])


def _awaited(coroutine: object) -> list[FrameType]:
    """The frames of a coroutine and of all that it awaits, outermost first."""
    frames: list[FrameType] = []
    awaitable: object = coroutine
    for _ in range(STEPS):
        frame, running, inner = _look_into(awaitable)
        if running and frame is not None:
            return frames + _running(frame)
        if frame is not None:
            frames += [frame, *_in_greenlet(frame)]
        if inner is None:
            break
        awaitable = inner
    return frames


def _look_into(awaitable: object) -> tuple[FrameType | None, bool, object]:
    """The frame of what is awaited, whether it runs this moment, and what it awaits itself."""
    match awaitable:
        case CoroutineType():
            return awaitable.cr_frame, awaitable.cr_running, awaitable.cr_await
        case GeneratorType():
            return awaitable.gi_frame, awaitable.gi_running, awaitable.gi_yieldfrom
        case AsyncGeneratorType():  # says that it runs while it only waits
            inner: object = awaitable.ag_await
            return awaitable.ag_frame, awaitable.ag_running and inner is None, inner
    if hasattr(awaitable, "cr_frame"):  # compiled by Cython
        frame = awaitable.cr_frame
        return frame if isinstance(frame, FrameType) else None, False, getattr(awaitable, "cr_await", None)
    return None, False, _wrapped(awaitable)


def _wrapped(awaitable: object) -> object:
    """What the interpreter's own wrappers of `__await__`, `asend`, `athrow`, `anext` hold and do not tell."""
    known = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable")
    if type(awaitable).__name__ not in known:
        return None
    inside = (AsyncGeneratorType, CoroutineType, GeneratorType)
    for held in gc.get_referents(awaitable):
        if isinstance(held, inside) or type(held).__name__ in known:
            return held
    return None


def _running(outermost: FrameType) -> list[FrameType]:
    """The frames from a coroutine that runs this moment, in any thread, to where it is, outermost first."""
    for top in sys._current_frames().values():
        frames: list[FrameType] = []
        for frame in _stack(top):
            if frame.f_code.co_filename != __file__:
                frames.append(frame)
            if frame is outermost:
                return frames[::-1]
    return [outermost]


def _in_greenlet(frame: FrameType) -> list[FrameType]:
    """The synchronous code that SQLAlchemy runs below this frame, where some of it is the application's."""
    if frame.f_code.co_name != "greenlet_spawn":
        return []
    top = getattr(frame.f_locals.get("context"), "gr_frame", None)
    frames = list(_stack(top))[::-1]
    return frames if any(_place(f.f_code.co_filename)[1] for f in frames) else []


def _follow(future: object, frames: list[FrameType], places: list[Place | Frame]) -> asyncio.Task[Any] | None:
    """The task to look into next; adds to the places what is waited for."""
    waits, futures = _members_by_frame(frames[-1]) if frames else ("", [])
    if waits:  # it is said in the frame that waits
        places[-1] = replace(_frame(_place_of(frames[-1])), function=waits)
    future = futures[0] if futures else future
    for _ in range(FRAMES):  # futures may lead in a circle
        if future is None or isinstance(future, asyncio.Task):
            break
        waits, futures = _members_by_future(future)
        if not futures:
            return None
        places.append(replace(_frame(Place(asyncio.gather.__code__, None, None)), function=waits, code=""))
        future = futures[0]
    return future if isinstance(future, asyncio.Task) else None


def _members_by_frame(frame: FrameType) -> tuple[str, list[object]]:
    """What a frame that waits on behalf of others waits for, in words and as futures."""
    code, inner = frame.f_code, frame.f_locals
    if code.co_name in ("__aexit__", "_aexit") and type(inner.get("self")).__name__ == "TaskGroup":
        tasks = sorted(getattr(inner["self"], "_tasks", ()), key=_name)
        return _words(tasks, "of a TaskGroup")
    if code.co_filename == asyncio.tasks.__file__:
        if code.co_name == "_wait":
            return _words(sorted(inner.get("fs", ()), key=_name), "of asyncio.wait()")
        if code.co_name == "wait_for" and isinstance(inner.get("fut"), asyncio.Task):  # until Python 3.11
            return "", [inner["fut"]]
    return "", []


def _members_by_future(future: object) -> tuple[str, list[object]]:
    """The futures behind the one of `gather` or `shield`."""
    if children := getattr(future, "_children", None):
        return _words(children, "of gather()")
    for callback, *_ in getattr(future, "_callbacks", None) or ():
        cells = getattr(callback, "__closure__", None) or ()
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":  # the inner one leads back
            inner = [c.cell_contents for c in cells if isinstance(c.cell_contents, asyncio.Future)]
            return "waits for a shielded task", [f for f in inner if not f.done()]
    return "", []


def _words(futures: list[Any], where: str) -> tuple[str, list[object]]:
    pending = [future for future in futures if not future.done()]
    pending.sort(key=lambda future: not isinstance(future, asyncio.Task))  # those that can be looked into
    if not pending:
        return "", []
    return f"waits for {len(pending):,} task{'s' if len(pending) > 1 else ''} {where}", pending


def _name(future: object) -> tuple[int, str]:
    """Sorts tasks by age: their default names are numbered."""
    name = future.get_name() if isinstance(future, asyncio.Task) else ""
    return len(name), name
