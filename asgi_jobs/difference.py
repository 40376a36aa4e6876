"""Whether a value that went through JSON is what it was: of the same types, all the way down.

Equality alone would not do: `True == 1`, a `StrEnum` equals its text, a subclass its base. Where Python or pydantic
say that something is not data, it is not looked at: private attributes, the name of a time zone (its offset counts),
the `fold` of a naive time, which `==` passes over too, an int where a float is wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

SCALARS = frozenset({NoneType, bool, int, float, str, bytes, Decimal, UUID, date, timedelta})
SIZED = (list, tuple, deque, set, frozenset, dict)
TRAITS = ("maxlen", "default_factory")
"""What collections have besides their members, and JSON has no place for."""
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing", "__slots__": ()})()


class Difference(NamedTuple):
    """Where two values differ first: `[2].price`, and the parts that are there."""

    at: str
    given: Any
    back: Any


def difference(given: Any, back: Any, at: str = "") -> Difference | None:
    """The first difference between a value and what came back; None: they are the same."""
    kind = type(given)
    if kind is not type(back):
        widened = kind is int and type(back) is float and given == back
        return None if widened else Difference(at, given, back)
    if kind in SCALARS:
        same = given == back or (given != given and back != back)  # noqa: PLR0124 - NaN
        return None if same else Difference(at, given, back)
    if isinstance(given, SIZED) and _shape(given) != _shape(back):
        return Difference(at, given, back)
    pairs = _pairs(given, back)
    if pairs is None:
        return None if _equal(given, back) else Difference(at, given, back)
    for place, mine, theirs in pairs:
        found = difference(mine, theirs, at + place)
        if found is not None:
            return found
    return None


def unset_fields(value: Any) -> Iterator[Any]:
    """The fields that were not given to the pydantic models in a value."""
    if isinstance(value, BaseModel):
        yield from (field for name, field in type(value).model_fields.items() if name not in value.model_fields_set)
    if type(value) not in SCALARS:
        for _, part, _ in _pairs(value, value) or ():
            yield from unset_fields(part)


def _shape(value: Any) -> tuple[Any, ...]:
    return (len(value), *[getattr(value, trait, None) for trait in TRAITS])


def _pairs(given: Any, back: Any) -> Iterable[tuple[str, Any, Any]] | None:
    """The parts of two values of one type side by side; None: they have no parts."""
    if isinstance(given, (list, tuple, deque)):
        return ((f"[{i}]", mine, theirs) for i, (mine, theirs) in enumerate(zip(given, back, strict=False)))
    if isinstance(given, (set, frozenset)):
        partners = {one: one for one in back}
        return (("", one, partners.get(one, MISSING)) for one in given)
    if isinstance(given, dict):
        return _items(given, back)
    if isinstance(given, BaseModel):
        return _of_model(given, back)
    if is_dataclass(given):
        return ((f".{f.name}", getattr(given, f.name, MISSING), getattr(back, f.name, MISSING)) for f in fields(given))
    return None


def _items(given: dict[Any, Any], back: dict[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Keys and values; in any order, since that of a TypedDict is its declaration's."""
    partners = {key: key for key in back}
    for key, value in given.items():
        yield f"[{key!r}]", key, partners.get(key, MISSING)
        yield f"[{key!r}]", value, back.get(key, MISSING)


def _of_model(given: BaseModel, back: BaseModel) -> Iterator[tuple[str, Any, Any]]:
    for name in type(given).model_fields:
        yield f".{name}", getattr(given, name, MISSING), getattr(back, name, MISSING)
    yield "", given.model_extra, back.model_extra


def _equal(given: Any, back: Any) -> bool:
    if isinstance(given, (datetime, time)):
        # In the hour that happens twice, Python finds the same moment in two zones different (PEP 495).
        return bool(given.replace(tzinfo=None) == back.replace(tzinfo=None)) and given.utcoffset() == back.utcoffset()
    return bool(given == back)
