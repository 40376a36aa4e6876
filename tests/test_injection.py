"""What a job's function is given, and by whom: the session, services, the caller's arguments."""

import __future__

import asyncio
import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, NewType, ParamSpec, Protocol, TypeVar

import pytest
from dishka import (
    AnyOf,
    AsyncContainer,
    FromComponent,
    FromDishka,
    Provider,
    Scope,
    make_async_container,
    make_container,
    provide,
)
from dishka.exception_base import DishkaError
from dishka.integrations.fastapi import FastapiProvider
from dishka.integrations.starlette import StarletteProvider
from fastapi import Depends
from fastapi import Request as FastAPIRequest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.requests import Request
from starlette.websockets import WebSocket

from asgi_jobs import (
    AmbiguousArgument,
    InvalidCall,
    InvalidOption,
    InvalidOptionType,
    Job,
    Jobs,
    JobState,
    RequestBound,
    current_job,
)

P = ParamSpec("P")
R = TypeVar("R")
LONG = timedelta(seconds=8)
SOON = timedelta(milliseconds=1)


class OwnSession(AsyncSession):
    """A session class of the application's own."""


class Sender:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def send(self, to: str, subject: str = "") -> tuple[str, str]:
        return to, subject

    def send_in_thread(self, to: str) -> tuple[str, str]:
        return to, threading.current_thread().name

    async def with_session(self, session: AsyncSession, to: str) -> tuple[type, str]:
        return type(session), to

    @staticmethod
    async def static(to: str) -> str:
        return f"static {to}"

    @classmethod
    async def of_class(cls, to: str) -> tuple[type, str]:
        return cls, to


class Loud(Sender):
    async def send(self, to: str, subject: str = "") -> tuple[str, str]:
        return to.upper(), subject


class Notifier(Protocol):
    async def notify(self, text: str) -> str: ...


class Port(ABC):
    @abstractmethod
    async def fetch(self, number: int) -> str: ...


class PortOfOurs(Port):
    async def fetch(self, number: int) -> str:
        return f"ours {number}"


class MailNotifier:
    async def notify(self, text: str) -> str:
        return f"mail {text}"


class Repository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session


class Both:
    """A composite service."""

    def __init__(self, sender: Sender, repository: Repository) -> None:
        self.sender = sender
        self.repository = repository


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    yield engine
    checked_out = engine.pool.checkedout()  # type: ignore[attr-defined]
    await engine.dispose()
    assert checked_out == 0


def services(*more: Any) -> Provider:
    provider = Provider(scope=Scope.REQUEST)
    for service in (Sender, *more):
        provider.provide(service)
    return provider


@pytest.fixture
async def jobs(db: AsyncEngine) -> AsyncIterator[Jobs]:
    """A Jobs with a session and with services."""
    provider = services(Repository, Both)
    provider.provide(MailNotifier, provides=Notifier)
    provider.provide(PortOfOurs, provides=Port)
    maker = async_sessionmaker(db, class_=OwnSession)
    async with Jobs(session_factory=maker, providers=[provider], authorize="local") as started:
        yield started


async def value_of(job: Job) -> Any:
    return await job.result(LONG)


def with_future_annotations(source: str, **names: Any) -> dict[str, Any]:
    """A module's names, compiled under `from __future__ import annotations`."""
    flags = __future__.annotations.compiler_flag
    namespace: dict[str, Any] = {"__name__": "a_module", **names}
    exec(compile(source, "a_module.py", "exec", flags=flags, dont_inherit=True), namespace)
    return namespace


# Binding


async def test_the_first_argument_fills_the_first_parameter_that_is_not_injected(jobs: Jobs) -> None:
    async def first(session: AsyncSession, number: int) -> tuple[type, int]:
        return type(session), number

    async def last(number: int, session: AsyncSession) -> tuple[type, int]:
        return type(session), number

    async def between(
        a: int, session: AsyncSession, b: int, sender: Sender, c: int
    ) -> tuple[type, type, int, int, int]:
        return type(session), type(sender), a, b, c

    assert await value_of(jobs.enqueue(first, 42)) == (OwnSession, 42)
    assert await value_of(jobs.enqueue(last, 42)) == (OwnSession, 42)
    assert await value_of(jobs.enqueue(between, 1, 2, 3)) == (OwnSession, Sender, 1, 2, 3)
    assert await value_of(jobs.enqueue(between, 1, c=3, b=2)) == (OwnSession, Sender, 1, 2, 3)


async def test_an_injected_parameter_may_be_given_by_keyword(jobs: Jobs) -> None:
    async def use(sender: Sender, to: str) -> tuple[Sender, str]:
        return sender, to

    own = Loud()
    assert await value_of(jobs.enqueue(use, "ada", sender=own)) == (own, "ada")
    assert await value_of(jobs.enqueue(use, to="ada", sender=own)) == (own, "ada")
    given, _ = await value_of(jobs.enqueue(use, "ada"))
    assert type(given) is Sender


async def test_an_injected_parameter_given_by_keyword_beside_an_injected_one(jobs: Jobs) -> None:
    async def use(session: AsyncSession, sender: Sender, to: str) -> tuple[type, Sender, str]:
        return type(session), sender, to

    own = Loud()
    assert await value_of(jobs.enqueue(use, "ada", sender=own)) == (OwnSession, own, "ada")


async def test_nothing_is_opened_for_what_the_caller_gave(db: AsyncEngine) -> None:
    asked = []

    class Service:
        pass

    def make() -> Service:
        asked.append(1)
        return Service()

    async def use(service: Service) -> Service:
        return service

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(make)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        own = Service()
        assert await value_of(jobs.enqueue(use, service=own)) is own
    assert asked == []


