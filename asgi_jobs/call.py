"""How a function is called: what is injected, what the caller gives, on the loop or in a thread."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from asgi_jobs.errors import AmbiguousArgument, InvalidCall

if TYPE_CHECKING:
    from asgi_jobs.task import Policy

OPTIONS = frozenset({"queue", "name", "delay", "run_at", "timeout", "retries", "unique", "on_commit"})
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that an attempt's scope is asked for."""

    hint: Any
    component: str = ""
    session: bool = False  # from `session_factory`, not from the container


class Catalog(Protocol):
    """What scopes can provide, asked while a plan is made."""

    def find(self, hint: Any, component: str | None = None) -> Need | None:
        """What provides this annotation; None when it is an ordinary parameter.

        `component` is dishka's, of what is marked as injected; None where nothing is.
        """
        ...

    def owner(self, function: Any) -> Need | None:
        """The provided class of which this plain function is a method."""
        ...

    def check(self, need: Need, *, threaded: bool, where: str) -> None:
        """Refuse what cannot be given: a request's object, or an async session in a thread."""
        ...


class Plan:
    """How one function is called. Made once, and shared by all of its jobs."""

    __slots__ = (
        "annotations",
        "carries",
        "clash",
        "full",
        "highest",
        "hints",
        "injected",
        "key",
        "keywords",
        "label",
        "lowest",
        "method",
        "plain",
        "policy",
        "positional",
        "required",
        "signature",
        "threaded",
        "wraps_async",
    )

    def __init__(self, function: Any, policy: Policy, *, key: str, label: str, threaded: bool) -> None:
        self.wraps_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.policy = policy
        self.key = key
        self.label = label
        self.threaded = threaded
        self.injected: dict[str, Need] = {}
        self.carries = True  # whether the function itself may hold objects: in a closure, defaults, a bound self
        self.method: str | None = None  # call this method of what "self" was injected
        self.annotations: Mapping[str, Any] = {}
        self.hints: Mapping[str, Any] = {}  # of a declared function: the annotations resolved, "return" among them
        self._adopt(inspect.Signature())

    def _adopt(self, full: inspect.Signature) -> None:
        self.full = full
        given = [p for name, p in full.parameters.items() if name not in self.injected]
        self.signature = inspect.Signature(given)
        positional = [p for p in given if p.kind in POSITIONAL]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in given)
        required = [p for p in given if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        only_by_keyword = any(p.kind is p.KEYWORD_ONLY for p in required)
        self.positional = tuple(p.name for p in positional)
        self.required = frozenset(p.name for p in required)
        self.lowest = sys.maxsize if only_by_keyword else len(required)
        self.highest = sys.maxsize if variadic else len(positional)
        self.keywords = frozenset(
            p.name for p in full.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        self.clash = OPTIONS & self.keywords
        self.plain = not self.injected and not self.threaded

    @property
    def needs_arguments(self) -> bool:
        """Whether nobody but code can enqueue it."""
        return bool(self.required)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that the function can be called so; nothing is called yet.

        Raises:
            InvalidCall: it cannot; the message says why and shows the signature.
        """
        count = len(args)
        if not kwargs:
            if self.lowest <= count <= self.highest:
                return
        elif count <= self.highest and kwargs.keys() <= self.keywords:
            filled = self.positional[:count]
            if self.required <= kwargs.keys() | filled and kwargs.keys().isdisjoint(filled):
                return
        self._bind_slowly(args, kwargs)

    def _bind_slowly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {name: value for name, value in kwargs.items() if name not in self.injected}
        try:
            self.signature.bind(*args, **given)
        except TypeError as error:
            injected = "".join(f", {name} is injected" for name in self.injected)
            message = f"{self.label}{self.signature} cannot be called so: {error}{injected}"
            raise InvalidCall(message) from None

    def refuse_ambiguous(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Raise AmbiguousArgument for an option that is a still unfilled parameter too."""
        filled = self.positional[: len(args)]
        for name in sorted(self.clash & options.keys()):
            if name not in filled:
                raise AmbiguousArgument(
                    f"{name!r} is an option of enqueue and a parameter of {self.label}(): say which. "
                    f"As an option: jobs.using({name}=…).enqueue({self.label}, …); "
                    f"as the parameter: jobs.using().enqueue({self.label}, …, {name}=…)"
                )

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], scope: Mapping[str, Any]) -> Any:
        """Call the function with what was given and what the scope gave."""
        if not self.injected:
            return func(*args, **kwargs)
        given = {name: value for name, value in kwargs.items() if name not in self.injected}
        arguments = self.signature.bind(*args, **given).arguments
        arguments |= scope
        arguments |= {name: value for name, value in kwargs.items() if name in self.injected}
        in_order = {name: arguments[name] for name in self.full.parameters if name in arguments}
        bound = inspect.BoundArguments(self.full, in_order)
        if self.method is None:
            return func(*bound.args, **bound.kwargs)
        service, *rest = bound.args
        return getattr(service, self.method)(*rest, **bound.kwargs)
