"""Arguments and results of durable jobs as JSON: the form of a row, what is refused, what is no longer readable."""

import asyncio
import enum
import functools
import gc
import io
import itertools
import math
import timeit
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, ParamSpec, TypedDict, TypeVar, Unpack
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from asgi_jobs import InvalidCall, Jobs
from asgi_jobs.codec import Codec
from asgi_jobs.errors import ArgumentsUnreadable
from asgi_jobs.planner import Planner
from asgi_jobs.task import Policy

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

P = ParamSpec("P")
T = TypeVar("T")
ID = UUID("12345678-1234-5678-1234-567812345678")


class Kind(enum.StrEnum):
    WELCOME = "welcome"


@dataclass
class Order:
    number: int
    day: date


class Options(TypedDict, total=False):
    since: NotRequired[date]
    limit: int


class Connection:
    """No value at all: nothing of it can be stored."""


def codec_of(function: Callable[..., Any], jobs: Jobs | None = None) -> Codec:
    return (jobs or Jobs()).task(function).codec


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    codec = codec_of(function)
    return codec.decode(codec.encode(args, kwargs))


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidCall) as caught:
        codec_of(function).encode(args, kwargs)
    error = caught.value
    assert error.__suppress_context__, "pydantic's own error shows the whole value"
    assert error.__cause__ is None
    return str(error)


def unreadable(function: Callable[..., Any], payload: Any) -> str:
    with pytest.raises(ArgumentsUnreadable) as caught:
        codec_of(function).decode(payload)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


async def mail(to: str, count: int = 1, when: date | None = None, *, urgent: bool = False) -> None: ...


# The form of a row


def test_positional_arguments_are_a_list() -> None:
    codec = codec_of(mail)
    assert codec.encode(("a@b", 2), {}) == '["a@b",2]'
    assert codec.encode(("a@b", 2, date(2024, 2, 29)), {}) == '["a@b",2,"2024-02-29"]'
    assert codec.encode((), {}) == "[]"


def test_keywords_stand_beside_them() -> None:
    payload = codec_of(mail).encode(("a@b",), {"when": date(2024, 2, 29), "urgent": True})
    assert payload == '{"a":["a@b"],"k":{"when":"2024-02-29","urgent":true}}'


def test_what_comes_back_are_positional_arguments_and_keywords_or_none() -> None:
    assert there_and_back(mail, "a@b", 2) == (("a@b", 2), None)
    assert there_and_back(mail, "a@b", when=date(2024, 2, 29)) == (("a@b",), {"when": date(2024, 2, 29)})
    assert there_and_back(mail, to="a@b") == ((), {"to": "a@b"})


def test_either_half_of_the_long_form_will_do() -> None:
    codec = codec_of(mail)
    assert codec.decode('{"k": {"to": "a@b"}}') == ((), {"to": "a@b"})
    assert codec.decode('{"a": ["a@b"]}') == (("a@b",), None)


def test_a_row_is_text_that_every_database_takes() -> None:
    payload = codec_of(mail).encode(('nul \0, "quotes", ü, 🎉',), {})
    assert payload == '["nul \\u0000, \\"quotes\\", ü, 🎉"]'
    assert codec_of(mail).decode(payload) == (('nul \0, "quotes", ü, 🎉',), None)


def test_a_long_text_is_stored_whole() -> None:
    assert there_and_back(mail, "x" * 1_000_000) == (("x" * 1_000_000,), None)


def test_the_codec_of_a_task_is_made_once() -> None:
    task = Jobs().task(mail)
    assert task.codec is task.codec


def test_adapters_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(mail)
    codec.encode(("a", 1, date.max), {"urgent": True})
    monkeypatch.setattr("asgi_jobs.codec.Converter", None)
    assert codec.decode(codec.encode(("b", 2, date.min), {"urgent": False})) == (("b", 2, date.min), {"urgent": False})


@pytest.mark.slow
def test_plain_arguments_cost_a_few_microseconds() -> None:
    codec = codec_of(mail)
    cost = min(timeit.repeat(lambda: codec.encode(("a@b", 42), {}), number=2_000, repeat=20)) / 2_000
    assert cost < 10e-6, f"{cost * 1e6:.1f} µs"


# Whose annotation holds


def test_what_comes_in_star_args_has_their_annotation() -> None:
    def together(first: str, *days: date) -> None: ...

    assert there_and_back(together, "x", date.min, date.max) == (("x", date.min, date.max), None)
    assert "annotation date" in refused(together, "x", date.min, "2024-01-01T00")


def test_what_comes_in_star_star_kwargs_has_their_annotation() -> None:
    def together(**ids: UUID) -> None: ...

    assert there_and_back(together, one=ID, two=ID) == ((), {"one": ID, "two": ID})
    assert "the argument 'two'" in refused(together, one=ID, two="x")


