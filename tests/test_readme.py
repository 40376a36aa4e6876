"""Every example of the README, run as it is printed, and what the text around it claims."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import declarative_base
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser, UnauthenticatedUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from asgi_jobs import Job, Jobs, JobState, events
from asgi_jobs.__main__ import parsers
from tests import postgres
from tests.servers.process import Process
from tests.servers.testclient import TestClient

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
JSON = {"Accept": "application/json"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: under which heading, the how-manieth there, in what language."""

    heading: str
    number: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"readme_{re.sub(r'[^a-z]+', '_', self.heading.lower())}_{self.number}"


def sections() -> dict[str, str]:
    parts = re.split(r"^#{1,2} (.+)$", README, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = sections()
BLOCKS = [
    Block(heading, number, language, code)
    for heading, section in SECTIONS.items()
    for number, (language, code) in enumerate(FENCE.findall(section), 1)
]
PYTHON = {(block.heading, block.number): block for block in BLOCKS if block.language == "python"}
RUN: set[tuple[str, int]] = set()


def example(*places: tuple[str, int]) -> pytest.MarkDecorator:
    """This test runs these blocks: each the so manieth under its heading."""
    RUN.update(places)
    return pytest.mark.parametrize("block", [PYTHON[place] for place in places], ids=lambda block: block.name)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which an example is run; nobody's key is read or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ASGI_JOBS_KEY", raising=False)
    return tmp_path


Load = Callable[[], ModuleType]


@pytest.fixture
def load(block: Block, directory: Path) -> Iterator[Load]:
    """Runs the example as a module of its own: a file with exactly what is printed."""

    def run() -> ModuleType:
        file = directory / f"{block.name}.py"
        file.write_text(block.code)
        spec = importlib.util.spec_from_file_location(block.name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[block.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield run
    sys.modules.pop(block.name, None)


@dataclass(frozen=True)
class Ran:
    """An example that runs a loop of its own, after it has ended."""

    module: ModuleType
    printed: str


@pytest.fixture
async def ran(load: Load, capsys: pytest.CaptureFixture[str]) -> Ran:
    return Ran(await asyncio.to_thread(load), capsys.readouterr().out)


def test_every_python_example_is_run_by_a_test_of_this_file() -> None:
    assert set(PYTHON) == RUN


# The top, and the wiring


@example(("asgi_jobs", 1))
async def test_the_problem_is_one(load: Load) -> None:
    module = load()
    closed = asyncio.Event()
    seen = []

    @asynccontextmanager
    async def sessions() -> AsyncIterator[asyncio.Event]:
        yield closed
        closed.set()

    async def add_user(session: asyncio.Event, request: object) -> str:
        return "Ada"

    async def send_welcome(session: asyncio.Event, user: str) -> None:
        seen.append((user, session.is_set()))

    vars(module).update(asyncio=asyncio, sessions=sessions, add_user=add_user, send_welcome=send_welcome)
    await module.sign_up(None)
    await asyncio.sleep(0)
    assert seen == [("Ada", True)]  # by then the session was closed


@example(("asgi_jobs", 2), ("Wiring", 1), ("Wiring", 3), ("Scopes", 1))
def test_who_signs_up_is_welcomed_by_a_job_that_the_page_shows(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    module = load()
    jobs: Jobs = module.jobs
    with TestClient(module.app) as client:
        answer = client.post("/sign-up?email=ada@example.com")
        assert answer.is_success
        call(client, jobs.join)
        assert capsys.readouterr().out == "Dear ada@example.com, welcome!\n"
        assert client.get("/jobs/").status_code == 403  # closed to whoever has no key
        assert client.get(f"/jobs/?key={jobs.access.key.value}").status_code == 200
        (job,) = client.get("/jobs/jobs", headers=JSON).json()["jobs"]
        assert (job["state"], job["queue"]) == ("succeeded", "email")
        assert answer.json().get("job", job["id"]) == job["id"]


@example(("Scopes", 1))
async def test_the_job_commits_in_a_session_of_its_own(load: Load) -> None:
    module = load()
    with TestClient(module.app) as client:
        assert client.post("/sign-up?email=ada@example.com").json() == {"id": 1}
    async with module.sessions() as session:
        assert await session.scalar(text("SELECT welcomed FROM users WHERE id = 1"))
    await module.engine.dispose()


ASKED = """\
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient
from {module} import {app} as app
from {module} import jobs

with TestClient(app) as client:
    assert client.{ask}("/sign-up?email=ada@example.com").json()["job"]
    client.portal.call(jobs.join)
    assert client.get(f"/jobs/?key={{jobs.access.key.value}}").status_code == 200
"""


@example(("Wiring", 2))
def test_litestar_has_jobs_and_their_page(block: Block, directory: Path) -> None:
    (directory / "shop.py").write_text(block.code)
    (directory / "ask.py").write_text(ASKED.format(module="shop", app="app", ask="post"))
    assert python(directory, "ask.py") == "Dear ada@example.com, welcome!\n"  # it configures logging for all


DJANGO_URLS = """\
from django.http import JsonResponse
from django.urls import path
from mysite.jobs import jobs

def welcome(email):
    print(f"Dear {email}, welcome!")

def sign_up(request):
    return JsonResponse({"job": jobs.enqueue(welcome, request.GET["email"]).id})

urlpatterns = [path("sign-up", sign_up)]
"""


@example(("Wiring", 4))
def test_django_has_jobs_and_their_page(block: Block, directory: Path) -> None:
    site = directory / "mysite"
    site.mkdir()
    (site / "asgi.py").write_text(block.code)
    (site / "jobs.py").write_text("from asgi_jobs import Jobs\n\njobs = Jobs()\n")
    (site / "urls.py").write_text(DJANGO_URLS)
    (site / "settings.py").write_text("ROOT_URLCONF = 'mysite.urls'\nALLOWED_HOSTS = ['*']\nUSE_TZ = True\n")
    (directory / "ask.py").write_text(ASKED.format(module="mysite.asgi", app="application", ask="get"))
    assert python(directory, "-W", "error", "ask.py") == "Dear ada@example.com, welcome!\n"


@example(("Wiring", 5))
def test_what_is_opened_before_the_jobs_is_closed_after_them(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    module = load()
    with TestClient(module.app) as client:
        assert module.jobs.running
        call(client, enqueue, module.jobs, print, "a job")
    assert capsys.readouterr().out == "open the database\na job\nclose the database\n"


# Queues


@example(("Queues", 1))
async def test_jobs_of_one_name_run_in_order_and_others_beside_them(ran: Ran) -> None:
    lines = ran.printed.splitlines()
    assert [line for line in lines if line in {"first", "second", "third"}] == ["first", "second", "third"]
    assert lines.index("alone") < lines.index("second")
    drawn = sorted(await ran.module.jobs.find(queue="thumbnails"), key=lambda job: job.id)
    assert [job.started_at for job in drawn] == sorted(job.started_at for job in drawn)
    assert at_once(drawn) == 4
    assert at_once(await ran.module.jobs.find(queue="report")) == 1


def at_once(jobs: list[Job]) -> int:
    """How many of them ran at the same time, at most; one that starts when another ends does not count."""
    moments = [(at, step) for job in jobs for at, step in ((job.started_at, 1), (job.finished_at, -1)) if at]
    return max(accumulate(step for _, step in sorted(moments)))


def test_the_table_of_options_is_complete() -> None:
    options = inspect.signature(Jobs.enqueue).parameters.values()
    named = {option.name for option in options if option.kind is option.KEYWORD_ONLY}
    assert {cells[0].strip("`") for cells in table("Queues", "option")} == named


# Scopes


@example(("Scopes", 2))
async def test_services_are_found_by_their_types(ran: Ran) -> None:
    assert ran.printed.splitlines() == [
        "Reminder → ada@example.com",
        "reminded",
        "News → ada@example.com",
        "More → ada@example.com",
        "Bye → ada@example.com",
        "onboarding ada@example.com",
        "Welcome → ada@example.com",
    ]


@example(("What may not come along", 1))
async def test_what_belongs_to_a_request_is_refused_with_the_mended_line(ran: Ran) -> None:
    (printed,) = (block.code for block in BLOCKS if block.heading == "What may not come along" and block.number == 2)
    assert ran.printed.split() == printed.split()
    ran.module.engine.dispose()


# Tasks, commits, handles


@example(("Tasks and schedules", 1))
async def test_a_task_is_enqueued_and_called(ran: Ran) -> None:
    assert ran.printed == "report of January\nreport of February\n"
    jobs: Jobs = ran.module.jobs
    report, rates, webhook = await jobs.tasks()
    assert (report.description, report.queue, report.timeout) == ("Write the report.", "reports", timedelta(minutes=5))
    assert report.schedule == "at 03:00 every day, Europe/Berlin"
    assert (rates.schedule, rates.needs_arguments) == ("every 6 h", False)
    assert (webhook.retries, webhook.needs_arguments) == (3, True)
    assert [job.name for job in await jobs.find(queue="reports")] == ["On demand", "nightly_report"]
    assert await jobs.counts() == {**dict.fromkeys(JobState, 0), JobState.SUCCEEDED: 3}


@example(("With the commit", 1))
async def test_a_job_exists_if_and_only_if_its_session_commits(ran: Ran) -> None:
    assert ran.printed == "found 1\n"
    assert len(await ran.module.jobs.find()) == 1


@example(("Inside and outside a job", 1))
async def test_a_job_tells_how_far_it_is_and_what_became_of_it(ran: Ran) -> None:
    assert ran.printed.splitlines() == [
        "Import of Monday is queued",
        "3 rows read read c",
        "ValueError row 2 is empty",
        "cancelled not needed any more",
        "2 1",
    ]


def test_the_kinds_of_events_are_all_of_them() -> None:
    (line,) = re.findall(r"Kinds of events: (.*?)\(", SECTIONS["Inside and outside a job"], re.DOTALL)
    told = {value for name, value in vars(events).items() if name.isupper()}
    assert set(re.findall(r"`(\w+)`", line)) == told


# Databases


@example(("When jobs must not be lost", 1))
async def test_in_a_database_jobs_are_of_the_transaction_and_survive_the_process(ran: Ran) -> None:
    assert sorted(ran.printed.splitlines()) == ["Dear ada@example.com, thank you for order 1", "entries: 1"]
    jobs: Jobs = ran.module.jobs
    async with jobs:  # of another start
        booked, confirmed = sorted(await jobs.find(), key=lambda job: job.task)
        assert (booked.state, confirmed.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
        assert (await booked.result(), booked.queue, confirmed.queue) == (1, "books", "email")


SIGN_UP = """\
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient
from shop import app, jobs

with TestClient(app) as client:
    assert client.post("/sign-up?email=ada@example.com").status_code == 202
    (job,) = client.portal.call(jobs.find)
    print(job.state)
"""


@example(("More than one machine", 1))
@pytest.mark.postgresql
@pytest.mark.processes
def test_what_a_web_process_enqueues_a_worker_runs(
    block: Block, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "shop.py").write_text(block.code)
    (directory / "ask.py").write_text(SIGN_UP)
    (command,) = (line for line in shell_lines() if "asgi_jobs worker" in line)
    with postgres.own_database("readme") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        assert python(directory, "ask.py") == "queued\n"  # nobody runs it there
        monkeypatch.setenv("PYTHONPATH", str(directory))
        with Process(*command.split()[2:]) as worker:
            worker.says("Dear ada@example.com, welcome!")
            assert worker.stop() == 0


@example(("More than one machine", 3))
@pytest.mark.postgresql
async def test_alembic_knows_the_tables_and_they_need_not_be_made(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModuleType("shop.models")
    models.Base = declarative_base()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.models", models)
    target = load().target_metadata
    with postgres.own_database("alembic") as url:
        engine = create_engine(url.replace("asyncpg", "psycopg"))
        with engine.begin() as connection:
            migrate(connection, target)
            assert not compare_metadata(MigrationContext.configure(connection), target)
        engine.dispose()
        async with Jobs(store=url, create_tables=False) as jobs:
            task = jobs.task(print)
            job = await task.enqueue("a job")
            assert (await job.wait(timedelta(seconds=20))).state is JobState.SUCCEEDED


def migrate(connection: Connection, target: Any) -> None:
    """What `alembic revision --autogenerate` and `alembic upgrade head` do."""
    context = MigrationContext.configure(connection)
    steps: list[Any] = [produce_migrations(context, target).upgrade_ops]
    for step in steps:
        if hasattr(step, "ops"):
            steps += step.ops
        else:
            Operations(context).invoke(step)


# The page


@example(("The status page", 1))
async def test_operators_act_others_who_signed_in_look_and_the_rest_see_nothing(load: Load) -> None:
    jobs: Jobs = load().jobs

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any]:
            who = conn.headers.get("x-who", "")
            return AuthCredentials([who]), SimpleUser(who) if who else UnauthenticatedUser()

    middleware = [Middleware(AuthenticationMiddleware, backend=Backend())]
    app = Starlette(routes=[Mount("/jobs", jobs)], middleware=middleware)
    async with jobs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:

        async def asked(who: str) -> tuple[int, int]:
            headers = {**JSON, "x-who": who}
            look = await client.get("/jobs/", headers=headers)
            act = await client.post("/jobs/queues/pause", data={"queue": "email"}, headers=headers)
            return look.status_code, act.status_code

        assert await asked("") == (403, 403)
        assert await asked("customer") == (200, 403)
        assert await asked("operator") == (200, 200)
        page = (await client.get("/jobs/", headers={"x-who": "operator"})).text
        assert "Shop jobs" in page
        assert "production" in page


def served(module: ModuleType, path: str = "") -> httpx.AsyncClient:
    """A visitor of the application, or of its jobs mounted at /jobs where the example is only these."""
    app = getattr(module, "app", None) or Starlette(routes=[Mount("/jobs", module.jobs)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://shop{path}")


@example(("The status page", 2))
async def test_whoever_the_session_knows_as_an_operator_may_see_the_page(
    block: Block, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    monkeypatch.setenv("SECRET_KEY", "signs cookies")
    monkeypatch.setenv("OPERATOR_PASSWORD", "correct horse")
    module = load()
    async with module.jobs, served(module) as client:
        assert (await client.get("/jobs/")).status_code == 403
        for password, status in (("wrong", 403), ("correct horse", 200)):
            answer = await client.post("/log-in", data={"password": password})
            assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/")
            assert (await client.get("/jobs/")).status_code == status
        assert (await client.post("/jobs/queues/pause", data={"queue": "email"})).status_code == 303


@example(("The status page", 3))
async def test_whoever_bears_the_token_may_read(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setenv("JOBS_TOKEN", "t0ken")
    module = load()
    async with module.jobs, served(module, "/jobs") as client:
        for given in ("", "Bearer", "Bearer wrong", "Basic t0ken", "t0ken", "Bearer t0ken t0ken"):
            assert (await client.get("/", headers={**JSON, "authorization": given})).status_code == 403, given
        bears = {**JSON, "authorization": "Bearer t0ken"}
        assert (await client.get("/", headers=bears)).json()["counts"]["queued"] == 0
        assert (await client.post("/queues/pause", data={"queue": "email"}, headers=bears)).status_code == 403


@example(("The status page", 4))
async def test_the_browser_is_made_to_ask_for_name_and_password(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setenv("OPERATOR_PASSWORD", "correct horse")
    module = load()
    async with module.jobs, served(module) as client:
        for path in ("/jobs/", "/jobs/jobs", "/jobs/nothing"):
            asked = await client.get(path)
            assert (asked.status_code, asked.headers["www-authenticate"][:6]) == (401, "Basic ")
        for auth in (("operator", "wrong"), ("other", "correct horse"), ("operator", "")):
            assert (await client.get("/jobs/", auth=auth)).status_code == 401
        for given in ("Basic ???", "Basic", "Bearer b3BlcmF0b3I6Y29ycmVjdCBob3JzZQ=="):
            assert (await client.get("/jobs/", headers={"authorization": given})).status_code == 401
        client.auth = httpx.BasicAuth("operator", "correct horse")
        assert (await client.get("/jobs/")).status_code == 200
        assert (await client.post("/jobs/queues/pause", data={"queue": "email"})).status_code == 303


async def test_the_page_can_be_made_ones_own_as_the_example_shows(directory: Path) -> None:
    (given,) = (block.code for block in BLOCKS if block.language == "jinja")
    (directory / "jobs_templates").mkdir()
    (directory / "jobs_templates" / "base.html").write_text(given)
    jobs = Jobs(authorize=lambda request: True, templates="jobs_templates")
    app = Starlette(routes=[Mount("/jobs", jobs)])
    async with jobs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop/jobs") as client:
        for path in ("/", "/jobs", "/queues", "/tasks", "/jobs/unknown"):
            head, _, body = (await client.get(path)).text.partition("<body")
            assert '<link rel="stylesheet" href="/static/jobs.css">' in head
            assert "Ask the platform team</span>" in body.partition("<footer>")[2]


# Settings


def test_the_settings_are_all_of_them_with_their_defaults() -> None:
    code = {parameter.name: parameter.default for parameter in inspect.signature(Jobs).parameters.values()}
    said = {
        cells[0].strip("`"): eval(cells[1].strip("`"), {"timedelta": timedelta})
        for cells in table("Settings", "setting")
    }
    assert said == code


# Testing


@example(("Testing your jobs", 1))
@pytest.mark.filterwarnings("ignore:Using `httpx` with")
def test_the_test_with_a_test_client_passes(load: Load) -> None:
    load().test_who_signs_up_is_welcomed()


@example(("Testing your jobs", 2))
async def test_the_test_with_a_fake_clock_passes(load: Load) -> None:
    await load().test_a_reminder_comes_after_a_day_and_is_tried_again()


# What is not Python


def test_commands_of_the_shell_examples_exist() -> None:
    lines = [line.split() for line in shell_lines()]
    assert len(lines) == 8
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command, *arguments in lines:
        if command == "make":
            assert set(arguments) <= targets
        elif command == "python":
            assert arguments[:2] == ["-m", "asgi_jobs"]
            parsers()[0].parse_args(arguments[2:])
        elif command != "curl":  # not on every machine; what it asks for is tested above
            assert shutil.which(command, path=str(Path(sys.executable).parent))


def test_links_lead_somewhere() -> None:
    prose = FENCE.sub("", README)
    links = re.findall(r"\]\(([^)]+)\)", prose) + re.findall(r'(?:src|srcset)="([^"]+)"', prose)
    anchors = {"#" + re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS}
    for link in links:
        if link.startswith("#"):
            assert link in anchors
        elif not link.startswith("https://"):
            assert (ROOT / link).is_file(), link


def test_every_runtime_dependency_is_explained() -> None:
    lines = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]\n\n")[0]
    needed = set(re.findall(r'^  "([a-z0-9-]+)', lines, re.MULTILINE))
    assert {
        name for row in table("Dependencies", "package") for name in re.findall(r"\[([a-z0-9-]+)\]", row[0])
    } == needed


# How it is done


def shell_lines() -> list[str]:
    """The commands of the shell examples, without their comments."""
    return [line.partition("  #")[0] for b in BLOCKS if b.language == "sh" for line in b.code.splitlines()]


def table(heading: str, first: str) -> list[list[str]]:
    """The rows of the table under a heading whose first column has this name."""
    rows = [line.strip("|").split(" | ") for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    start = next(index for index, row in enumerate(rows) if row[0].strip() == first)
    return [[cell.strip() for cell in row] for row in rows[start + 2 :]]


def call(client: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call something on the loop of the application."""
    return client.portal.call(function, *args)


async def enqueue(jobs: Jobs, *call: Any) -> None:
    jobs.enqueue(*call)


def python(directory: Path, *arguments: str) -> str:
    """Run Python there; gives what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
