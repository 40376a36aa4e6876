"""What to say of a value that cannot be stored, and what to write instead."""

from __future__ import annotations

import inspect
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from io import IOBase
from itertools import islice
from reprlib import Repr
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from asgi_jobs.converter import CUT, Converter, cut
from asgi_jobs.difference import MISSING, Difference

if TYPE_CHECKING:
    from asgi_jobs.converter import Unfit

_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = CUT


def refusal(value: Any, unfit: Unfit, hint: Any, spell: Callable[[str], str]) -> str:
    """A clause that goes on from "the argument 'x' …".

    Args:
        value: what was given.
        unfit: why it cannot be stored.
        hint: the annotation; Any where there is none.
        spell: how to write another annotation there.
    """
    change = unfit.change
    part = value if change is None else change.given
    remedy = _of_its_kind(part, spell) or (
        _of_misfit(hint, spell) if change is None else _of_change(value, change, hint, spell)
    )
    if change is None:
        return f"is {shown(value)}, {unfit}; {remedy}"
    where = f"of which {cut(change.at)} is {shown(part)}, " if change.at else ""
    fate = "does not come back" if change.back is MISSING else f"JSON gives back as {shown(change.back)}"
    return f"is {shown(value)}, {where}which {fate}; {remedy}"


def shown(value: Any) -> str:
    """A value in at most 80 characters, and its type."""
    try:
        text = _short.repr(value)
    except Exception:  # its own __repr__ may do as it likes
        text = "<…>"
    return f"{cut(text)} ({_name(type(value))})"


def _of_its_kind(part: Any, spell: Callable[[str], str]) -> str | None:
    """The remedy for what can be stored nowhere; None: it is no such thing."""
    if isinstance(part, Awaitable):
        return "await it, and pass what it gives"
    if isinstance(part, IOBase):
        return "pass its path, or its content"
    if isinstance(part, Iterator):
        return "it can be read once only: pass list(…) of it"
    if callable(part):
        return "functions, classes and what can be called are not stored: pass a value that the job can choose them by"
    if isinstance(part, float) and not math.isfinite(part):
        return f"JSON has no such number: pass None, and {spell('float | None')}"
    if isinstance(part, str) and _is_broken(part):
        return f"it is no valid Unicode: pass bytes (os.fsencode), and {spell('bytes')}"
    return None


def _of_misfit(hint: Any, spell: Callable[[str], str]) -> str:
    if hint is Any or Converter(hint).trouble:
        return f"pass plain values, or a dataclass or pydantic model and {spell('its name')}"
    return f"pass what the annotation {_spelled(hint)} says, or change that"


def _of_change(value: Any, change: Difference, hint: Any, spell: Callable[[str], str]) -> str:
    if hint is Any:
        return spell(_annotation(value))
    if type(change.given) is not type(change.back) and isinstance(change.given, type(change.back)):
        return f"pass a plain {_name(type(change.back))}, or annotate what is meant: {_name(type(change.given))}"
    if get_origin(hint) in (Union, UnionType) and type(change.given) in get_args(hint):
        return f"in JSON, values of {_spelled(hint)} look alike: let the parameter take one of these types"
    return f"pass what the annotation {_spelled(hint)} says, or change that"


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _annotation(value: Any, depth: int = 0) -> str:
    """An annotation that would take this value."""
    kind = type(value)
    if kind not in (tuple, list, set, frozenset, deque, dict) or not value or depth > 3:
        return _name(kind)
    if kind is dict:
        return f"dict[{_of_all(value, depth)}, {_of_all(value.values(), depth)}]"
    return f"{_name(kind)}[{_of_all(value, depth)}{', ...' if kind is tuple else ''}]"


def _of_all(values: Iterable[Any], depth: int) -> str:
    return " | ".join(sorted({_annotation(value, depth + 1) for value in islice(values, 1_000)}))


def _spelled(hint: Any) -> str:
    """An annotation without the modules of its names."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return cut(re.sub(r"[\w.<>]+\.(?=\w)", "", inspect.formatannotation(hint)))


def _name(kind: type) -> str:
    return kind.__qualname__.rpartition("<locals>.")[2]
