"""Refuses what belongs to a request when a job is enqueued, and says how the line should read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, NoReturn, get_origin

import sqlalchemy
from sqlalchemy.orm import Mapper

from asgi_jobs.engine.mended import NAMES, Call, Found, Thing, attributes, message, slots_of, steps
from asgi_jobs.errors import RequestBound

TYPES_KEPT = 10_000


_CONTAINERS = (dict, list, tuple, set, frozenset, sqlalchemy.Row)
_HARMLESS_MODULES = frozenset(
    {"builtins", "datetime", "decimal", "fractions", "ipaddress", "pathlib", "re", "uuid", "zoneinfo"}
)
"""Whose types hold nothing but values; the containers apart."""


def is_request_type(cls: object) -> bool:
    """Whether this type, or what a generic alias like `Request[User]` stands for, belongs to a request."""
    cls = get_origin(cls) or cls
    return isinstance(cls, type) and _thing(cls) in (Thing.REQUEST, Thing.WEBSOCKET, Thing.UPLOAD)


class Guard:
    """Looks at what is enqueued; what it finds out about types it remembers."""

    __slots__ = ("_looks",)

    def __init__(self) -> None:
        self._looks = _Looks()

    def harmless(self, args: tuple[Any, ...]) -> bool:
        """Whether the types of the arguments are known to hold nothing but values: the quick look."""
        looks = self._looks
        for value in args:  # noqa: SIM110 - a generator costs more than the look
            if looks[type(value)] is not None:
                return False
        return True

    def check(
        self,
        func: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        positional: Sequence[str] = (),
        service: Any = None,
    ) -> None:
        """Raise RequestBound if the function or one of its arguments belongs to a request.

        Looked at: arguments, closure cells, defaults, partials, the object of a bound method, and one level
        into lists, tuples, sets, dict values and attributes. Deeper is not seen.

        Args:
            func: the function, or the name of a method of `service`.
            args: its positional arguments.
            kwargs: its keyword arguments.
            positional: names of the parameters that `args` fill, for the message.
            service: what `enqueue_with` was given, for the message.
        """
        looks = self._looks
        found = None
        if type(func) is not FunctionType:
            found = self._find(func)
        elif func.__closure__ is not None or func.__defaults__ is not None or func.__kwdefaults__ is not None:
            found = self._find_in_function(func, None)
        if found is not None:
            call = Call(func, args, kwargs or {}, positional, service)
            raise RequestBound(message(found.within("enqueued", "", func), call))
        for value in args:
            if looks[type(value)] is not None and self._find(value) is not None:
                self._refuse_argument(Call(func, args, kwargs or {}, positional, service))
        if kwargs:
            for value in kwargs.values():
                if looks[type(value)] is not None and self._find(value) is not None:
                    self._refuse_argument(Call(func, args, kwargs, positional, service))

    def _refuse_argument(self, call: Call) -> NoReturn:
        found = self._find_argument(call, None)
        assert found is not None
        raise RequestBound(message(found, call))

    def _find_argument(self, call: Call, seen: set[int] | None) -> Found | None:
        arguments: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.kwargs.items()]
        for key, value in arguments:
            found = self._find(value, seen)
            if found is not None:
                return found.within("argument", key, call)
        return None

    def _find(self, value: Any, seen: set[int] | None = None) -> Found | None:
        look = self._looks[type(value)]
        if look is None:
            return None
        if look.thing is not None:
            thing = self._judge(look.thing, value)
            if thing is not None:
                return Found(thing, value, value)
        if look.inside is not None:
            return self._find_inside(value, look.inside)
        return self._find_in_callable(value, seen) if look.callable else None

    def _judge(self, thing: Thing, value: Any) -> Thing | None:
        """What an instance is: an ORM object counts while it is attached, a proxy for what it stands for."""
        if thing is Thing.ENTITY:
            state = sqlalchemy.inspect(value, raiseerr=False)
            return thing if state is not None and state.session is not None else None
        if thing is Thing.PROXY:
            look = self._looks[value.__class__]
            return look.thing if look is not None and look.thing is not Thing.PROXY else None
        return thing

    def _find_inside(self, value: Any, inside: Callable[[Any], Iterable[Any]]) -> Found | None:
        looks = self._looks
        # First by type and in C: quick for long lists, and no thread can change a dict meanwhile.
        for kind in set(map(type, inside(value))):
            look = looks[kind]
            if look is not None and look.thing is not None:
                return self._find_step(value)
        return None

    def _find_step(self, value: Any) -> Found | None:
        for step, item in steps(value):
            look = self._looks[type(item)]
            if look is not None and look.thing is not None:
                thing = self._judge(look.thing, item)
                if thing is not None:
                    return Found(thing, item, value, step)
        return None

    def _find_in_callable(self, func: Any, seen: set[int] | None) -> Found | None:
        seen = set() if seen is None else seen
        if id(func) in seen:  # a local function that calls itself is in its own closure
            return None
        seen.add(id(func))
        if isinstance(func, FunctionType):
            return self._find_in_function(func, seen)
        if isinstance(func, MethodType):
            found = self._find(func.__self__, seen)
            return found.within("self", "self", func) if found else self._find(func.__func__, seen)
        call = Call(func.func, func.args, func.keywords)
        return self._find_argument(call, seen) or self._find(func.func, seen)

    def _find_in_function(self, func: FunctionType, seen: set[int] | None) -> Found | None:
        looks = self._looks
        for index, cell in enumerate(func.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:  # a variable that has no value yet
                continue
            if looks[type(value)] is not None:
                found = self._find(value, seen)
                if found is not None:
                    return found.within("closure", func.__code__.co_freevars[index], func)
        for value in (*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()):
            if looks[type(value)] is not None:
                found = self._find(value, seen)
                if found is not None:
                    return found.within("default", _default_name(func, value), func)
        return None


class _Look(NamedTuple):
    """What is to be looked at in the values of a type; a type without one is harmless."""

    thing: Thing | None = None
    inside: Callable[[Any], Iterable[Any]] | None = None
    callable: bool = False


class _Looks(dict[type, _Look | None]):
    def __missing__(self, cls: type) -> _Look | None:
        if len(self) >= TYPES_KEPT:  # types made on the fly
            self.clear()
        look = self[cls] = _classify(cls)
        return look


def _classify(cls: type) -> _Look | None:
    if issubclass(cls, (FunctionType, MethodType, partial)):
        return _Look(callable=True)
    if issubclass(cls, _CONTAINERS):
        return _Look(inside=dict.values if issubclass(cls, dict) else iter)
    if issubclass(cls, (type, ModuleType, Enum)) or cls.__module__ in _HARMLESS_MODULES:
        return None
    thing = _thing(cls)
    inside = None if thing is Thing.PROXY else _attribute_values(cls)
    return None if thing is None and inside is None else _Look(thing, inside)


def _thing(cls: type) -> Thing | None:
    for base in cls.__mro__:
        thing = NAMES.get(f"{base.__module__}.{base.__qualname__}")
        if thing is not None:
            return thing
    return Thing.ENTITY if isinstance(sqlalchemy.inspect(cls, raiseerr=False), Mapper) else None


def _attribute_values(cls: type) -> Callable[[Any], Iterable[Any]] | None:
    """How to get at the values of an object's attributes, if its type can have any."""
    slots = slots_of(cls)
    if not slots:
        return _values if cls.__dictoffset__ else None
    return lambda value: [item for _, item in attributes(value, slots)]


def _values(value: Any) -> Iterable[Any]:
    attributes: dict[str, Any] = value.__dict__
    return attributes.values()


def _default_name(func: FunctionType, value: Any) -> str:
    code, values = func.__code__, func.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    defaults = [*zip(names, values, strict=True), *(func.__kwdefaults__ or {}).items()]
    return next(name for name, default in defaults if default is value)
