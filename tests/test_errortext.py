from __future__ import annotations

import asyncio
import json
import linecache
import sys
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest

from asgi_jobs.errortext import format_error
from asgi_jobs.frames import FRAMES, Frame, frames_of_traceback


def own(frames: list[Frame]) -> list[str]:
    """The application's functions, without the test they are defined in."""
    return [frame.function.rpartition(".")[2] for frame in frames if frame.own]


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


def test_an_error_becomes_type_message_and_traceback() -> None:
    kind, message, traceback = format_error(raised(fail))

    assert (kind, message) == ("ValueError", "no such file")
    lines = traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3].startswith(f'  File "{__file__}", line ')
    assert lines[-3].endswith(", in fail")
    assert lines[-2:] == ["    raise ValueError(message)", "ValueError: no such file"]


def test_the_type_is_dotted_builtins_bare() -> None:
    assert format_error(KeyError("x"))[:2] == ("KeyError", "'x'")
    assert format_error(json.JSONDecodeError("bad", "x", 0))[0] == "json.decoder.JSONDecodeError"
    assert format_error(asyncio.CancelledError())[0] == "asyncio.exceptions.CancelledError"
    assert format_error(SystemExit()) == ("SystemExit", "", "SystemExit")


def test_a_message_of_a_megabyte_is_cut_and_says_so() -> None:
    _, message, traceback = format_error(raised(fail, "x" * 1_000_000))

    assert 3_900 < len(message) <= 4_000
    assert message.startswith("xxx")
    assert message.endswith("x … [996,060 more characters]")
    assert len(traceback) < 5_000


