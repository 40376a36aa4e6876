"""The arguments of a durable job as JSON, by the annotations of its function; and back.

A row of a durable store has them as compact JSON, for people to read: a list of the positional arguments, `[42,"x"]`,
or where some were given by keyword `{"a":[42],"k":{"name":"x"}}`. Injected parameters are not in it. Dates, `UUID`,
`Decimal`, enums and the like are written as pydantic writes them, `bytes` as base64, the fields of models by their
names. Nothing is pickled, and nothing is imported because a row names it.

What is written comes back as it was, of the same types all the way down; what would not is refused at the call. So
a tuple needs a parameter `tuple[int, ...]`, and without an annotation there is plain JSON only. The zone of an aware
datetime comes back as its offset, private attributes of models do not come back, and fields that a model was not
given take their defaults anew, like parameters that were not given. Validators run again when the job starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    NotRequired,
    ParamSpecArgs,
    ParamSpecKwargs,
    Required,
    TypeVarTuple,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic_core import from_json

from asgi_jobs.converter import Converter, Unfit, plain_json
from asgi_jobs.errors import ArgumentsUnreadable, InvalidCall
from asgi_jobs.refusal import refusal

if TYPE_CHECKING:
    from asgi_jobs.call import Plan

RETURN = "return"
UNPACKED = "**"
VARIABLES = (ParamSpecArgs, ParamSpecKwargs, TypeVarTuple)


class Codec:
    """Writes and reads the arguments and the value of one function's jobs. Made once per task."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._converters: dict[str, Converter] = {}
        kinds = {parameter.kind: name for name, parameter in plan.signature.parameters.items()}
        self._rest = kinds.get(inspect.Parameter.VAR_POSITIONAL, "")
        self._others = kinds.get(inspect.Parameter.VAR_KEYWORD, "")
        self._hints = {**plan.hints, **_of_unpacked(plan.hints.get(self._others))}
        self._plain = tuple([self._converter(name).plain for name in plan.positional])

    # Arguments

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Arguments that the function can be called with (`Plan.bind`), as JSON.

        Raises:
            InvalidCall: one of them cannot be stored; the message names the parameter and the remedy.
        """
        if not kwargs and self._are_plain(args):
            text = plain_json(args)
            if text is not None:
                return text
        listed = ",".join([self._write(self._at(i), self._at(i), value) for i, value in enumerate(args)])
        if not kwargs:
            return f"[{listed}]"
        self._refuse_injected(kwargs)
        named = ",".join([f"{_key(name)}:{self._write(name, self._under(name), kwargs[name])}" for name in kwargs])
        return f'{{"a":[{listed}],"k":{{{named}}}}}'

    def decode(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        """Positional arguments and those by keyword (None: there are none) of what `encode` wrote.

        Raises:
            ArgumentsUnreadable: they do not fit the function any more; the message names the parameter.
        """
        args, kwargs = self._parse(payload)
        self._bind(args, kwargs)
        if not kwargs and self._are_plain(args):
            return tuple(args), None
        values = tuple([self._read(self._at(i), self._at(i), value) for i, value in enumerate(args)])
        return values, {name: self._read(name, self._under(name), value) for name, value in kwargs.items()} or None

    def _are_plain(self, args: Sequence[Any]) -> bool:
        if len(args) > len(self._plain):
            return False
        for value, kinds in zip(args, self._plain, strict=False):  # noqa: SIM110 - a generator costs more than the look
            if type(value) not in kinds:
                return False
        return True

    def _write(self, name: str, key: str, value: Any) -> str:
        try:
            return self._converter(key).write(value)
        except Unfit as unfit:
            parameter = key.removeprefix(UNPACKED)
            clause = refusal(value, unfit, self._hint(key), lambda hint: f"annotate the parameter: {parameter}: {hint}")
            raise InvalidCall(f"{self._plan.label}(): the argument {name!r} {clause}") from None

    def _refuse_injected(self, kwargs: Mapping[str, Any]) -> None:
        for name in kwargs:
            if name in self._plan.injected:
                raise InvalidCall(
                    f"{self._plan.label}(): {name!r} is injected, and a durable job cannot store what was given for "
                    f"it; leave it out: the job gets one of its own"
                )

    def _parse(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        try:
            found = from_json(payload, allow_inf_nan=False)
        except (ValueError, TypeError) as error:
            raise self._unreadable(f"are no JSON ({error})") from None
        if isinstance(found, list):
            return found, {}
        if isinstance(found, dict) and found.keys() <= {"a", "k"}:
            args, kwargs = found.get("a", []), found.get("k", {})
            if isinstance(args, list) and isinstance(kwargs, dict):
                return args, kwargs
        raise self._unreadable('are neither a list nor {"a": [...], "k": {...}}')

    def _bind(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        for name in kwargs:
            if name in self._plan.injected:
                raise self._unreadable(f"have {name!r}, which is injected now; give that parameter another name")
        try:
            self._plan.bind(tuple(args), kwargs)
        except InvalidCall as error:
            raise self._unreadable(
                f"do not fit any more: {error}. Put new parameters last and give them defaults; take one away only "
                f"when no such job is left"
            ) from None

    def _read(self, name: str, key: str, value: Any) -> Any:
        try:
            return self._converter(key).read(value)
        except Unfit as unfit:
            raise self._unreadable(
                f"have a value for {name!r} {unfit}. Change types in two steps: let the parameter take both until no "
                f"such job is left"
            ) from None

    def _unreadable(self, what: str) -> ArgumentsUnreadable:
        return ArgumentsUnreadable(
            f"{self._plan.label}(): the stored arguments {what}. "
            f"Most likely another version of the program enqueued the job"
        )

    # Its value

    def encode_result(self, value: Any) -> str:
        """What the function returned, as JSON.

        Raises:
            InvalidCall: it cannot be stored; the message says why, and the remedy.
        """
        try:
            return self._converter(RETURN).write(value)
        except Unfit as unfit:
            clause = refusal(value, unfit, self._hint(RETURN), lambda hint: f"annotate what it returns: -> {hint}")
            raise InvalidCall(f"{self._plan.label}() keeps its result, but that {clause}") from None

    def decode_result(self, text: str) -> Any:
        """What `encode_result` wrote.

        Raises:
            ArgumentsUnreadable: it does not fit what the function says that it returns any more.
        """
        try:
            return self._converter(RETURN).read(from_json(text, allow_inf_nan=False))
        except (Unfit, ValueError, TypeError) as error:
            why = error if isinstance(error, Unfit) else f"that is no JSON ({error})"
            raise ArgumentsUnreadable(
                f"{self._plan.label}(): the job has a stored result {why}. "
                f"Most likely another version of the program ran it"
            ) from None

    # By name

    def _at(self, index: int) -> str:
        names = self._plan.positional
        return names[index] if index < len(names) else self._rest

    def _under(self, name: str) -> str:
        """Whose annotation holds for a keyword: its parameter's, or that of `**others`."""
        return (
            name if name in self._plan.keywords else UNPACKED + name if UNPACKED + name in self._hints else self._others
        )

    def _converter(self, key: str) -> Converter:
        converter = self._converters.get(key)
        if converter is None:
            converter = self._converters[key] = Converter(self._hint(key))
        return converter

    def _hint(self, key: str) -> Any:
        hint = self._hints.get(key, Any)
        origin = get_origin(hint)
        if key == RETURN and isinstance(origin, type) and issubclass(origin, Awaitable):
            return get_args(hint)[-1]
        return Any if origin is Unpack or isinstance(hint, VARIABLES) else hint


def _of_unpacked(hint: Any) -> dict[str, Any]:
    """The annotations in `**options: Unpack[Options]`, where `Options` is a TypedDict."""
    if get_origin(hint) is not Unpack:
        return {}
    hints = get_type_hints(get_args(hint)[0], include_extras=True)
    return {UNPACKED + name: _of_key(one) for name, one in hints.items()}


def _of_key(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint


def _key(name: str) -> str:
    text = plain_json(name)
    if text is None:
        raise InvalidCall(f"the name of a keyword is no valid Unicode, or too long: {name[:80]!r}")
    return text
