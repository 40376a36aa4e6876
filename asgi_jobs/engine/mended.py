"""How a line that enqueues something of a request should read: the wording of `RequestBound`."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from types import FunctionType, MemberDescriptorType
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy.orm import Mapper


class Thing(Enum):
    """What may not go into a job."""

    REQUEST = auto()
    WEBSOCKET = auto()
    UPLOAD = auto()
    SESSION = auto()
    ENTITY = auto()  # an ORM object
    PROXY = auto()  # stands for another object, which is looked at


NAMES = {
    "starlette.requests.HTTPConnection": Thing.REQUEST,
    "starlette.websockets.WebSocket": Thing.WEBSOCKET,
    "starlette.datastructures.UploadFile": Thing.UPLOAD,
    "litestar.connection.base.ASGIConnection": Thing.REQUEST,
    "litestar.connection.websocket.WebSocket": Thing.WEBSOCKET,
    "litestar.datastructures.upload_file.UploadFile": Thing.UPLOAD,
    "quart.wrappers.websocket.Websocket": Thing.WEBSOCKET,
    "werkzeug.sansio.request.Request": Thing.REQUEST,
    "werkzeug.datastructures.file_storage.FileStorage": Thing.UPLOAD,
    "werkzeug.local.LocalProxy": Thing.PROXY,
    "django.http.request.HttpRequest": Thing.REQUEST,
    "django.core.files.uploadedfile.UploadedFile": Thing.UPLOAD,
    "rest_framework.request.Request": Thing.REQUEST,
    "sqlalchemy.orm.session.Session": Thing.SESSION,
    "sqlalchemy.orm.scoping.scoped_session": Thing.SESSION,
    "sqlalchemy.ext.asyncio.session.AsyncSession": Thing.SESSION,
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": Thing.SESSION,
}
"""By name, so that no framework has to be imported to be recognised."""


class Call(NamedTuple):
    """A call as it was written, as far as it can be told."""

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    positional: Sequence[str] = ()
    service: Any = None

    @property
    def function(self) -> Any:
        """What is called, also where it was given as the name of a service's method."""
        return getattr(self.service, self.func, self.func) if isinstance(self.func, str) else self.func

    @property
    def target(self) -> str:
        """How it was given."""
        if isinstance(self.func, str):
            return repr(self.func)
        if _is_lambda(self.func):
            return f"lambda{' ' * bool(names := _parameters(self.func))}{', '.join(names)}: …"
        return _label(self.func)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in `root`, `step` further, and what `root` is to the innermost callable around it."""

    thing: Thing
    value: Any
    root: Any
    step: str = ""
    kind: str = ""  # argument, closure, default, self, enqueued
    key: int | str = ""
    holder: Any = None

    def within(self, kind: str, key: int | str, holder: Any) -> Found:
        return self if self.kind else replace(self, kind=kind, key=key, holder=holder)

    @property
    def name(self) -> str:
        """What the user's code calls the root."""
        if self.kind == "argument":
            return _argument_name(self.holder, self.key) or type(self.root).__name__.lower()
        return str(self.key) or type(self.root).__name__.lower()

    @property
    def wanted(self) -> str:
        """The annotation with which a job gets its own session, or its own object that holds one."""
        if self.step.startswith("."):
            return _label(type(self.root))
        return "AsyncSession" if "async" in _base_name(self.value) else "Session"


def message(found: Found, call: Call) -> str:
    """What is wrong, why, and the line as it should be."""
    remedy = {Thing.ENTITY: _entity_remedy, Thing.SESSION: _session_remedy, Thing.UPLOAD: _upload_remedy}
    kind = _label(found.value.__class__)
    why = {
        Thing.ENTITY: f"an ORM object ({kind}) of a session that is closed or in use when the job runs",
        Thing.SESSION: f"a database session ({kind}) that the request closes and that no two tasks may share",
        Thing.UPLOAD: f"an uploaded file ({kind}), which the request closes before the job has read it",
        Thing.WEBSOCKET: f"a WebSocket connection ({kind}), which ends without waiting for the job",
    }.get(found.thing, f"a request ({kind}), which has ended when the job runs")
    return f"{_place(found)} is {why}. {remedy.get(found.thing, _request_remedy)(found, call)}"


def _place(found: Found) -> str:
    inside = {"": "", ".": f"attribute {found.step[1:]!r} of ", "[": f"item {found.step[1:-1]} of "}.get(
        found.step[:1], "an item of "
    )
    if found.kind == "argument":
        name = _argument_name(found.holder, found.key)
        shown = f"argument {name!r}" if name else f"argument {int(found.key) + 1}"
        return f"{inside}{shown} of {_label(found.holder.function)}"
    return inside + {
        "closure": f"closure variable {found.key!r} of {_label(found.holder)}",
        "default": f"the default of parameter {found.key!r} of {_label(found.holder)}",
        "self": f"the object of the bound method {_label(found.holder)}",
    }.get(found.kind, f"the enqueued {_label(type(found.root))}")