async def test_builtins_are_never_injected_unless_marked() -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: "provided", provides=str)
    provider.provide(lambda: {"provided": 1}, provides=dict[str, int])

    async def plain(text: str) -> str:
        return text

    async def mapping(numbers: dict[str, int]) -> dict[str, int]:
        return numbers

    async def marked(text: FromDishka[str], numbers: FromDishka[dict[str, int]]) -> tuple[str, dict[str, int]]:
        return text, numbers

    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(plain, "given")) == "given"
        assert await value_of(jobs.enqueue(mapping, {})) == {}
        assert await value_of(jobs.enqueue(marked)) == ("provided", {"provided": 1})
        with pytest.raises(InvalidCall, match="text"):
            jobs.enqueue(plain)


async def test_parameters_with_a_default_are_never_injected_unless_marked(jobs: Jobs) -> None:
    async def plain(sender: Sender | None = None, other: Sender = None) -> tuple[Any, Any]:  # type: ignore[assignment]
        return sender, other

    async def marked(sender: FromDishka[Sender] = None) -> type:  # type: ignore[assignment]
        return type(sender)

    assert await value_of(jobs.enqueue(plain)) == (None, None)
    assert await value_of(jobs.enqueue(marked)) is Sender


async def test_annotated_with_depends_counts_as_the_session(jobs: Jobs) -> None:
    async def get_session() -> AsyncSession:
        raise AssertionError("FastAPI's, not ours")

    async def use(session: Annotated[AsyncSession, Depends(get_session)], n: int) -> tuple[type, int]:
        return type(session), n

    assert await value_of(jobs.enqueue(use, 1)) == (OwnSession, 1)


async def test_a_default_of_depends_counts_as_what_it_stands_for(jobs: Jobs) -> None:
    async def get_session() -> AsyncSession:
        raise AssertionError("FastAPI's, not ours")

    async def use(n: int, session: AsyncSession = Depends(get_session)) -> tuple[type, int]:
        return type(session), n

    async def nothing_gives_it(n: int = Depends(get_session)) -> None: ...

    assert await value_of(jobs.enqueue(use, 1)) == (OwnSession, 1)
    with pytest.raises(InvalidCall, match=r"'n' is a Depends"):
        jobs.enqueue(nothing_gives_it)


async def test_the_factorys_own_session_class_counts_alike(jobs: Jobs) -> None:
    async def use(session: OwnSession, same: AsyncSession) -> bool:
        return type(session) is OwnSession and same is session

    assert await value_of(jobs.enqueue(use)) is True


async def test_a_session_that_nobody_provides_is_named() -> None:
    async def use(session: AsyncSession) -> None: ...

    async def use_sync(session: Session) -> None: ...

    async with Jobs(authorize="local") as jobs:
        with pytest.raises(InvalidCall, match="session_factory"):
            jobs.enqueue(use)
        with pytest.raises(InvalidCall, match="session_factory"):
            jobs.task(use_sync)


async def test_a_service_that_nobody_provides_is_an_ordinary_parameter_unless_marked(jobs: Jobs) -> None:
    class Unknown:
        pass

    async def plain(thing: Unknown) -> Unknown:
        return thing

    async def marked(thing: FromDishka[Unknown]) -> None: ...

    own = Unknown()
    assert await value_of(jobs.enqueue(plain, own)) is own
    with pytest.raises(InvalidCall, match="Unknown"):
        jobs.enqueue(marked)


async def test_a_missing_argument_fails_at_the_call_and_tells_what_is_injected(jobs: Jobs) -> None:
    async def use(session: AsyncSession, number: int) -> None: ...

    with pytest.raises(InvalidCall, match=r"number.*session is injected"):
        jobs.enqueue(use)
    with pytest.raises(InvalidCall, match="too many"):
        jobs.enqueue(use, 1, 2)
    with pytest.raises(InvalidCall, match="colour"):
        jobs.enqueue(use, 1, colour="red")
    assert sum((await jobs.counts()).values()) == 0


# Annotations


async def test_future_annotations_are_resolved(jobs: Jobs) -> None:
    source = """
async def use(session: AsyncSession, sender: Sender, number: int) -> tuple:
    return type(session), type(sender), number
"""
    use = with_future_annotations(source, AsyncSession=AsyncSession, Sender=Sender)["use"]
    assert await value_of(jobs.enqueue(use, 3)) == (OwnSession, Sender, 3)


async def test_an_annotation_that_cannot_be_resolved_is_named(jobs: Jobs) -> None:
    source = """
async def use(session: AsyncSession, sender: NotImported, number: int) -> None: ...
async def with_return(number: int) -> NotImported: return number
"""
    names = with_future_annotations(source, AsyncSession=AsyncSession)
    with pytest.raises(InvalidCall, match=r"'NotImported' of parameter 'sender' of use\(\).*TYPE_CHECKING"):
        jobs.enqueue(names["use"], 3)
    with pytest.raises(InvalidCall, match=r"parameter 'sender' of use\(\)"):
        jobs.task(names["use"])
    assert await value_of(jobs.enqueue(names["with_return"], 3)) == 3


async def test_local_classes_are_found_through_the_closure() -> None:
    source = """
def make():
    class Local:
        def __init__(self) -> None:
            self.word = "local"
    async def use(local: Local) -> str:
        return local.word if isinstance(local, Local) else "wrong"
    return Local, use
"""
    local, use = with_future_annotations(source)["make"]()
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(local)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use)) == "local"