@pytest.mark.parametrize("trouble", [ValueError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_str_that_raises_is_told_as_the_message(trouble: type[BaseException]) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise trouble

    _, message, traceback = format_error(Silent())

    assert message == f"<no message: str() of the exception raised {trouble.__name__}>"
    assert traceback.endswith(message)


def test_an_exception_that_hides_its_own_parts_is_still_told() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__qualname__":
                raise RuntimeError
            return super().__getattribute__(name)

    class Hostile(BaseExceptionGroup[BaseException], metaclass=Meta):
        @property
        def exceptions(self) -> tuple[BaseException, ...]:
            raise RuntimeError

    kind, message, traceback = format_error(Hostile("all bad", [ValueError()]))

    assert kind.endswith("Hostile")
    assert message.startswith("all bad")
    assert traceback.endswith("[no traceback: it raised RuntimeError itself]")


@pytest.mark.usefixtures("deep_stack")
def test_a_traceback_of_ten_thousand_frames_keeps_both_ends_and_reads_the_source_of_these_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0
    getline = linecache.getline

    def counting(*args: Any) -> str:
        nonlocal reads
        reads += 1
        return getline(*args)

    error = raised(dive, 10_000)
    monkeypatch.setattr(linecache, "getline", counting)
    _, _, traceback = format_error(error)

    assert reads <= FRAMES
    assert len(traceback) <= 16_000
    assert ", in raised\n" in traceback
    assert "[9,943 frames are left out here]" in traceback
    assert traceback.endswith("raise ValueError(message)\nValueError: no such file")


def test_endless_recursion_is_told() -> None:
    def forever() -> None:
        forever()

    kind, message, traceback = format_error(raised(forever))

    assert kind == "RecursionError"
    assert "maximum recursion depth" in message
    assert "frames are left out here" in traceback


def test_causes_come_before_their_effects() -> None:
    def cause() -> None:
        try:
            fail("first")
        except ValueError as error:
            raise KeyError("second") from error

    def context() -> None:
        try:
            cause()
        except KeyError:
            raise RuntimeError("third")  # noqa: B904

    traceback = format_error(raised(context))[2]

    told = [
        traceback.index(text)
        for text in (
            "ValueError: first",
            "was the direct cause of",
            "KeyError: 'second'",
            "During handling of the above",
            "RuntimeError: third",
        )
    ]
    assert told == sorted(told)


def test_a_context_that_was_suppressed_is_not_told() -> None:
    def quiet() -> None:
        try:
            fail("first")
        except ValueError:
            raise KeyError("second") from None

    assert "first" not in format_error(raised(quiet))[2].replace("fail(", "")[-200:]
    assert format_error(raised(quiet))[2].count("Traceback") == 1


def test_of_a_long_chain_the_latest_errors_are_told() -> None:
    error: BaseException = ValueError("number 0")
    for number in range(1, 5_000):
        error, cause = ValueError(f"number {number}"), error
        error.__cause__ = cause

    traceback = format_error(error)[2]

    assert traceback.startswith("[earlier exceptions are left out here]")
    assert traceback.count("direct cause") == 9
    assert traceback.endswith("ValueError: number 4999")


def test_errors_that_cause_each_other_are_told_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert format_error(first)[2].count("ValueError: first") == 1


def test_a_group_shows_its_members_and_notes() -> None:
    inner = raised(fail, "inner")
    inner.add_note("while resizing")
    group = BaseExceptionGroup("two", [inner, KeyError("x")])

    kind, message, traceback = format_error(group)

    assert (kind, message) == ("ExceptionGroup", "two (2 sub-exceptions)")
    assert "  +---------------- 1 of 2 ----------------\n  | Traceback (most recent" in traceback
    assert "  | ValueError: inner\n  | while resizing\n" in traceback
    assert traceback.endswith("  | KeyError: 'x'")


def test_wide_and_deep_groups_are_bounded() -> None:
    told = 0

    class Counted(Exception):
        def __str__(self) -> str:
            nonlocal told
            told += 1
            return "counted"

    group = ExceptionGroup[Exception]("wide", [Counted() for _ in range(100_000)])
    for _ in range(3):
        group = ExceptionGroup("deep", [group] * 100)

    traceback = format_error(group)[2]

    assert told <= 30
    assert len(traceback) <= 16_000
    assert "99,990 more exceptions are left out here" in traceback


def test_what_no_database_takes_is_replaced() -> None:
    kind = type("Odd", (Exception,), {"__qualname__": "Odd\ud800"})
    error = raised(fail, "nul \0, surrogate \udcff, fine: ü 😀")
    error.__cause__ = kind("\0")

    texts = format_error(error)

    assert texts[1] == "nul \ufffd, surrogate \ufffd, fine: ü 😀"
    assert format_error(kind())[0].endswith("Odd\ufffd")
    for text in texts:
        assert "\0" not in text
        assert text.encode()


def test_a_long_traceback_text_keeps_its_end() -> None:
    error: BaseException = ValueError("oldest")
    for number in range(8):
        error, cause = ValueError(f"{number}" * 3_900), error
        error.__cause__ = cause

    traceback = format_error(error)[2]

    assert 15_800 < len(traceback) <= 16_000
    assert traceback.startswith("ValueError: oldest")
    assert "characters are left out here" in traceback
    assert traceback.endswith("7777")


def test_the_frames_of_the_engine_above_the_jobs_are_left_out() -> None:
    def job() -> None:
        fail()

    engine = types.ModuleType("asgi_jobs.engine.executor")
    file = str(format_error.__code__.co_filename).replace("frames.py", "engine/executor.py")
    exec(compile("def run(job):\n    job()\n", file, "exec"), engine.__dict__)
    error = raised(engine.run, job)
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # begins in the engine, as it does there

    assert own(frames_of_traceback(error.__traceback__)) == ["fail", "job"]
    assert len(frames_of_traceback(error.__traceback__)) == 2
    assert ", in run" not in format_error(error)[2]


def test_an_error_of_the_engine_alone_keeps_its_frames() -> None:
    error = raised(asyncio.run, None)
    assert error.__traceback__ is not None

    assert frames_of_traceback(error.__traceback__.tb_next)[0].file.startswith("asyncio/")
    assert "asyncio" in format_error(error.with_traceback(error.__traceback__.tb_next))[2]