def _entity_remedy(found: Found, call: Call) -> str:
    names = _key_names(type(found.value))
    keys = _each(found, lambda name: _key(name, names))
    model = _label(type(found.value))
    variable = f"{found.name}_{names[0]}" if not found.step and len(names) == 1 else f"{found.name}_keys"
    load = f"load it in the job (session.get({model}, …))"
    if found.kind == "argument":
        return f"Pass its key and {load}: {_line(found.holder, {found.key: keys})}"
    if found.kind == "closure":
        return _closure_remedy(found, call, {keys: variable}, f"its key, and {load}")
    if found.kind == "default":
        return f"Make its key the default and {load}: {variable}={keys}"
    method = getattr(found.holder, "__name__", "function")
    key = _key(model.lower(), names)
    return f"Enqueue a function that takes its key, and {load}: jobs.enqueue({method}, {key})"


def _request_remedy(found: Found, call: Call) -> str:
    path = "url.path" if _base_name(found.value).startswith(("starlette", "litestar")) else "path"
    value = _each(found, lambda name: f"{name}.{path}")
    if found.kind == "argument":
        return f"Pass the value you need, e.g. {value}: {_line(found.holder, {found.key: value})}"
    if found.kind == "closure":
        return _closure_remedy(found, call, {value: "path"}, f"the value you need, e.g. {value}")
    return f"Pass the value you need, e.g. {value}"


def _upload_remedy(found: Found, call: Call) -> str:
    read = "await " if inspect.iscoroutinefunction(getattr(type(found.value), "read", None)) else ""
    content = _each(found, lambda name: f"{read}{name}.read()")
    if found.kind == "argument":
        return f"Read it first: {_line(found.holder, {found.key: content})}"
    return f"Read it first: content = {content}"


def _session_remedy(found: Found, call: Call) -> str:
    own = f"Let the job ask for its own{f' {found.wanted}' if found.step[:1] == '.' else ''}: "
    annotated = f"{own}give the function a parameter annotated {found.wanted}"
    if found.kind == "argument":
        return f"{annotated} and leave it out here: {_line(found.holder, {found.key: ''})}"
    if found.kind == "self" and found.step:
        method = f"{found.wanted}.{found.holder.__name__}"
        return f"{own}{_line(call, target=method)}"
    if found.kind == "closure" and found.holder is call.func and _is_lambda(call.func) and not _parameters(call.func):
        written = _written(call.func)
        body = ast.unparse(written.body) if isinstance(written, ast.Lambda) else "…"
        return f"{own}jobs.enqueue_with({found.wanted}, lambda {found.name}: {body})"
    return annotated + (" and no default" if found.kind == "default" else "")


def _closure_remedy(found: Found, call: Call, otherwise: dict[str, str], what: str) -> str:
    """Take the values out of the object before: the very ones that the function uses, if that can be told."""
    written = _written(found.holder)
    values = _Values(found.name)
    body = values.replace_in(written) if written is not None else None
    taken = otherwise if body is None else values.taken
    if not _is_lambda(found.holder):
        before = "; ".join(f"{variable} = {value}" for value, variable in taken.items())
        return f"Take out before it {what if body is None else 'what it uses'}: {before}"
    parameters = ast.unparse(written.args) if isinstance(written, ast.Lambda) else ", ".join(_parameters(found.holder))
    binds = [f"{variable}={value}" for value, variable in taken.items()]
    mended = f"lambda {', '.join([*filter(None, [parameters]), *binds])}: {body or '…'}"
    line = _line(call, target=mended) if found.holder is call.func else mended
    return f"Bind {what if body is None else 'the values it uses'}: {line}"


def _line(call: Call, replaced: Mapping[int | str, str] | None = None, target: str | None = None) -> str:
    """The enqueue as it should be written; an argument replaced by nothing is left out."""
    replaced = replaced or {}
    names = [replaced.get(i, _argument_name(call, i) or "…") for i in range(len(call.args))]
    pairs = {name: replaced.get(name, name) for name in call.kwargs}
    parts = [*filter(None, names), *(f"{name}={value}" for name, value in pairs.items() if value)]
    target = target or call.target
    if call.service is not None:
        return f"jobs.enqueue_with({', '.join([_label(call.service), target, *parts])})"
    return f"jobs.enqueue({', '.join([target, *parts])})"