async def test_functions_of_one_code_with_different_annotations_do_not_meet() -> None:
    class One:
        pass

    class Two:
        pass

    def make(cls: type) -> Callable[..., Awaitable[type]]:
        async def use(service: cls) -> type:  # type: ignore[valid-type]
            return type(service)

        return use

    async with Jobs(providers=[services(One, Two)], authorize="local") as jobs:
        for cls in (One, Two, One):
            assert await value_of(jobs.enqueue(make(cls))) is cls


# Methods of services


async def test_a_method_is_called_on_what_the_scope_gave(jobs: Jobs) -> None:
    assert await value_of(jobs.enqueue(Sender.send, "ada", subject="hi")) == ("ada", "hi")
    to, thread = await value_of(jobs.enqueue(Sender.send_in_thread, "ada"))
    assert to == "ada"
    assert thread.startswith("asgi_jobs")


async def test_a_method_may_ask_for_more_than_its_service(jobs: Jobs) -> None:
    assert await value_of(jobs.enqueue(Sender.with_session, "ada")) == (OwnSession, "ada")
    assert await value_of(jobs.enqueue_with(Sender, "with_session", "ada")) == (OwnSession, "ada")


async def test_a_method_of_an_interface_is_found_by_name(jobs: Jobs) -> None:
    assert await value_of(jobs.enqueue(Notifier.notify, "hello")) == "mail hello"
    assert await value_of(jobs.enqueue(Port.fetch, 3)) == "ours 3"
    assert await value_of(jobs.enqueue_with(Notifier, "notify", "hello")) == "mail hello"
    assert await value_of(jobs.enqueue_with(Port, "fetch", number=3)) == "ours 3"


async def test_a_method_is_that_of_the_instance_that_the_factory_chose() -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Loud, provides=Sender)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(Sender.send, "ada")) == ("ADA", "")
        assert await value_of(jobs.enqueue_with(Sender, "send", "ada")) == ("ADA", "")


async def test_an_inherited_method_is_found() -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Loud)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        to, _ = await value_of(jobs.enqueue(Loud.send_in_thread, "ada"))
        assert to == "ada"


async def test_methods_of_a_local_class() -> None:
    class Local:
        def __init__(self) -> None:
            self.word = "local"

        async def say(self, to: str) -> str:
            return f"{self.word} {to}"

    async with Jobs(providers=[services(Local)], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(Local.say, "ada")) == "local ada"


async def test_a_method_whose_interface_is_sync_and_whose_service_is_async_and_the_other_way() -> None:
    class Interface:
        def wait(self) -> Any:
            raise NotImplementedError

        async def go(self) -> Any:
            raise NotImplementedError

    class Service(Interface):
        async def wait(self) -> Any:
            return asyncio.current_task() is not None

        def go(self) -> Any:
            return "went"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(Service, provides=Interface)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(Interface.wait)) is True
        assert await value_of(jobs.enqueue(Interface.go)) == "went"


async def test_static_and_class_methods_are_plain_functions(jobs: Jobs) -> None:
    assert await value_of(jobs.enqueue(Sender.static, "ada")) == "static ada"
    assert await value_of(jobs.enqueue(Sender.of_class, "ada")) == (Sender, "ada")
    assert await value_of(jobs.enqueue_with(Sender, "static", "ada")) == "static ada"
    assert await value_of(jobs.enqueue_with(Sender, "of_class", "ada")) == (Sender, "ada")


async def test_a_method_of_a_class_that_nobody_provides_is_refused(jobs: Jobs) -> None:
    class Unknown:
        async def go(self) -> None: ...

    with pytest.raises(InvalidCall, match=r"nothing provides Unknown.*provide\(Unknown\)"):
        jobs.enqueue(Unknown.go)


async def test_a_method_that_several_services_inherit_is_refused() -> None:
    class Base:
        async def go(self) -> str:
            return type(self).__name__

    class One(Base):
        pass

    class Two(Base):
        pass

    async with Jobs(providers=[services(One, Two)], authorize="local") as jobs:
        with pytest.raises(InvalidCall, match="enqueue_with"):
            jobs.enqueue(One.go)
        assert await value_of(jobs.enqueue_with(Two, "go")) == "Two"


# enqueue_with


async def test_enqueue_with_a_lambda_a_function_and_a_method(jobs: Jobs) -> None:
    async def use(sender: Sender, to: str, *, subject: str = "") -> tuple[str, str]:
        return await sender.send(to, subject)

    def use_in_thread(sender: Sender, to: str) -> str:
        return sender.send_in_thread(to)[1]

    to = "ada"
    assert await value_of(jobs.enqueue_with(Sender, lambda sender: sender.send(to))) == ("ada", "")
    assert await value_of(jobs.enqueue_with(Sender, use, to, subject="hi")) == ("ada", "hi")
    assert await value_of(jobs.enqueue_with(Sender, "send", to, subject="hi")) == ("ada", "hi")
    assert (await value_of(jobs.enqueue_with(Sender, use_in_thread, to))).startswith("asgi_jobs")
    assert type(await value_of(jobs.enqueue_with(AsyncSession, lambda session: session))) is OwnSession


async def test_enqueue_with_takes_options(jobs: Jobs) -> None:
    job = jobs.enqueue_with(Sender, lambda sender: sender.send("ada"), queue="email", name="to Ada")
    assert (job.queue, job.name) == ("email", "to Ada")
    job = jobs.using(queue="email", name="by name").enqueue_with(Sender, "send", "ada")
    assert (job.queue, job.name) == ("email", "by name")
    assert await value_of(job) == ("ada", "")