def test_an_unpacked_typed_dict_says_it_key_by_key() -> None:
    def search(**options: Unpack[Options]) -> None: ...

    assert there_and_back(search, since=date.min, limit=3) == ((), {"since": date.min, "limit": 3})
    assert "'limit'" in refused(search, limit=date.min)


def test_a_keyword_may_be_called_like_a_positional_only_parameter() -> None:
    def both(day: date, /, **day_and_more: int) -> None: ...

    assert there_and_back(both, date.min, day=7) == ((date.min,), {"day": 7})


def test_without_an_annotation_plain_json_is_stored() -> None:
    def anything(value, *more, **named) -> None: ...  # type: ignore[no-untyped-def]

    value: list[Any] = [None, True, 1, 1.5, "x", {"deep": [{}, []]}]
    assert there_and_back(anything, value, value, key=value) == ((value, value), {"key": value})


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ((1, 2), "annotate the parameter: value: tuple[int, ...]"),
        ({"a", "b"}, "annotate the parameter: value: set[str]"),
        ({1: "a"}, "annotate the parameter: value: dict[int, str]"),
        (date.min, "annotate the parameter: value: date"),
        ({"when": [datetime.now(UTC), None]}, "annotate the parameter: value: dict[str, list[NoneType | datetime]]"),
        (Order(1, date.min), "annotate the parameter: value: Order"),
        (Kind.WELCOME, "annotate the parameter: value: Kind"),
        (ID, "annotate the parameter: value: UUID"),
        (timedelta(1), "annotate the parameter: value: timedelta"),
    ],
)
def test_without_an_annotation_other_values_are_refused_with_the_one_they_need(value: Any, remedy: str) -> None:
    def bare(value) -> None: ...  # type: ignore[no-untyped-def]
    def anything(value: Any) -> None: ...
    def generic(value: T) -> T: ...  # type: ignore[empty-body]

    assert refused(bare, value).endswith(remedy)
    assert refused(anything, value=value).endswith(remedy)
    assert "'value'" in refused(generic, value)