def _each(found: Found, per: Callable[[str], str]) -> str:
    """The expression for what was found; a comprehension where the whole collection is of its type."""
    name, step, root = found.name, found.step, found.root
    if step == "{}":
        return f"{{{per('item')} for item in {name}}}"
    if step.startswith("[") and len({type(item) for _, item in steps(root)}) == 1:
        if isinstance(root, dict):
            return f"{{key: {per('item')} for key, item in {name}.items()}}"
        return f"[{per('item')} for item in {name}]"
    return per(name + step)


def _key_names(model: type) -> list[str]:
    mapper: Mapper[Any] = sqlalchemy.inspect(model)
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def _key(name: str, keys: list[str]) -> str:
    parts = [f"{name}.{key}" for key in keys]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _base_name(value: Any) -> str:
    """The name by which a type was recognised."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in value.__class__.__mro__)
    return next((name for name in names if name in NAMES), "")


def _argument_name(call: Call, key: int | str) -> str | None:
    """The parameter that an argument fills, by the names that were given or else by the signature."""
    if isinstance(key, str):
        return key
    names = call.positional if len(call.args) <= len(call.positional) else _parameters(call.function)
    return names[key] if key < len(names) else None


def _parameters(func: Any) -> list[str]:
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return []
    if parameters and parameters[0].name == "self" and "." in _label(func):  # a method, named on its class
        del parameters[0]
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _label(func: Any) -> str:
    while isinstance(func, partial):
        func = func.func
    if _is_lambda(func):
        return "the lambda"
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _is_lambda(func: Any) -> bool:
    return isinstance(func, FunctionType) and func.__name__ == "<lambda>"


def _written(func: FunctionType) -> ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The source of a function, if it can be told for certain."""
    code = func.__code__
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename, func.__globals__)))
    except (SyntaxError, ValueError):
        return None
    positions = set(code.co_positions())
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and _is_lambda(func):
            body = node.body
            if (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in positions:
                return node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return None


class _Values(ast.NodeTransformer):
    """Replaces `user.email` by `email` and `await request.json()` by `json`, and remembers them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: dict[str, str] = {}
        self._used: set[str] = set()

    def replace_in(self, written: ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
        """The body without the object; None when it is used for more than its values."""
        self._used = {node.id for node in ast.walk(written) if isinstance(node, ast.Name)}
        self._used |= {node.arg for node in ast.walk(written) if isinstance(node, ast.arg)}
        body = [written.body] if isinstance(written, ast.Lambda) else written.body
        changed = [self.visit(part) for part in body]
        names = {node.id for part in changed for node in ast.walk(part) if isinstance(node, ast.Name)}
        return None if self.name in names else "\n".join(map(ast.unparse, changed))

    def visit_Await(self, node: ast.Await) -> ast.AST:
        method = self._own_method(node.value)
        return self._take(node, method) if method else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        method = self._own_method(node)
        if method:
            return self._take(node, method)
        if isinstance(node.func, ast.Attribute):  # request.headers.get("host"): the headers, not their method
            node.func.value = self.visit(node.func.value)
            node.args = [self.visit(argument) for argument in node.args]
            node.keywords = [self.visit(keyword) for keyword in node.keywords]
            return node
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(node.ctx, ast.Load) and isinstance(root, ast.Name) and root.id == self.name:
            return self._take(node, node.attr)
        return self.generic_visit(node)

    def _own_method(self, node: ast.expr) -> str | None:
        """The method, in a call like `user.full_name()`."""
        if not isinstance(node, ast.Call) or node.args or node.keywords or not isinstance(node.func, ast.Attribute):
            return None
        owner = node.func.value
        return node.func.attr if isinstance(owner, ast.Name) and owner.id == self.name else None

    def _take(self, node: ast.expr, name: str) -> ast.Name:
        value = ast.unparse(node)
        if value not in self.taken:
            name = name if name not in self._used else f"{self.name}_{name}"
            self._used.add(name)
            self.taken[value] = name
        return ast.Name(self.taken[value], ast.Load())


def slots_of(cls: type) -> list[MemberDescriptorType]:
    """The slots that instances of the class have."""
    return [
        member
        for base in cls.__mro__
        for member in vars(base).values()
        if isinstance(member, MemberDescriptorType) and not member.__name__.startswith("__")
    ]


def attributes(value: Any, slots: list[MemberDescriptorType]) -> list[tuple[str, Any]]:
    """The attributes of an object, by name."""
    found = list(getattr(value, "__dict__", {}).items())
    for slot in slots:
        try:
            found.append((slot.__name__, slot.__get__(value)))
        except AttributeError:  # not set
            continue
    return found


def steps(value: Any) -> Iterable[tuple[str, Any]]:
    """The values one level inside, each with what leads to it in code."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return [("{}", item) for item in value]
    if isinstance(value, list | tuple | sqlalchemy.Row):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    return [(f".{name}", item) for name, item in attributes(value, slots_of(type(value)))]