async def test_enqueue_with_names_the_job_after_what_it_calls(jobs: Jobs) -> None:
    job = jobs.enqueue_with(Sender, "send", "ada")
    assert job.name == "Sender.send"
    assert job.task.endswith(":Sender.send")
    await job.wait(LONG)


async def test_enqueue_with_injects_further_parameters(jobs: Jobs) -> None:
    async def use(sender: Sender, session: AsyncSession, to: str) -> tuple[type, type, str]:
        return type(sender), type(session), to

    assert await value_of(jobs.enqueue_with(Sender, use, "ada")) == (Sender, OwnSession, "ada")


async def test_enqueue_with_a_function_of_any_arguments(jobs: Jobs) -> None:
    async def use(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return (type(args[0]), *args[1:], kwargs)

    assert await value_of(jobs.enqueue_with(Sender, use, 1, 2, colour="red")) == (Sender, 1, 2, {"colour": "red"})


async def test_enqueue_with_refuses_what_cannot_work(jobs: Jobs) -> None:
    class Unknown:
        pass

    async def nothing() -> None: ...

    with pytest.raises(InvalidCall, match="Unknown"):
        jobs.enqueue_with(Unknown, lambda it: it)
    with pytest.raises(InvalidOption, match="no method 'sned'"):
        jobs.enqueue_with(Sender, "sned", "ada")
    with pytest.raises(InvalidCall, match="no argument"):
        jobs.enqueue_with(Sender, nothing)
    with pytest.raises((InvalidOption, InvalidCall), match="target"):
        jobs.enqueue_with(Sender, 5)  # type: ignore[arg-type]
    with pytest.raises((InvalidOption, InvalidCall), match="provides"):
        jobs.enqueue_with([], "send")
    with pytest.raises(InvalidCall, match="to"):
        jobs.enqueue_with(Sender, "send")
    assert sum((await jobs.counts()).values()) == 0


async def test_enqueue_with_a_generic_service() -> None:
    T = TypeVar("T")

    class Store(Generic[T]):
        async def add(self, item: T) -> str:
            return f"{type(self).__name__} {item}"

    class IntStore(Store[int]):
        pass

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(IntStore, provides=Store[int])
    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue_with(Store[int], "add", 3)) == "IntStore 3"
        assert await value_of(jobs.enqueue_with(Store[int], lambda store: store.add(4))) == "IntStore 4"


async def test_a_service_known_by_a_new_type() -> None:
    Token = NewType("Token", str)
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: Token("secret"), provides=Token)

    async def use(token: FromDishka[Token]) -> str:
        return token

    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use)) == "secret"


# Services


async def test_a_composite_service_names_what_it_needs(jobs: Jobs) -> None:
    async def use(both: Both, session: AsyncSession) -> tuple[type, bool]:
        return type(both.sender), both.repository.session is session

    assert await value_of(jobs.enqueue(use)) == (Sender, True)


async def test_services_of_scope_app_live_as_long_as_the_start_and_others_as_an_attempt() -> None:
    class Longer:
        pass

    provider = services()
    provider.provide(Longer, scope=Scope.APP)

    async def use(longer: Longer, sender: Sender) -> tuple[Longer, Sender]:
        return longer, sender

    jobs = Jobs(providers=[provider], authorize="local")
    async with jobs:
        longer, sender = await value_of(jobs.enqueue(use))
        longer_again, sender_again = await value_of(jobs.enqueue(use))
        assert longer is longer_again
        assert sender is not sender_again
    async with jobs:
        assert (await value_of(jobs.enqueue(use)))[0] is not longer


async def test_components_of_dishka() -> None:
    class Clock:
        def __init__(self, name: str) -> None:
            self.name = name

    class Here(Provider):
        scope = Scope.REQUEST

        @provide
        def clock(self) -> Clock:
            return Clock("here")

    class There(Provider):
        scope = Scope.REQUEST
        component = "there"

        @provide
        def clock(self) -> Clock:
            return Clock("there")

        @provide
        def sender(self) -> Sender:
            return Loud()

    async def use(here: Clock, there: Annotated[Clock, FromComponent("there")], word: str) -> tuple[str, str, str]:
        return here.name, there.name, word

    async def only_there(sender: Annotated[Sender, FromComponent("there")]) -> type:
        return type(sender)

    async def nowhere(sender: Annotated[Sender, FromComponent("elsewhere")]) -> None: ...

    async with Jobs(providers=[Here(), There()], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use, "word")) == ("here", "there", "word")
        assert await value_of(jobs.enqueue(only_there)) is Loud
        with pytest.raises(InvalidCall, match="Sender"):
            jobs.enqueue(nowhere)


async def test_a_session_of_a_component_is_not_the_session_factorys(db: AsyncEngine) -> None:
    other = AsyncSession(db, info={"other": True})
    provider = Provider(scope=Scope.APP, component="other")
    provider.provide(lambda: other, provides=AsyncSession)

    async def use(session: AsyncSession, of_component: Annotated[AsyncSession, FromComponent("other")]) -> bool:
        return "other" not in session.info and "other" in of_component.info

    maker = async_sessionmaker(db)
    async with Jobs(session_factory=maker, providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use)) is True
    await other.close()


async def test_the_applications_own_container_is_used_and_never_closed(db: AsyncEngine) -> None:
    closed = []

    async def resource() -> AsyncIterator[Sender]:
        yield Sender()
        closed.append("resource")

    provider = Provider(scope=Scope.APP)
    provider.provide(resource)
    container: AsyncContainer = make_async_container(provider)
    jobs = Jobs(container=container, session_factory=async_sessionmaker(db), authorize="local")

    async def use(sender: Sender, session: AsyncSession) -> Sender:
        return sender

    for _ in range(2):
        async with jobs:
            assert await value_of(jobs.enqueue(use)) is await container.get(Sender)
    assert closed == []
    await container.close()
    assert closed == ["resource"]


