"""The worker command; what it runs, as real processes on a SQLite store."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asgi_jobs.__main__ import main, parsers
from tests.servers.process import ROOT, Process, until

pytestmark = pytest.mark.processes

CREW = "tests.servers.apps.crew"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
SHORT = 2.0
"""The shutdown_timeout, in seconds, of workers whose jobs do not end by themselves."""
LITTLE = timedelta(seconds=SHORT + 6)
"""And when they must have ended, on a busy machine."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that all processes of a test use."""
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("STORE", url)
    return url


def enqueue(*names: str) -> list[str]:
    """Enqueue these jobs in a process that runs none; gives their ids."""
    with Process(CREW, *names) as process:
        assert process.ended() == 0, process.output
        return [line.removeprefix("enqueued ") for line in process.told]


def worker(*more: str, jobs: str = f"{CREW}:jobs", seconds: float = 25) -> Process:
    return Process("asgi_jobs", "worker", jobs, *more, environment={"SHUTDOWN_SECONDS": str(seconds)})


# Running jobs


@BOTH
def test_a_signal_lets_a_running_job_end(store: str, number: int) -> None:
    enqueue("short")
    with worker() as process:
        process.says("[short begins]")
        code = process.stop(number)

        assert code == 0
        assert process.told == ["short begins", "short ends"]
        assert "The worker has stopped" in process.output
        assert "Traceback" not in process.output


def test_a_job_that_does_not_end_in_time_goes_back_to_its_place_and_runs_in_the_next_worker(store: str) -> None:
    enqueue("forever")
    with worker(seconds=SHORT) as process:
        process.says("[forever begins, attempt 1]")
        code = process.stop(within=LITTLE)

        assert code == 0
        assert process.told[1:] == ["forever cleans up"]
    with worker() as process:
        process.says("[forever begins, attempt 1]")  # the interrupted one is not counted


@BOTH
def test_a_second_signal_does_not_wait(store: str, number: int) -> None:
    enqueue("forever")
    with worker(seconds=600) as process:
        process.says("[forever begins, attempt 1]")
        process.send(number)
        process.says("Stopping")
        code = process.stop(number, LITTLE)

        assert code == 128 + number
        assert process.told[1:] == ["forever cleans up"]


def test_a_thread_that_goes_on_does_not_keep_the_worker(store: str) -> None:
    enqueue("in_a_thread")
    with worker(seconds=SHORT) as process:
        process.says("[thread begins]")
        code = process.stop(within=LITTLE)

        assert code == 0
        assert "1 thread(s) of jobs go on; the process ends without them" in process.output


def test_it_runs_as_many_at_once_as_it_is_told(store: str) -> None:
    enqueue("short", "short")
    with worker("--concurrency", "1") as process:
        process.says("[short ends]", times=2)

        assert process.told == ["short begins", "short ends"] * 2
        assert "runs up to 1 job(s) at once" in process.output


def test_a_jobs_made_for_web_processes_that_run_none_runs_the_usual_number(store: str) -> None:
    enqueue("short", "short")
    with worker() as process:
        process.says("[short ends]", times=2)

        assert process.told[:2] == ["short begins"] * 2
        assert "runs up to 100 job(s) at once" in process.output


# What it says


def test_a_failure_is_in_the_log(store: str) -> None:
    enqueue("failing")
    with worker() as process:
        process.says("ConnectionError: nobody answers")
        process.stop()

        assert re.search(r"ERROR +asgi_jobs: .*failing", process.output)
        assert "crew.py" in process.output


def test_verbose_logs_each_start_and_end(store: str) -> None:
    (id,) = enqueue("short")
    with worker("--verbose") as process:
        process.says("[short ends]")
        process.stop()

        lines = [line for line in process.output.splitlines() if id in line]
        assert [re.search("started|succeeded", line) is not None for line in lines] == [True] * len(lines) != []


def test_a_worker_that_knows_no_task_says_so(store: str) -> None:
    with worker(jobs=f"{CREW}:nothing_to_do") as process:
        process.says("This worker knows no task")
        process.says("let the module of the Jobs import those that declare its tasks")

        assert process.stop() == 0


def test_its_health_file_is_there_while_it_is_well(store: str, tmp_path: Path) -> None:
    file = tmp_path / "well"
    with worker("--health-file", str(file)) as process:
        until(file.exists)
        process.stop()

        assert not file.exists()


# What cannot run

SHOP = """\
from asgi_jobs import Jobs

jobs = Jobs(store="sqlite+aiosqlite:///{directory}/jobs.db")
in_memory = Jobs()
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory, as the current one, of a module of which Python itself knows nothing."""
    (tmp_path / "shop.py").write_text(SHOP.format(directory=tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    sys.modules.pop("shop", None)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says, when it is a wrong one."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("shop", "'shop' is no place of a Jobs; write package.module:name, such as app.main:jobs"),
        (":jobs", "':jobs' is no place of a Jobs"),
        ("nowhere:jobs", "there is no module 'nowhere', neither in {directory} nor installed"),
        ("shop.jobs:jobs", "there is no module 'shop.jobs', neither in"),
        ("shop:job", "there is no shop:job; the module has in_memory, jobs"),
        ("shop:jobs.worker", "there is no shop:jobs.worker"),
        ("shop:Jobs", "shop:Jobs is no Jobs, but a type"),
        ("shop:in_memory", "shop:in_memory keeps its jobs in memory, where no other process sees them; give it a"),
    ],
)
def test_a_place_without_jobs_to_run_is_refused_with_the_reason(
    shop: Path, capsys: pytest.CaptureFixture[str], place: str, complaint: str
) -> None:
    assert f"python -m asgi_jobs worker: error: {complaint.format(directory=shop)}" in refusal(capsys, "worker", place)


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_that_runs_nothing_is_refused(shop: Path, capsys: pytest.CaptureFixture[str], number: str) -> None:
    said = refusal(capsys, "worker", "shop:jobs", f"--concurrency={number}")

    assert f"argument --concurrency: '{number}' is not a whole number of 1 or more" in said


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: COMMAND" in refusal(capsys)

    help = parsers()[0].format_help()
    assert re.search(r"worker +run the jobs of a store in a database", help)


def test_the_help_says_how_it_stops_and_with_which_codes() -> None:
    help = parsers()[1].format_help()

    for words in ("TERM or Ctrl-C", "lifespan", "--concurrency N", "--health-file FILE", "exit codes:"):
        assert words in help
    assert max(map(len, help.splitlines())) <= 120


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in a directory that Python itself does not look into."""
    return subprocess.run(
        [sys.executable, "-m", "asgi_jobs", *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_error_of_the_module_itself_is_shown_as_it_is(shop: Path) -> None:
    (shop / "shop.py").write_text("import a_package_that_is_missing\n")

    done = command(shop, "worker", "shop:jobs")

    assert done.returncode == 1
    assert 'shop.py", line 1, in <module>' in done.stderr
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'a_package_that_is_missing'\n")


def test_a_store_that_cannot_be_used_is_an_error_of_one_line(shop: Path) -> None:
    (shop / "shop.py").write_text(SHOP.format(directory=shop / "nowhere"))

    done = command(shop, "worker", "shop:jobs")

    assert done.returncode == 1
    assert re.search("ERROR .*Store", done.stderr)
    assert "Traceback" not in done.stderr
