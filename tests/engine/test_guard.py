from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import litestar
import litestar.datastructures
import pytest
import quart
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from fastapi import UploadFile as FastAPIUploadFile
from quart.datastructures import FileStorage
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from starlette.datastructures import UploadFile
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from asgi_jobs.engine.guard import TYPES_KEPT, Guard, is_request_type
from asgi_jobs.errors import RequestBound

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/orders",
    "headers": [],
    "query_string": b"",
    "scheme": "http",
    "server": ("shop.test", 80),
}

if not settings.configured:
    settings.configure()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]

    def full_name(self) -> str:
        return self.email

    def notify(self) -> None: ...


class OrderLine(Base):
    __tablename__ = "lines"
    order: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column("nr", primary_key=True)


class EmailSender:
    def __init__(self, session: object = None) -> None:
        self.session = session

    async def send(self, to: str, subject: str = "") -> None: ...


class Shop(Request):
    """A request class of the application's own."""


def send_welcome(user: Any, subject: str = "") -> None: ...


def handle(thing: Any) -> None: ...


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def user(session: Session) -> User:
    user = User(id=1, email="ann@shop.test")
    session.add(user)
    session.commit()
    return user


@pytest.fixture
def request_() -> Request:
    return Request(SCOPE)


def refusal(func: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(RequestBound) as raised:
        Guard().check(func, args, kwargs)
    return str(raised.value)


# What is refused


def websocket() -> WebSocket:
    async def nothing(*_: Any) -> Any: ...

    return WebSocket({**SCOPE, "type": "websocket"}, nothing, nothing)


def litestar_upload() -> Any:
    upload = litestar.datastructures.UploadFile("text/plain", "a.txt")
    upload.file.close()
    return upload


REQUEST_BOUND: dict[str, Callable[[], Any]] = {
    "starlette connection": lambda: HTTPConnection(SCOPE),
    "starlette request": lambda: Request(SCOPE),
    "starlette request, subclass": lambda: Shop(SCOPE),
    "starlette websocket": websocket,
    "starlette upload": lambda: UploadFile(io.BytesIO()),
    "fastapi upload": lambda: FastAPIUploadFile(io.BytesIO()),
    "litestar request": lambda: litestar.Request(SCOPE),  # type: ignore[arg-type]
    "litestar websocket": lambda: litestar.WebSocket({**SCOPE, "type": "websocket"}),  # type: ignore[arg-type]
    "litestar upload": litestar_upload,
    "quart upload": lambda: FileStorage(io.BytesIO()),
    "django request": HttpRequest,
    "django upload": lambda: SimpleUploadedFile("a.txt", b""),
    "session": Session,
    "async session": AsyncSession,
    "scoped session": lambda: scoped_session(sessionmaker()),
    "async scoped session": lambda: async_scoped_session(async_sessionmaker(), scopefunc=lambda: 1),
}


@pytest.mark.parametrize("make", REQUEST_BOUND.values(), ids=REQUEST_BOUND)
def test_refuses_what_belongs_to_a_request(make: Callable[[], Any]) -> None:
    thing = make()
    assert "argument 'thing' of handle is " in refusal(handle, thing)
    assert "closure variable 'thing' of the lambda is " in refusal(lambda: handle(thing))


async def test_refuses_quarts_proxy_for_the_request() -> None:
    async with quart.Quart("shop").test_request_context("/orders"):
        message = refusal(handle, quart.request)
    assert "is a request (Request)" in message
    assert message.endswith("e.g. thing.path: jobs.enqueue(handle, thing.path)")


def test_a_proxy_for_something_else_passes() -> None:
    Guard().check(handle, (quart.current_app,))


def test_refuses_an_orm_object_while_it_is_attached(session: Session, user: User) -> None:
    assert "argument 'user' of send_welcome is an ORM object (User)" in refusal(send_welcome, user)
    session.expunge(user)
    Guard().check(send_welcome, (user,))
    Guard().check(send_welcome, ([user],))


def test_refuses_an_orm_object_that_is_not_flushed_yet(session: Session) -> None:
    user = User(id=2, email="bob@shop.test")
    Guard().check(send_welcome, (user,))
    session.add(user)
    assert "an ORM object (User)" in refusal(send_welcome, user)


def test_an_orm_object_made_without_its_constructor_passes() -> None:
    Guard().check(send_welcome, (User.__new__(User),))


def test_refuses_an_object_that_hangs_on_a_detached_one(session: Session, user: User) -> None:
    detached = User(id=3, email="eve@shop.test")
    detached.manager = user  # type: ignore[attr-defined]
    assert "attribute 'manager' of argument 'user' of send_welcome" in refusal(send_welcome, detached)


# Where it is looked for


def test_looks_into_keyword_arguments(user: User) -> None:
    message = refusal(send_welcome, user=user, subject="hello")
    assert message.endswith("jobs.enqueue(send_welcome, user=user.id, subject=subject)")


def test_looks_one_level_into_collections(user: User, request_: Request) -> None:
    assert "item 1 of argument 'thing' of handle" in refusal(handle, [1, user])
    assert "item 0 of argument 'thing' of handle" in refusal(handle, (request_,))
    assert "an item of argument 'thing' of handle" in refusal(handle, {user})
    assert "item 'who' of argument 'thing' of handle" in refusal(handle, {"who": user})
    Guard().check(handle, ([[user]],))  # deeper is not seen


def test_looks_into_the_rows_of_a_query(session: Session, user: User) -> None:
    row = session.execute(select(User)).one()
    assert "item 0 of argument 'thing' of handle is an ORM object (User)" in refusal(handle, row)


def test_looks_one_level_into_attributes(user: User, request_: Request) -> None:
    @dataclass(slots=True)
    class Slotted:
        first: object
        second: object = 1

    half = Slotted.__new__(Slotted)
    half.second = user
    assert "attribute 'user' of argument 'thing'" in refusal(handle, SimpleNamespace(user=user))
    assert "attribute 'first' of argument 'thing'" in refusal(handle, Slotted(request_))
    assert "attribute 'second' of argument 'thing'" in refusal(handle, half)


def test_looks_into_slots_and_dict_of_one_object(user: User) -> None:
    class Slotted:
        __slots__ = ("first",)

    class Both(Slotted):
        pass

    both = Both()
    both.user = user  # type: ignore[attr-defined]
    assert "attribute 'user' of argument 'thing'" in refusal(handle, both)


def test_looks_into_closures_and_defaults_of_functions(user: User, request_: Request) -> None:
    def positional(a: int, who: User = user) -> None: ...
    def keyword(*, a: int = 1, what: Request = request_) -> None: ...

    assert "closure variable 'user' of the lambda" in refusal(lambda: user)
    assert "the default of parameter 'who' of positional" in refusal(positional)
    assert "the default of parameter 'what' of keyword" in refusal(keyword)
    assert "the default of parameter 'who' of positional" in refusal(handle, positional)


def test_looks_through_decorators(user: User) -> None:
    def logged(func: Callable[..., None]) -> Callable[..., None]:
        @wraps(func)
        def wrapper(*args: Any) -> None:
            func(*args)

        return wrapper

    @logged
    def work() -> None:
        handle(user)

    assert "closure variable 'user' of work" in refusal(work)


def test_looks_into_partials(user: User) -> None:
    assert "argument 'user' of send_welcome" in refusal(partial(send_welcome, user))
    assert "argument 'user' of send_welcome" in refusal(partial(partial(send_welcome, user=user), subject="a"))
    assert "closure variable 'user' of the lambda" in refusal(partial(lambda: user))


def test_looks_at_the_object_of_a_bound_method(session: Session, user: User) -> None:
    assert "the object of the bound method User.notify is an ORM object" in refusal(user.notify)
    assert "the object of the bound method Session.commit is a database session" in refusal(session.commit)
    sender = EmailSender(session)
    assert "attribute 'session' of the object of the bound method EmailSender.send" in refusal(sender.send, "x")


def test_looks_into_an_object_that_is_called(request_: Request) -> None:
    class Audit:
        def __init__(self) -> None:
            self.request = request_

        def __call__(self) -> None: ...

    assert "attribute 'request' of the enqueued Audit" in refusal(Audit())


def test_finds_the_one_among_many() -> None:
    assert "item 9999 of" in refusal(handle, [*range(9_999), Session()])


# What passes


class Colour(Enum):
    RED = 1


def test_plain_values_pass() -> None:
    values = [
        1,
        "a",
        None,
        b"",
        uuid4(),
        Path(),
        Colour.RED,
        range(3),
        int,
        io,
        {"a": [1]},
        SimpleNamespace(a=1),
    ]
    Guard().check(handle, values, {"thing": 1})
    Guard().check(lambda: values)
    Guard().check(len, ([1],))


def test_classes_and_modules_are_not_looked_into(session: Session) -> None:
    class Meta(type):
        pass

    class Database(metaclass=Meta):
        current = session

    database = ModuleType("database")
    database.current = session  # type: ignore[attr-defined]
    Guard().check(handle, (Database, database))


def test_what_opens_sessions_passes() -> None:
    Guard().check(handle, (sessionmaker(), async_sessionmaker(), Session, create_engine("sqlite://")))


def test_a_function_in_its_own_closure_passes() -> None:
    def count_down(n: int) -> None:
        count_down(n - 1)

    def ping(other: Any = None) -> None: ...
    def pong(other: Any = ping) -> None: ...

    ping.__defaults__ = (pong,)
    Guard().check(count_down, (3,))
    Guard().check(ping)


def test_a_variable_without_a_value_yet_passes() -> None:
    def work() -> None:
        handle(later)

    Guard().check(work)
    later = 1


def test_types_made_on_the_fly_are_not_kept() -> None:
    guard = Guard()
    for number in range(TYPES_KEPT + 10):
        guard.check(handle, (type(f"Made{number}", (), {})(),))
    assert len(guard._looks) <= TYPES_KEPT


# The mended line


def test_mends_an_orm_argument_with_its_key(user: User) -> None:
    message = refusal(send_welcome, user, "hello")
    assert message.endswith(
        "Pass its key and load it in the job (session.get(User, …)): jobs.enqueue(send_welcome, user.id, subject)"
    )


def test_mends_a_compound_key_by_its_attributes(session: Session) -> None:
    line = OrderLine(order=1, number=2)
    session.add(line)
    assert refusal(handle, line).endswith("jobs.enqueue(handle, (thing.order, thing.number))")


def test_mends_collections(session: Session, user: User) -> None:
    assert refusal(handle, [user]).endswith("jobs.enqueue(handle, [item.id for item in thing])")
    assert refusal(handle, {user}).endswith("jobs.enqueue(handle, {item.id for item in thing})")
    assert refusal(handle, {"a": user}).endswith("{key: item.id for key, item in thing.items()})")
    assert refusal(handle, [1, user]).endswith("jobs.enqueue(handle, thing[1].id)")


def test_names_arguments_as_the_caller_of_the_guard_says(user: User) -> None:
    def report(session: AsyncSession, user: User) -> None: ...

    with pytest.raises(RequestBound, match=r"argument 'user' of report .* jobs\.enqueue\(report, user\.id\)"):
        Guard().check(report, (user,), positional=("user",))


def test_counts_arguments_that_have_no_name(user: User) -> None:
    def work(number: int, *users: User) -> None: ...

    assert "argument 2 of work" in refusal(work, 1, user)
    assert refusal(work, 1, user).endswith("jobs.enqueue(work, number, user.id)")
    assert "argument 1 of int" in refusal(int, user)


def test_mends_a_lambda_with_the_values_it_uses(user: User, request_: Request) -> None:
    to = "staff@shop.test"
    with pytest.raises(RequestBound) as raised:
        Guard().check(lambda s: s.send(user.email, user.full_name(), to), service=EmailSender)
    assert str(raised.value).endswith(
        "Bind the values it uses: jobs.enqueue_with(EmailSender, "
        "lambda s, email=user.email, full_name=user.full_name(): s.send(email, full_name, to))"
    )
    assert refusal(lambda: handle((request_.headers.get("host"), request_.url.path.upper()))).endswith(
        "jobs.enqueue(lambda headers=request_.headers, path=request_.url.path: "
        "handle((headers.get('host'), path.upper())))"
    )


def test_mends_a_lambda_without_taking_a_name_twice(user: User) -> None:
    assert refusal(lambda email: handle((email, user.email)), "x").endswith(
        "lambda email, user_email=user.email: handle((email, user_email)), email)"
    )


def test_mends_a_lambda_that_passes_the_object_on_with_its_key(user: User, request_: Request) -> None:
    assert refusal(lambda: send_welcome(user)).endswith("jobs.enqueue(lambda user_id=user.id: …)")
    assert refusal(lambda: handle(request_)).endswith("jobs.enqueue(lambda path=request_.url.path: …)")


def test_mends_a_lambda_whose_source_is_unknown_or_has_changed(user: User, tmp_path: Path) -> None:
    changed = tmp_path / "changed.py"
    changed.write_text("not python (")
    for file in ("<string>", str(changed)):
        made = eval(compile("lambda user: lambda: user.email", file, "eval"))(user)
        assert refusal(made).endswith("jobs.enqueue(lambda user_id=user.id: …)")


def test_mends_the_arguments_of_lambdas_and_partials(user: User) -> None:
    assert refusal(lambda u: u, user).endswith("jobs.enqueue(lambda u: …, u.id)")
    assert refusal(partial(send_welcome, subject="hello"), user).endswith("jobs.enqueue(send_welcome, user.id)")


def test_mends_a_local_function(user: User, request_: Request) -> None:
    def work() -> str:
        return user.email

    async def read() -> Any:
        return await request_.json()

    def change() -> None:
        user.email = ""

    assert refusal(work).endswith("Take out before it what it uses: email = user.email")
    assert refusal(read).endswith("Take out before it what it uses: json = await request_.json()")
    assert refusal(change).endswith("load it in the job (session.get(User, …)): user_id = user.id")


def test_mends_a_default(user: User, request_: Request) -> None:
    assert refusal(lambda u=user: u.email).endswith("load it in the job (session.get(User, …)): u_id=u.id")
    assert refusal(lambda r=request_: r).endswith("Pass the value you need, e.g. r.url.path")


def test_mends_a_request(request_: Request) -> None:
    assert refusal(handle, request_).endswith("e.g. thing.url.path: jobs.enqueue(handle, thing.url.path)")
    assert refusal(handle, HttpRequest()).endswith("e.g. thing.path: jobs.enqueue(handle, thing.path)")
    assert "is a WebSocket connection (WebSocket), which ends without" in refusal(handle, websocket())


def test_mends_an_upload() -> None:
    def store(file: Any) -> None: ...

    file = UploadFile(io.BytesIO())
    assert refusal(store, file).endswith("Read it first: jobs.enqueue(store, await file.read())")
    assert refusal(store, [file]).endswith("jobs.enqueue(store, [await item.read() for item in file])")
    assert refusal(store, FileStorage(io.BytesIO())).endswith("jobs.enqueue(store, file.read())")
    assert refusal(lambda: store(file)).endswith("Read it first: content = await file.read()")


def test_mends_a_session(session: Session) -> None:
    async_session = AsyncSession()

    def report(session: AsyncSession, month: str) -> None: ...

    assert refusal(report, async_session, "May").endswith(
        "Let the job ask for its own: give the function a parameter annotated AsyncSession "
        "and leave it out here: jobs.enqueue(report, month)"
    )
    assert "parameter annotated Session and" in refusal(handle, session)
    assert refusal(lambda: handle(async_session)).endswith(
        "jobs.enqueue_with(AsyncSession, lambda async_session: handle(async_session))"
    )
    assert refusal(lambda r: r(session), 1).endswith("give the function a parameter annotated Session")
    assert refusal(lambda s=session: s).endswith("a parameter annotated Session and no default")


def test_mends_a_service_that_holds_a_session(session: Session) -> None:
    sender = EmailSender(session)
    assert refusal(sender.send, "x", "hello").endswith(
        "Let the job ask for its own EmailSender: jobs.enqueue(EmailSender.send, to, subject)"
    )
    assert refusal(lambda: sender.send("x")).endswith("jobs.enqueue_with(EmailSender, lambda sender: sender.send('x'))")
    assert "a parameter annotated EmailSender and leave it out here: jobs.enqueue(handle)" in refusal(handle, sender)


def test_mends_a_method_of_a_service(user: User) -> None:
    assert refusal(EmailSender.send, user).endswith("jobs.enqueue(EmailSender.send, to.id)")
    with pytest.raises(RequestBound) as raised:
        Guard().check("send", (user, "hello"), service=EmailSender)
    assert "argument 'to' of EmailSender.send" in str(raised.value)
    assert str(raised.value).endswith("jobs.enqueue_with(EmailSender, 'send', to.id, subject)")


def test_mends_the_method_of_an_orm_object(user: User) -> None:
    assert refusal(user.notify).endswith("jobs.enqueue(notify, user.id)")


# Types, for the check of what a job depends on


def test_knows_request_types() -> None:
    for cls in (HTTPConnection, Request, Shop, WebSocket, UploadFile, HttpRequest, litestar.Request):
        assert is_request_type(cls)
    assert is_request_type(litestar.Request[Any, Any, Any])
    for other in (int, EmailSender, Session, User, list[int], "Request", None):
        assert not is_request_type(other)
