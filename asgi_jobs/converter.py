"""The values of one annotation as JSON, and back."""

from __future__ import annotations

import collections.abc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import GenericAlias, NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from asgi_jobs.difference import Difference, difference, unset_fields

PLAIN = frozenset({NoneType, bool, int, str})
"""Types whose values are JSON as they are. Not float: it has values that JSON lacks."""
LAZY = (collections.abc.Iterable, collections.abc.Collection, collections.abc.Reversible, collections.abc.Container)
"""Read as a list: pydantic would give an iterator, or nothing at all."""
CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
SHORT = 4_000
"""A number of this many characters can be read again; Python and pydantic draw the line at 4,300 digits."""
WORDS = 300
CUT = 80


class Unfit(Exception):
    """A value and an annotation do not go together; the text is a clause: "which …".

    `change` has what came back, where that is the reason.
    """

    def __init__(self, why: str, change: Difference | None = None) -> None:
        super().__init__(why)
        self.change = change


class Converter:
    """The values of one annotation as JSON, and back. Nothing is written that would not come back the same."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.plain = _plain_kinds(hint)
        self.trouble = ""
        try:
            # In a tuple, so that the configuration holds for dataclasses and TypedDicts too
            form: Any = GenericAlias(tuple, (_readable(hint),))
            self._adapter: TypeAdapter[tuple[Any]] = TypeAdapter(form, config=CONFIG)
        except Exception as error:  # whatever the annotation's own hooks raise; it matters when a value is given
            self.trouble = _first_line(error)

    def write(self, value: Any) -> str:
        """The value as JSON.

        Raises:
            Unfit: it has no JSON form that comes back as the same.
        """
        if type(value) in self.plain:
            plain = plain_json(value)
            if plain is not None:
                return plain
        if isinstance(value, Iterator):  # pydantic would read it, to its end or for ever
            raise Unfit("which has no JSON form")
        text = self._dump(value)  # first of all: what has no end is found here
        if _all_fixed(unset_fields(value)):
            with suppress(Unfit):  # a default that its own field would not take, or that was changed in place
                return self._checked(value, self._dump(value, exclude_unset=True))
        return self._checked(value, text)

    def read(self, value: Any) -> Any:
        """The value of parsed JSON.

        Strict, so that a "42" that was a text is no int now; and if need be lax, for what a serializer of the
        user's own has written, when that writes the same again.

        Raises:
            Unfit: it does not fit the annotation.
        """
        if type(value) in self.plain:
            return value
        if self.trouble:
            raise Unfit(f"which has no JSON form ({self.trouble})")
        text = to_json((value,))
        try:
            return self._validate(text, strict=True)
        except Exception as error:
            with suppress(Exception):
                found = self._validate(text, strict=None)
                again = (from_json(self._dump(found, exclude_unset=unset)) for unset in (False, True))
                if any(difference(value, one) is None for one in again):
                    return found
            raise Unfit(_reason(error)) from None

    def _checked(self, value: Any, text: str) -> str:
        try:
            parsed = from_json(text)
        except ValueError as error:  # a number of more than 4,300 digits, lists in lists 200 deep
            raise Unfit(f"which has no JSON form ({_first_line(error)})") from None
        back = self.read(parsed)
        try:
            change = difference(value, back)
        except Exception as error:  # its own __eq__ may do as it likes
            raise Unfit(f"which cannot be compared with what comes back ({_first_line(error)})") from None
        if change is not None:
            raise Unfit("which would not come back as it is", change)
        return text

    def _dump(self, value: Any, *, exclude_unset: bool = False) -> str:
        if self.trouble:
            raise Unfit(f"which has no JSON form ({self.trouble})")
        try:
            text = self._adapter.dump_json(
                (value,), by_alias=False, round_trip=True, warnings=False, exclude_unset=exclude_unset
            )
        except Exception as error:
            raise Unfit(f"which has no JSON form ({_first_line(error)})") from None
        return text[1:-1].decode()

    def _validate(self, text: bytes, *, strict: bool | None) -> Any:
        return self._adapter.validate_json(text, strict=strict, by_alias=False, by_name=True)[0]


def plain_json(value: Any) -> str | None:
    """The JSON of values of the plain types; None where that needs a closer look."""
    try:
        text = to_json(value).decode()
    except ValueError:  # a text that is no Unicode
        return None
    return text if len(text) <= SHORT else None


def _all_fixed(unset: Iterable[Any]) -> bool:
    """Whether fields that were not given may be left out: so that they count as not given in the job, too.

    Not where one has a factory: it might give another value then.
    """
    fields = list(unset)
    return bool(fields) and all(field.default_factory is None for field in fields)


def _plain_kinds(hint: Any) -> frozenset[type]:
    """The types of values that this annotation takes, and that JSON has for nothing else."""
    if hint is Any or hint is object:
        return PLAIN
    if get_origin(hint) in (Union, UnionType):
        members = frozenset(get_args(hint))
        return members if members <= PLAIN else members & {NoneType}  # a text may be a date's, a number an enum's
    return frozenset({hint}) & PLAIN


def _readable(hint: Any) -> Any:
    """The annotation as pydantic is to see it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return Union[tuple(_readable(one) for one in arguments)]  # noqa: UP007 - they are known at run time only
    if origin in LAZY or hint in LAZY:
        return GenericAlias(collections.abc.Sequence, arguments or (Any,))
    return hint


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"which was refused with {type(error).__name__}: {_first_line(error)}"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = cut(".".join(str(part) for part in first["loc"][1:]))
    return f"which does not fit{place and f' at {place}'}: {first['msg'][:WORDS]}"


def cut(text: str) -> str:
    """At most 80 characters of what a user gave: it may be a secret."""
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].removeprefix("Error serializing to JSON: ")[:WORDS]