async def test_providers_and_container_together_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"providers.*container"):
        Jobs(providers=[services()], container=make_async_container(services()))


async def test_a_provider_of_the_session_beside_a_session_factory_is_refused(db: AsyncEngine) -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: AsyncSession(db), provides=AsyncSession)
    with pytest.raises(InvalidOption, match="session_factory"):
        Jobs(session_factory=async_sessionmaker(db), providers=[provider])


async def test_further_ways_in_which_dishka_provides() -> None:
    class Config:
        pass

    class Words:
        def __init__(self) -> None:
            self.words = ["plain"]

    def decorated(words: Words) -> Words:
        words.words.append("decorated")
        return words

    config = Config()
    provider = services()
    provider.provide(PortOfOurs, provides=AnyOf[Port, PortOfOurs])
    provider.provide(MailNotifier)
    provider.alias(source=MailNotifier, provides=Notifier)
    provider.provide(Words)
    provider.decorate(decorated)
    provider.from_context(provides=Config, scope=Scope.APP)
    container = make_async_container(provider, context={Config: config})

    async def use(
        port: Port, same: PortOfOurs, notifier: Notifier, config: Config, words: Words, own: AsyncContainer
    ) -> tuple[Any, ...]:
        return port is same, type(notifier), config, words.words, own.scope

    async with Jobs(container=container, authorize="local") as jobs:
        got = await value_of(jobs.enqueue(use))
        assert got == (True, MailNotifier, config, ["plain", "decorated"], Scope.REQUEST)
        assert await value_of(jobs.enqueue(PortOfOurs.fetch, 1)) == "ours 1"
        assert await value_of(jobs.enqueue(Notifier.notify, "x")) == "mail x"
    await container.close()


async def test_other_marks_in_annotated_do_not_matter(jobs: Jobs) -> None:
    async def use(sender: Annotated[Sender, "a note"], number: Annotated[int, Depends()]) -> tuple[type, int]:
        return type(sender), number

    assert await value_of(jobs.enqueue(use, 3)) == (Sender, 3)


async def test_a_service_of_scope_app_that_wants_a_session_is_refused_at_once(db: AsyncEngine) -> None:
    provider = Provider(scope=Scope.APP)
    provider.provide(Repository)
    with pytest.raises(DishkaError, match="AsyncSession"):
        Jobs(session_factory=async_sessionmaker(db), providers=[provider])


def test_a_container_for_sync_code_is_refused() -> None:
    with pytest.raises(InvalidOptionType, match=r"container.*make_async_container"):
        Jobs(container=make_container(services()))  # type: ignore[arg-type]


# What belongs to a request


async def test_a_request_is_refused_when_declared_and_when_enqueued(jobs: Jobs) -> None:
    async def starlettes(request: Request) -> None: ...

    async def fastapis(number: int, request: FastAPIRequest) -> None: ...

    async def socket(websocket: WebSocket) -> None: ...

    def in_thread(request: Request) -> None: ...

    for function in (starlettes, fastapis, socket, in_thread):
        with pytest.raises(RequestBound, match="ask for a"):
            jobs.task(function)
        with pytest.raises(RequestBound, match="ask for a"):
            jobs.enqueue(function)
    assert sum((await jobs.counts()).values()) == 0


@pytest.mark.parametrize("integration", [StarletteProvider, FastapiProvider])
async def test_a_service_that_reaches_a_request_is_refused_and_the_way_is_named(integration: type[Provider]) -> None:
    class User:
        def __init__(self, request: Request) -> None:
            self.request = request

    class Mailer:
        def __init__(self, user: User) -> None:
            self.user = user

        async def send(self) -> None: ...

    async def use(mailer: Mailer) -> None: ...

    async with Jobs(providers=[services(User, Mailer), integration()], authorize="local") as jobs:
        with pytest.raises(RequestBound, match="Mailer → User → Request"):
            jobs.enqueue(use)
        with pytest.raises(RequestBound, match="Mailer → User → Request"):
            jobs.task(use)
        with pytest.raises(RequestBound, match="Mailer → User → Request"):
            jobs.enqueue(Mailer.send)
        with pytest.raises(RequestBound, match="Mailer → User → Request"):
            jobs.enqueue_with(Mailer, lambda mailer: mailer.send())
        with pytest.raises(RequestBound, match="Mailer → User → Request"):
            jobs.enqueue_with(Mailer, "send")


async def test_a_container_that_knows_requests_gives_what_needs_none() -> None:
    container = make_async_container(services(), StarletteProvider())

    async def use(sender: Sender) -> type:
        return type(sender)

    async with Jobs(container=container, authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use)) is Sender
    await container.close()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


async def test_a_closure_over_an_orm_object_is_refused_with_the_mended_line(jobs: Jobs, db: AsyncEngine) -> None:
    async with AsyncSession(db) as session:
        user = User(id=1, email="ada@example.com")
        session.add(user)
        with pytest.raises(RequestBound, match=r"jobs\.enqueue_with\(Sender, lambda sender, email=user\.email: sender"):
            jobs.enqueue_with(Sender, lambda sender: sender.send(user.email))
        with pytest.raises(RequestBound, match=r"jobs\.enqueue_with\(Sender, 'send', to\.id\)"):
            jobs.enqueue_with(Sender, "send", user)
        with pytest.raises(RequestBound, match=r"jobs\.enqueue\(Sender\.send, to\.id\)"):
            jobs.enqueue(Sender.send, user)
        email = user.email
        job = jobs.enqueue_with(Sender, lambda sender: sender.send(email))
    assert await value_of(job) == ("ada@example.com", "")


