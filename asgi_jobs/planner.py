"""Looks at a function once, and remembers how it is called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, NoneType
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef, get_args, get_origin, get_type_hints

from asgi_jobs.call import POSITIONAL, Catalog, Need, Plan
from asgi_jobs.errors import InvalidCall, InvalidOption

if TYPE_CHECKING:
    from asgi_jobs.task import Policy


PLANS_KEPT = 10_000


class Planner:
    """Makes plans, and remembers them: by function, or by code where functions are made on the fly."""

    def __init__(self, catalog: Catalog, policy: Policy) -> None:
        self._catalog = catalog
        self._policy = policy
        self.plans: dict[Any, Plan] = {}

    def plan(self, func: Any) -> Plan:
        """The plan of a function that was not declared as a task."""
        key = _cache_key(func)
        plan = self.plans.get(key)
        if plan is not None and (not plan.annotations or plan.annotations == _annotations(_innermost(func))):
            return plan
        return self._remember(key, self.make(func, self._policy))

    def plan_with(self, service: Any, target: Any) -> Plan:
        """The plan of `enqueue_with`: a function of one service, or the name of its method."""
        if not isinstance(service, Hashable):
            raise InvalidCall(f"enqueue_with: nothing provides {service!r}; the first argument is a provided type")
        if not isinstance(target, str) and not callable(target):
            hint = called_hint(target)
            raise InvalidCall(f"enqueue_with: the target must be a function or a method's name, not {target!r}{hint}")
        key = (service, target if isinstance(target, str) else _cache_key(target))
        plan = self.plans.get(key)
        if plan is None or plan.annotations:
            need = self._catalog.find(*_unwrap(service, ""))
            assert need is not None  # marked, so that it is found or refused
            plan = self._remember(key, self._make_with(need, target))
        return plan

    def make(self, func: Any, policy: Policy, key: str | None = None) -> Plan:
        """Look at a function: its parameters, what is injected, and where it runs."""
        inner = _innermost(func)
        key = key or task_key(inner)
        plan = Plan(inner, policy, key=key, label=_label(inner), threaded=not _is_async(func, inner))
        signature, hints = _signature(func, inner, plan.label, returned=policy.keep_result)
        if policy is not self._policy:  # declared: others are never stored, and their plans outlive them
            plan.hints = hints
        owner = self._catalog.owner(inner) if inspect.isfunction(inner) and inner is func else None
        parameters = list(signature.parameters.values())
        if owner is not None and parameters:
            plan.injected[parameters.pop(0).name] = owner
            plan.method = inner.__name__
        self._inject(plan, parameters, hints)
        plan.annotations = _annotations(inner)
        plan.carries = not (
            type(func) is FunctionType
            and func.__closure__ is None
            and func.__defaults__ is None
            and func.__kwdefaults__ is None
        )
        return self._finish(plan, signature)

    def _make_with(self, need: Need, target: Any) -> Plan:
        if isinstance(target, str):
            function = getattr(need.hint, target, None)
            if not callable(function):
                raise InvalidOption(f"enqueue_with: {_name(need.hint)} has no method {target!r}")
            return self._make_method(need, function, target)
        plan = self.make(target, self._policy)
        parameters = list(plan.full.parameters.values())
        if not parameters or parameters[0].kind not in (*POSITIONAL, inspect.Parameter.VAR_POSITIONAL):
            raise InvalidCall(
                f"{plan.label}() takes no argument; enqueue_with passes it the {_name(need.hint)} as its first"
            )
        if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
            parameters.insert(0, _unnamed(parameters))
        first = parameters[0].name
        plan.injected = {first: need} | {name: n for name, n in plan.injected.items() if name != first}
        return self._finish(plan, plan.full.replace(parameters=parameters), lambda_allowed=True)

    def _make_method(self, need: Need, function: Any, name: str) -> Plan:
        inner = _innermost(function)
        label = f"{_name(need.hint)}.{name}"
        key = f"{getattr(need.hint, '__module__', '')}:{label}"
        plan = Plan(inner, self._policy, key=key, label=label, threaded=not _is_async(function, inner))
        signature, hints = _signature(function, inner, label)
        parameters = list(signature.parameters.values())
        static = inspect.getattr_static(get_origin(need.hint) or need.hint, name, None)
        if not parameters or inspect.ismethod(function) or isinstance(static, staticmethod):
            parameters.insert(0, _unnamed(parameters))
        plan.injected = {parameters[0].name: need}
        plan.method = name
        self._inject(plan, parameters[1:], hints)
        return self._finish(plan, signature.replace(parameters=parameters))

    def _inject(self, plan: Plan, parameters: Iterable[inspect.Parameter], hints: dict[str, Any]) -> None:
        for parameter in parameters:
            need = self._need(parameter, hints.get(parameter.name))
            if need is not None:
                plan.injected[parameter.name] = need

    def _need(self, parameter: inspect.Parameter, hint: Any) -> Need | None:
        if hint is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        hint, component = _unwrap(hint)
        if parameter.default is DEPENDS:
            need = None if _is_builtin(hint) else self._catalog.find(hint, component)
            if need is None:
                raise InvalidCall(
                    f"the default of parameter {parameter.name!r} is a Depends(…), which only requests resolve, "
                    f"and nothing provides {_name(hint)}: add it to Jobs(providers=[…]), or pass a value"
                )
            return need
        if component is None and (parameter.default is not parameter.empty or _is_builtin(hint)):
            return None
        return self._catalog.find(hint, component)

    def _finish(self, plan: Plan, signature: inspect.Signature, *, lambda_allowed: bool = False) -> Plan:
        may_be_async = (
            lambda_allowed
            or plan.label == "<lambda>"
            or plan.method is not None
            or plan.wraps_async  # the wrapper is a plain function that gives the coroutine
        )
        for name, need in plan.injected.items():
            self._catalog.check(need, threaded=plan.threaded and not may_be_async, where=f"{name!r} of {plan.label}()")
        plan._adopt(signature)
        return plan

    def _remember(self, key: Any, plan: Plan) -> Plan:
        if len(self.plans) >= PLANS_KEPT:  # functions made by exec, say; a cache must not grow without bound
            self.plans.clear()
        self.plans[key] = plan
        return plan


def task_key(func: Any) -> str:
    """`module:qualname`, with `__main__` replaced by the name under which it can be imported."""
    module = getattr(func, "__module__", None) or type(func).__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = spec.name if spec else (file or "__main__").replace("\\", "/").rpartition("/")[2].removesuffix(".py")
        module = module.removesuffix(".__main__") if module != "__main__" else module
    return f"{module}:{getattr(func, '__qualname__', type(func).__qualname__)}"


def _cache_key(func: Any) -> Any:
    """A key that lives as long as the code does, whatever is made of it at run time."""
    if type(func) is FunctionType:
        if "<" not in func.__qualname__:
            return func
        wrapped = getattr(func, "__wrapped__", None)  # every function of a decorator has its wrapper's code
        return func.__code__ if wrapped is None else (func.__code__, _cache_key(wrapped))
    if not callable(func):
        raise InvalidCall(f"a job needs a function, not {func!r}" + called_hint(func))
    if isinstance(func, MethodType):
        return (type(func.__self__), _cache_key(func.__func__))
    if isinstance(func, partial):
        return (_cache_key(func.func), len(func.args), tuple(func.keywords))
    return _cache_key_of_object(func)


def _cache_key_of_object(func: Any) -> Any:
    if inspect.isclass(func):
        return func
    if inspect.isroutine(func):  # written in C; a method of an object must not keep that alive
        owner = getattr(func, "__self__", None)
        kept = owner is None or inspect.ismodule(owner)
        return func if kept else (owner if inspect.isclass(owner) else type(owner), func.__name__)
    wrapped = getattr(func, "__wrapped__", None)
    return (type(func), _cache_key(wrapped) if callable(wrapped) else _called(func))


def called_hint(value: Any) -> str:
    """What to write instead, where a function was called already; the coroutine is closed without a warning."""
    if inspect.iscoroutine(value):
        value.close()  # no "never awaited" warning on top of the error
        return ": it has been called already; write enqueue(function, argument), not enqueue(function(argument))"
    return ""


def _innermost(func: Any) -> Any:
    while isinstance(func, partial):
        func = func.func
    return func


def _is_async(func: Any, inner: Any) -> bool:
    called = _called(inner)
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (inner, called)):
        raise InvalidCall(f"{_label(inner)}() is a generator; a job is a function that returns")
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(called)


def _called(inner: Any) -> Any:
    """The function that runs: of an object its `__call__`."""
    return inner if inspect.isroutine(inner) or inspect.isclass(inner) else getattr(type(inner), "__call__", None)  # noqa: B004


def _signature(
    func: Any, inner: Any, label: str, *, returned: bool = False
) -> tuple[inspect.Signature, dict[str, Any]]:
    """How it is called, and its annotations resolved; what it returns where that can be, or has to be (`returned`)."""
    try:
        signature = inspect.signature(func)
    except (ValueError, TypeError):  # some builtins tell nothing; they are called as they are
        anything = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
        return inspect.Signature(anything), {}
    signature = signature.replace(parameters=[_without_value(one) for one in signature.parameters.values()])
    annotated = inner if "__annotations__" in getattr(inner, "__dict__", ()) else _called(inner)
    annotations = _annotations(annotated)
    if not annotations or inspect.isclass(inner):
        return signature, {}
    try:
        return signature, get_type_hints(annotated, localns=_closure(annotated), include_extras=True)
    except Exception:  # the annotation that fails is named below
        needed = {name: hint for name, hint in annotations.items() if returned or name != "return"}
        return signature, _resolve_each(annotated, needed, label)


def _without_value(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its default as text: plans are remembered, and must keep no object alive."""
    default = parameter.default
    if any(base.__name__ == "Depends" for base in type(default).__mro__):
        return parameter.replace(default=DEPENDS)
    if default is parameter.empty or isinstance(default, (bool, int, float, str, bytes, NoneType)):
        return parameter
    return parameter.replace(default=_Shown("…"))