def test_a_decorated_function_has_the_annotations_of_what_it_wraps() -> None:
    def logged(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(*args, **kwargs)

        return wrapper

    def bare(function: Callable[P, T]) -> Callable[P, T]:
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(*args, **kwargs)

        return wrapper

    assert there_and_back(logged(mail), "x", 1, date.min) == (("x", 1, date.min), None)
    assert there_and_back(bare(mail), "x", 1, urgent=True) == (("x", 1), {"urgent": True})


def test_injected_parameters_are_not_counted() -> None:
    async def report(session: AsyncSession, day: date, title: str = "") -> None: ...

    codec = codec_of(report, Jobs(session_factory=async_sessionmaker()))
    assert codec.encode((date.min,), {"title": "x"}) == '{"a":["0001-01-01"],"k":{"title":"x"}}'


def test_what_is_given_for_an_injected_parameter_is_refused() -> None:
    async def report(session: AsyncSession, day: date) -> None: ...

    codec = codec_of(report, Jobs(session_factory=async_sessionmaker()))
    with pytest.raises(InvalidCall, match=r"report\(\): 'session' is injected, .* leave it out"):
        codec.encode((date.min,), {"session": AsyncSession()})


def test_a_parameter_whose_type_has_no_json_matters_only_when_it_is_given() -> None:
    async def ping(host: str, connection: Connection | None = None) -> None: ...

    assert there_and_back(ping, "x") == (("x",), None)
    assert there_and_back(ping, "x", connection=None) == (("x",), {"connection": None})
    assert "the argument 'connection' is <" in refused(ping, "x", Connection())


# What is refused, and what is said


def test_a_refusal_names_function_parameter_value_and_remedy() -> None:
    assert refused(mail, "a@b", "2") == (
        "mail(): the argument 'count' is '2' (str), which does not fit: Input should be a valid integer; "
        "pass what the annotation int says, or change that"
    )


def test_it_names_the_part_that_is_the_trouble() -> None:
    def buy(orders: dict[str, list[Order]]) -> None: ...

    message = refused(buy, {"new": [Order(1, date.min), Order(True, date.min)]})
    assert "of which ['new'][1].number is True (bool), which JSON gives back as 1 (int)" in message


def test_values_are_cut_at_80_characters() -> None:
    def check(token: int, tokens: dict[str, int]) -> None: ...

    secret = "s3cret" * 100
    for message in (refused(check, secret, {}), refused(check, 1, {secret: secret}), refused(check, 1, [secret] * 9)):
        assert "s3cret" * 15 not in message
        assert len(message) < 500


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (lambda: None, "pass a value that the job can choose them by"),
        (print, "pass a value that the job can choose them by"),
        (Order, "pass a value that the job can choose them by"),
        (io.StringIO("x"), "pass its path, or its content"),
        (iter([1]), "pass list(…) of it"),
        (itertools.count(), "pass list(…) of it"),
        ((n for n in [1]), "pass list(…) of it"),
        (math.inf, "pass None, and annotate the parameter: value: float | None"),
        ([math.nan], "JSON has no such number"),
        ("\ud800", "pass bytes (os.fsencode), and annotate the parameter: value: bytes"),
        (Connection(), "pass plain values, or a dataclass or pydantic model"),
        (10**5000, "pass plain values"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_stored_nowhere_has_a_remedy_of_its_own(value: Any, remedy: str) -> None:
    def take(value: Any) -> None: ...
    def narrow(value: str | float | list[float]) -> None: ...

    assert remedy in refused(take, value)
    assert "the argument 'value'" in refused(narrow, value=value)


async def test_what_was_not_awaited_is_refused() -> None:
    def take(value: Any) -> None: ...

    future = asyncio.get_running_loop().create_future()
    assert "await it, and pass what it gives" in refused(take, future)


def test_a_list_in_itself_or_without_a_bottom_is_refused() -> None:
    def take(value: Any) -> None: ...

    around: list[Any] = []
    around.append(around)
    assert "Circular" in refused(take, around)
    deep: Any = []
    for _ in range(250):
        deep = [deep]
    assert "recursion" in refused(take, deep)


def test_types_that_look_alike_in_json_are_told_apart_or_refused() -> None:
    def find(key: str | UUID) -> None: ...

    assert there_and_back(find, ID) == ((ID,), None)
    assert there_and_back(find, "x") == (("x",), None)
    assert refused(find, str(ID)).endswith("values of str | UUID look alike: let the parameter take one of these types")


def test_a_value_whose_repr_raises_is_refused_all_the_same() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def take(value: int) -> None: ...

    assert "(Rude)" in refused(take, Rude())


def test_what_a_validator_refuses_is_refused_at_the_call() -> None:
    def take(value: Annotated[int, Field(gt=0)]) -> None: ...

    assert refused(take, -1).endswith(
        "Input should be greater than 0; pass what the annotation int says, or change that"
    )


def test_an_iterable_is_read_as_a_list() -> None:
    def add(numbers: Iterable[int], more: Iterable[date] | None = None) -> None: ...

    assert there_and_back(add, [1, 2], more=[date.min]) == (([1, 2],), {"more": [date.min]})
    assert "list(…)" in refused(add, iter([1]))
    assert "JSON gives back as [1] (list)" in refused(add, (1,))


def test_a_keyword_that_is_no_unicode_is_refused() -> None:
    def take(**values: int) -> None: ...

    with pytest.raises(InvalidCall, match="no valid Unicode"):
        codec_of(take).encode((), {"\ud800": 1})


# What is no longer readable


def test_new_parameters_with_defaults_are_fine() -> None:
    old = codec_of(mail).encode(("a@b",), {"urgent": True})

    async def newer(to: str, count: int = 1, *, urgent: bool = False, copy: str = "") -> None: ...

    assert codec_of(newer).decode(old) == (("a@b",), {"urgent": True})


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        ("[]", "missing a required argument: 'to'"),
        ('{"k":{"count":1}}', "missing a required argument: 'to'"),
        ('{"a":["a@b"],"k":{"copy":"x"}}', "unexpected keyword argument 'copy'"),
        ('{"a":["a@b"],"k":{"to":"x"}}', "multiple values for argument 'to'"),
        ('["a@b",1,null,true]', "too many positional arguments"),
    ],
)
def test_other_parameters_are_named(payload: str, what: str) -> None:
    message = unreadable(mail, payload)
    assert what in message
    assert "mail(" in message
    assert "Put new parameters last and give them defaults" in message


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ('["a@b","2"]', "count"),
        ('["a@b",2.0]', "count"),
        ('["a@b",true]', "count"),
        ('["a@b",null]', "count"),
        ("[5]", "to"),
        ('["a@b",1,"soon"]', "when"),
        ('["a@b",1,20240101]', "when"),
        ('["a@b",1,"2024-01-01T10:00"]', "when"),
        ('{"a":["a@b"],"k":{"urgent":"yes"}}', "urgent"),
        ('{"a":["a@b"],"k":{"urgent":1}}', "urgent"),
    ],
)
def test_another_type_is_not_bent_but_named(payload: str, name: str) -> None:
    message = unreadable(mail, payload)
    assert message.startswith(f"mail(): the stored arguments have a value for '{name}' which does not fit")
    assert "Change types in two steps" in message


def test_the_field_that_does_not_fit_is_named() -> None:
    def buy(orders: list[Order]) -> None: ...

    assert "'orders' which does not fit at 0.day: Field required" in unreadable(buy, '[[{"number":1}]]')