async def test_a_session_passed_by_keyword_is_refused(jobs: Jobs, db: AsyncEngine) -> None:
    async def use(session: AsyncSession) -> None: ...

    async with AsyncSession(db) as session:
        with pytest.raises(RequestBound, match=r"AsyncSession.*jobs\.enqueue\(use\)"):
            jobs.enqueue(use, session=session)


# Async sessions and threads


async def test_a_sync_function_that_asks_for_an_async_session_is_refused(jobs: Jobs) -> None:
    def use(session: AsyncSession) -> None: ...

    def use_own(session: OwnSession) -> None: ...

    for function in (use, use_own):
        with pytest.raises(InvalidCall, match="event loop"):
            jobs.task(function)
        with pytest.raises(InvalidCall, match="event loop"):
            jobs.enqueue(function)
    assert sum((await jobs.counts()).values()) == 0


async def test_a_sync_function_that_asks_for_a_containers_async_session_is_refused(db: AsyncEngine) -> None:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: AsyncSession(db), provides=AsyncSession)
    container = make_async_container(provider)

    def use(session: AsyncSession) -> None: ...

    async with Jobs(container=container, authorize="local") as jobs:
        with pytest.raises(InvalidCall, match="event loop"):
            jobs.enqueue(use)
    await container.close()


# All kinds of callables


async def test_positional_only_parameters(jobs: Jobs) -> None:
    async def use(session: AsyncSession, number: int, /, sender: Sender, other: int) -> tuple[type, int, type, int]:
        return type(session), number, type(sender), other

    assert await value_of(jobs.enqueue(use, 1, 2)) == (OwnSession, 1, Sender, 2)
    assert await value_of(jobs.enqueue(use, 1, other=2)) == (OwnSession, 1, Sender, 2)
    with pytest.raises(InvalidCall, match="number"):
        jobs.enqueue(use, number=1, other=2)