class _Shown(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


DEPENDS = _Shown("Depends(…)")  # a default of FastAPI's: what it depends on is the scope's to give


def _annotations(func: Any) -> Mapping[str, Any]:
    try:
        return getattr(func, "__annotations__", None) or {}
    except NameError:  # Python 3.14 resolves them only now
        if sys.version_info >= (3, 14):
            import annotationlib

            return annotationlib.get_annotations(func, format=annotationlib.Format.STRING)
        raise


def _resolve_each(func: Any, annotations: dict[str, Any], label: str) -> dict[str, Any]:
    names = getattr(inspect.unwrap(func), "__globals__", {}) | _closure(func)
    hints = {}
    for name, annotation in annotations.items():
        text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
        try:
            hints[name] = eval(text, names) if isinstance(text, str) else text  # noqa: S307 - the module's own text
        except Exception as error:
            what = f"parameter {name!r}" if name != "return" else "the value"
            raise InvalidCall(
                f"the annotation {text!r} of {what} of {label}() cannot be resolved ({error}); "
                f"import it at run time (not only under TYPE_CHECKING)"
            ) from None
    return hints


def _closure(func: Any) -> dict[str, Any]:
    """The variables around a function and around what it wraps."""
    found: dict[str, Any] = {}
    while func is not None:
        func = getattr(func, "__func__", func)
        code: CodeType | None = getattr(func, "__code__", None)
        cells = zip(code.co_freevars if code else (), getattr(func, "__closure__", None) or (), strict=True)
        for name, cell in cells:
            try:
                found[name] = cell.cell_contents
            except ValueError:  # a variable that has no value yet
                continue
        func = getattr(func, "__wrapped__", None)
    return found


def _unwrap(hint: Any, component: str | None = None) -> tuple[Any, str | None]:
    """The type in `Annotated`, and dishka's component where `FromDishka` marks it."""
    if get_origin(hint) is not Annotated:
        return hint, component
    inner, *metadata = get_args(hint)
    for mark in metadata:
        if type(mark).__name__ == "_FromComponent":
            return inner, str(mark.component)
    return inner, component


def _unnamed(parameters: Iterable[inspect.Parameter]) -> inspect.Parameter:
    """A parameter for the service in front of the others."""
    names = {parameter.name for parameter in parameters}
    name = "service"
    while name in names:
        name = f"_{name}"
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY)


def _is_builtin(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return getattr(origin, "__module__", None) == "builtins"


def _label(func: Any) -> str:
    qualname = getattr(func, "__qualname__", None) or type(func).__qualname__
    return str(qualname).rpartition("<locals>.")[2]


def _name(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or str(hint)