@pytest.mark.parametrize("payload", ["", "[", "nonsense", "[NaN]", "[1]]", None, 5, '["\\ud800"]'])
def test_what_is_no_json_is_unreadable(payload: Any) -> None:
    assert "mail(): the stored arguments are no JSON" in unreadable(mail, payload)


@pytest.mark.parametrize("payload", ["5", "null", '"x"', '{"to":"x"}', '{"a":{},"k":{}}', '{"a":[],"k":[]}'])
def test_another_form_is_unreadable(payload: str) -> None:
    assert 'neither a list nor {"a": [...], "k": {...}}' in unreadable(mail, payload)


def test_what_is_injected_now_is_named() -> None:
    async def report(session: AsyncSession) -> None: ...

    codec = codec_of(report, Jobs(session_factory=async_sessionmaker()))
    with pytest.raises(ArgumentsUnreadable, match="have 'session', which is injected now"):
        codec.decode('{"k":{"session":"x"}}')


def test_a_type_that_has_no_json_now_is_unreadable() -> None:
    def ping(connection: Connection) -> None: ...

    assert "'connection' which has no JSON form" in unreadable(ping, "[{}]")


# Results


async def count() -> dict[str, date]:
    return {}


def test_a_result_is_stored_by_what_the_function_says_it_returns() -> None:
    codec = codec_of(count)
    assert codec.encode_result({"a": date.min}) == '{"a":"0001-01-01"}'
    assert codec.decode_result('{"a":"0001-01-01"}') == {"a": date.min}


def test_an_awaitable_annotation_means_what_it_gives() -> None:
    def one() -> Awaitable[date]: ...  # type: ignore[empty-body]
    def two() -> Coroutine[Any, Any, date]: ...  # type: ignore[empty-body]

    for function in (one, two):
        codec = codec_of(function)
        assert codec.decode_result(codec.encode_result(date.min)) == date.min


def test_a_result_without_an_annotation_is_plain_json() -> None:
    def bare():  # type: ignore[no-untyped-def]
        ...

    codec = codec_of(bare)
    assert codec.decode_result(codec.encode_result([1, {"a": None}])) == [1, {"a": None}]
    with pytest.raises(InvalidCall) as caught:
        codec.encode_result((1, 2))
    assert str(caught.value) == (
        "bare() keeps its result, but that is (1, 2) (tuple), which JSON gives back as [1, 2] (list); "
        "annotate what it returns: -> tuple[int, ...]"
    )


def test_a_function_that_returns_nothing_keeps_none() -> None:
    codec = codec_of(mail)
    assert codec.encode_result(None) == "null"
    assert codec.decode_result("null") is None
    with pytest.raises(InvalidCall, match="keeps its result"):
        codec.encode_result(5)


def test_a_result_with_no_json_is_refused() -> None:
    def connect() -> Connection: ...  # type: ignore[empty-body]

    with pytest.raises(InvalidCall, match=r"connect\(\) keeps its result, but that is <.*no JSON form"):
        codec_of(connect).encode_result(Connection())


@pytest.mark.parametrize("text", ["", "{", '{"a":"soon"}', "[1]", "null"])
def test_a_result_that_no_longer_fits_is_unreadable(text: str) -> None:
    with pytest.raises(ArgumentsUnreadable, match=r"count\(\): the job has a stored result"):
        codec_of(count).decode_result(text)


# What the planner finds out


def test_a_plan_has_the_annotations_resolved() -> None:
    plan = Jobs().task(mail).plan
    assert plan.hints == {"to": str, "count": int, "when": date | None, "urgent": bool, "return": type(None)}


def test_an_annotation_of_what_is_returned_alone_is_found() -> None:
    assert Jobs().task(count).plan.hints == {"return": dict[str, date]}


def test_what_is_returned_may_have_an_annotation_that_is_not_there_at_run_time() -> None:
    def fetch(number: int) -> "Missing": ...

    assert Jobs().task(fetch).plan.hints == {"number": int}


def test_unless_it_is_to_be_kept() -> None:
    def fetch(number: int) -> "Missing": ...

    planner = Jobs()._planner
    with pytest.raises(InvalidCall, match=r"'Missing' of the value of fetch\(\) cannot be resolved"):
        planner.make(fetch, Policy(keep_result=True))


def test_the_plans_of_functions_that_are_not_declared_keep_no_types_alive() -> None:
    def make() -> weakref.ref[Any]:
        class Local(BaseModel):
            number: int

        def job(value: "Local") -> type:
            return Local

        planner.plan(job)
        return weakref.ref(Local)

    planner: Planner = Jobs()._planner
    local = make()
    gc.collect()
    assert local() is None