async def test_functions_of_any_arguments(jobs: Jobs) -> None:
    async def use(session: AsyncSession, *args: int, sender: Sender, **kwargs: int) -> tuple[Any, ...]:
        return type(session), args, type(sender), kwargs

    async def plain(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return args, kwargs

    assert await value_of(jobs.enqueue(use, 1, 2, a=3)) == (OwnSession, (1, 2), Sender, {"a": 3})
    assert await value_of(jobs.enqueue(use)) == (OwnSession, (), Sender, {})
    assert await value_of(jobs.enqueue(plain, 1, 2, a=3)) == ((1, 2), {"a": 3})


async def test_keyword_only_parameters(jobs: Jobs) -> None:
    async def use(*, session: AsyncSession, number: int) -> tuple[type, int]:
        return type(session), number

    assert await value_of(jobs.enqueue(use, number=1)) == (OwnSession, 1)
    with pytest.raises(InvalidCall, match="number"):
        jobs.enqueue(use)
    with pytest.raises(InvalidCall, match="positional"):
        jobs.enqueue(use, 1)


async def test_partials(jobs: Jobs) -> None:
    async def use(session: AsyncSession, a: int, b: int = 0, *, c: int = 0) -> tuple[type, int, int, int]:
        return type(session), a, b, c

    for _ in range(2):
        assert await value_of(jobs.enqueue(partial(use, c=3), 1, 2)) == (OwnSession, 1, 2, 3)
        assert await value_of(jobs.enqueue(partial(use, a=1))) == (OwnSession, 1, 0, 0)
    with pytest.raises(InvalidCall):
        jobs.enqueue(partial(use, c=3))


async def test_partials_of_one_function_with_different_arguments_do_not_meet(jobs: Jobs) -> None:
    async def add(a: int, b: int, c: int = 0) -> int:
        return a + b + c

    assert await value_of(jobs.enqueue(partial(add, 1, 2))) == 3
    assert await value_of(jobs.enqueue(partial(add, 1), 5)) == 6
    assert await value_of(jobs.enqueue(partial(partial(add, 1), 5), 1)) == 7
    assert await value_of(jobs.enqueue(partial(add, b=1), 5)) == 6


async def test_bound_methods(jobs: Jobs) -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.value = start

        async def add(self, sender: Sender, number: int) -> tuple[type, int]:
            return type(sender), self.value + number

        def sync(self) -> str:
            return threading.current_thread().name

    assert await value_of(jobs.enqueue(Counter(1).add, 2)) == (Sender, 3)
    assert await value_of(jobs.enqueue(Counter(5).add, 2)) == (Sender, 7)
    assert (await value_of(jobs.enqueue(Counter(5).sync))).startswith("asgi_jobs")


class Called:
    async def __call__(self, sender: Sender, number: int) -> tuple[type, int]:
        return type(sender), number


@dataclass
class Record:
    """Unhashable, and its class has annotations of its own."""

    factor: int

    async def __call__(self, sender: Sender, number: int) -> tuple[type, int]:
        return type(sender), number * self.factor


class SyncCallable:
    def __call__(self, number: int) -> tuple[str, int]:
        return threading.current_thread().name, number


class Inherits(Called):
    pass


async def test_callable_objects(jobs: Jobs) -> None:
    assert await value_of(jobs.enqueue(Called(), 1)) == (Sender, 1)
    assert await value_of(jobs.enqueue(Inherits(), 2)) == (Sender, 2)
    assert await value_of(jobs.enqueue(Record(3), 2)) == (Sender, 6)
    thread, number = await value_of(jobs.enqueue(SyncCallable(), 4))
    assert (thread.startswith("asgi_jobs"), number) == (True, 4)


async def test_builtins(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    await value_of(jobs.enqueue(print, "hello", "you"))
    assert capsys.readouterr().out == "hello you\n"
    await value_of(jobs.enqueue(asyncio.sleep, 0))
    numbers: list[int] = []
    await value_of(jobs.enqueue(numbers.append, 1))
    assert numbers == [1]
    assert await value_of(jobs.enqueue(str.upper, "a")) == "A"
    assert await value_of(jobs.enqueue(str.split, "a b", " ")) == ["a", "b"]
    assert await value_of(jobs.enqueue(int, "7")) == 7
    assert await value_of(jobs.enqueue(max, 1, 2)) == 2


async def test_cached_functions_do_not_meet(jobs: Jobs) -> None:
    @functools.cache
    def one(a: int) -> int:
        return a

    @functools.cache
    def two(a: int, b: int) -> int:
        return a + b

    assert await value_of(jobs.enqueue(one, 1)) == 1
    assert await value_of(jobs.enqueue(two, 1, 2)) == 3
    job = jobs.enqueue(two, 1, 2)
    assert job.name == "two"
    await job.wait(LONG)


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator as everybody writes it: its wrapper is a plain function, whatever it wraps."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


def async_traced(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return await function(*args, **kwargs)

    return wrapper


async def test_decorated_functions(jobs: Jobs) -> None:
    @async_traced
    async def use(session: AsyncSession, number: int) -> tuple[type, int]:
        return type(session), number

    @traced
    def in_thread(sender: Sender, number: int) -> tuple[type, int, str]:
        return type(sender), number, threading.current_thread().name

    assert await value_of(jobs.enqueue(use, 1)) == (OwnSession, 1)
    cls, number, thread = await value_of(jobs.enqueue(in_thread, 1))
    assert (cls, number, thread.startswith("asgi_jobs")) == (Sender, 1, True)


async def test_a_sync_wrapper_of_an_async_function_may_ask_for_an_async_session(jobs: Jobs) -> None:
    @traced
    async def use(session: AsyncSession, number: int) -> tuple[type, int, Any]:
        return type(session), number, asyncio.current_task()

    cls, number, task = await value_of(jobs.enqueue(use, 1))
    assert (cls, number) == (OwnSession, 1)
    assert task is not None


async def test_local_functions_of_one_decorator_do_not_meet(jobs: Jobs) -> None:
    @traced
    def one(a):  # type: ignore[no-untyped-def]
        return a

    @traced
    def two(a, b):  # type: ignore[no-untyped-def]
        return a + b

    assert await value_of(jobs.enqueue(one, 1)) == 1
    job = jobs.enqueue(two, 1, 2)
    assert await value_of(job) == 3
    assert job.name == "two"


async def test_a_decorated_functions_local_classes_are_found() -> None:
    source = """
def make(decorate):
    class Local:
        pass
    @decorate
    async def use(local: Local) -> bool:
        return isinstance(local, Local)
    return Local, use
"""
    local, use = with_future_annotations(source)["make"](async_traced)
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(local)
    async with Jobs(providers=[provider], authorize="local") as jobs:
        assert await value_of(jobs.enqueue(use)) is True


class Report:
    def __init__(self, number: int) -> None:
        self.number = number
        self.thread = threading.current_thread().name

    async def __call__(self) -> None:
        raise AssertionError("the class is called, not its instance")


async def test_classes(jobs: Jobs) -> None:
    report = await value_of(jobs.enqueue(Report, 3))
    assert (type(report), report.number) == (Report, 3)
    assert report.thread.startswith("asgi_jobs")
    with pytest.raises(InvalidCall, match="number"):
        jobs.enqueue(Report)


async def test_generators_are_refused(jobs: Jobs) -> None:
    def gen() -> Any:
        yield 1

    async def agen() -> Any:
        yield 1

    class Gen:
        def __call__(self) -> Any:
            yield 1

    class AGen:
        async def __call__(self) -> Any:
            yield 1

        async def method(self) -> Any:
            yield 1

    for function in (gen, agen, partial(gen), Gen(), AGen(), AGen().method):
        with pytest.raises(InvalidCall, match="generator"):
            jobs.enqueue(function)
        with pytest.raises(InvalidCall, match="generator"):
            jobs.task(function)


async def test_a_coroutine_instead_of_a_function_is_refused_without_a_warning(jobs: Jobs) -> None:
    async def use(number: int) -> None: ...

    with pytest.raises(InvalidCall, match="called already"):
        jobs.enqueue(use(1))  # type: ignore[arg-type]  # warnings are errors in these tests
    with pytest.raises(InvalidCall, match="called already"):
        jobs.using(name="x").enqueue(use(1))  # type: ignore[arg-type]
    with pytest.raises((InvalidCall, InvalidOption), match="called already"):
        jobs.enqueue_with(Sender, use(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="called already"):
        jobs.task(use(1))  # type: ignore[call-overload]


async def test_a_lambda_that_returns_a_coroutine_is_awaited(jobs: Jobs) -> None:
    async def use(number: int) -> tuple[int, bool]:
        return number, asyncio.current_task() is not None

    number = 7
    assert await value_of(jobs.enqueue(lambda: use(number))) == (7, True)
    assert await value_of(jobs.enqueue(lambda n: use(n), 8)) == (8, True)  # noqa: PLW0108


# Options that are parameters too


async def test_an_option_that_is_a_parameter_too_is_ambiguous(jobs: Jobs) -> None:
    async def use(name: str, queue: str = "none") -> tuple[str, str]:
        return name, queue

    with pytest.raises(AmbiguousArgument, match=r"using\(name=…\)"):
        jobs.enqueue(use, name="Ada")
    with pytest.raises(AmbiguousArgument, match="queue"):
        jobs.enqueue(use, "Ada", queue="email")
    assert sum((await jobs.counts()).values()) == 0


async def test_an_option_whose_parameter_is_filled_is_the_option(jobs: Jobs) -> None:
    async def use(name: str) -> str:
        return name

    job = jobs.enqueue(use, "Ada", name="for people")
    assert job.name == "for people"
    assert await value_of(job) == "Ada"


async def test_every_option_can_be_ambiguous(jobs: Jobs) -> None:
    async def use(
        timeout: int = 0, retries: int = 0, delay: int = 0, run_at: int = 0, unique: int = 0, on_commit: int = 0
    ) -> None: ...

    for option in ("timeout", "retries", "delay", "run_at", "unique", "on_commit"):
        with pytest.raises(AmbiguousArgument, match=option):
            jobs.enqueue(use, **{option: None})  # type: ignore[arg-type]


async def test_using_tells_options_and_arguments_apart(jobs: Jobs) -> None:
    async def use(name: str, queue: str = "none") -> tuple[str, str]:
        return name, queue

    job = jobs.using(name="for people", queue="email").enqueue(use, name="Ada", queue="argument")
    assert (job.name, job.queue) == ("for people", "email")
    assert await value_of(job) == ("Ada", "argument")
    job = jobs.using().enqueue(use, name="Ada")
    assert (job.name, job.queue) == (job.name, None)
    assert await value_of(job) == ("Ada", "none")


async def test_a_task_tells_them_apart_too(jobs: Jobs) -> None:
    @jobs.task(queue="mail")
    async def use(name: str) -> str:
        return name

    with pytest.raises(AmbiguousArgument, match="name"):
        use.enqueue(name="Ada")
    job = use.using(name="for people").enqueue(name="Ada")
    assert (job.name, job.queue) == ("for people", "mail")
    assert await value_of(job) == "Ada"


# Tasks


async def test_a_task_is_injected_as_a_function_is_and_can_still_be_called(jobs: Jobs, db: AsyncEngine) -> None:
    @jobs.task
    async def use(session: AsyncSession, number: int = 1) -> tuple[type, int]:
        return type(session), number

    assert await value_of(use.enqueue()) == (OwnSession, 1)
    assert await value_of(jobs.enqueue(use, 2)) == (OwnSession, 2)
    async with AsyncSession(db) as session:
        assert await use(session, 3) == (AsyncSession, 3)


async def test_a_method_of_a_service_as_a_task(jobs: Jobs) -> None:
    send = jobs.task(Sender.send)
    assert await value_of(send.enqueue("ada")) == ("ada", "")


async def test_a_task_of_another_jobs_is_refused(jobs: Jobs) -> None:
    other = Jobs(authorize="local")

    @other.task
    async def use() -> None: ...

    with pytest.raises(InvalidCall, match="another Jobs"):
        jobs.enqueue(use)


# Running


async def test_each_attempt_has_a_fresh_empty_context(jobs: Jobs) -> None:
    from contextvars import ContextVar, copy_context

    variable: ContextVar[str] = ContextVar("variable")
    variable.set("the request's")

    async def use() -> str:
        found = variable.get("empty")
        variable.set("the job's")
        return found

    async def injected(sender: Sender) -> str:
        return await use()

    def in_thread() -> tuple[str, int]:
        return variable.get("empty"), len(copy_context())

    for function in (use, injected):
        assert await value_of(jobs.enqueue(function)) == "empty"
    assert (await value_of(jobs.enqueue(in_thread)))[0] == "empty"
    assert variable.get() == "the request's"


async def test_no_step_of_a_job_runs_in_the_callers_stack_whatever_the_task_factory(jobs: Jobs) -> None:
    ran = []

    async def use() -> None:
        ran.append(1)

    async def injected(sender: Sender) -> None:
        ran.append(2)

    loop = asyncio.get_running_loop()
    eager = getattr(asyncio, "eager_task_factory", None)
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return eager(loop, coro, **kwargs) if eager else asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        first, second = jobs.enqueue(use), jobs.enqueue(injected)
        assert ran == []
        await first.wait()
        await second.wait()
    finally:
        loop.set_task_factory(None)
    assert sorted(ran) == [1, 2]
    assert not [coro for coro in made if "asgi_jobs" in getattr(coro, "__qualname__", "")]


async def test_current_job_is_known_in_each_kind_of_job(jobs: Jobs) -> None:
    async def use() -> str:
        return current_job().job.id

    async def injected(sender: Sender) -> str:
        return await asyncio.to_thread(lambda: current_job().job.id)

    def in_thread() -> str:
        return current_job().job.id

    for function in (use, injected, in_thread):
        job = jobs.enqueue(function)
        assert await value_of(job) == job.id


async def test_a_job_with_injected_parameters_can_be_run_again(jobs: Jobs) -> None:
    fail = [True]

    async def use(session: AsyncSession, sender: Sender, number: int) -> tuple[type, int]:
        if fail.pop():
            fail.append(False)
            raise ValueError("once")
        return type(session), number

    job = jobs.enqueue(use, 3)
    await job.wait(LONG)
    assert job.state is JobState.FAILED
    again = await jobs.retry(job.id)
    assert await value_of(again) == (OwnSession, 3)
    assert again.retry_of == job.id
