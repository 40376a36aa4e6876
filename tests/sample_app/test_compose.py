"""What Docker Compose makes of `docker-compose.yml`; no Docker is needed for that."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asgi_jobs.__main__ import parsers

ROOT = Path(__file__).parents[2]
PROGRAMS = (["docker-compose"], ["docker", "compose"])


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    foreign = ("ASGI_JOBS_KEY", "POSTGRES_PASSWORD")
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    return subprocess.run(
        command, check=False, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The command; where there is none the tests are skipped, but not in CI, where it is to be there."""
    for program in PROGRAMS:
        if shutil.which(program[0]) and run(*program, "version").returncode == 0:
            return program
    return pytest.fail("no docker-compose") if os.environ.get("CI") else pytest.skip("no docker-compose")


@pytest.fixture(scope="module")
def services(compose: list[str]) -> dict[str, str]:
    """Each service as Docker Compose reads it, by its name."""
    done = run(*compose, "config", ASGI_JOBS_KEY="the key")
    parts = re.split(
        r"^  (\w+):\n", done.stdout.partition("services:\n")[2].partition("\nvolumes:")[0], flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_file_is_accepted(compose: list[str]) -> None:
    done = run(*compose, "config", "-q", ASGI_JOBS_KEY="the key")

    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_key_it_is_said_what_to_set_and_what_for(compose: list[str]) -> None:
    done = run(*compose, "config", "-q")

    assert done.returncode != 0
    assert "set it to the key that is to open the page of the jobs" in done.stderr
    assert "export ASGI_JOBS_KEY=" in done.stderr


def test_two_web_processes_and_two_workers_share_a_database(services: dict[str, str]) -> None:
    assert services.keys() == {"postgres", "web1", "web2", "worker1", "worker2"}
    stores = [re.findall(r"SAMPLE_STORE: (.*)", service) for name, service in services.items() if name != "postgres"]
    assert stores == [["postgresql+asyncpg://airfield:airfield@postgres/airfield"]] * 4


@pytest.mark.parametrize("name", ["postgres", "web1", "web2", "worker1", "worker2"])
def test_each_service_is_watched_restarted_and_given_time_to_stop(services: dict[str, str], name: str) -> None:
    for line in ("healthcheck:", "restart: unless-stopped", "stop_grace_period: 30s"):
        assert line in services[name]


@pytest.mark.parametrize("name", ["web1", "web2"])
def test_web_processes_run_no_jobs_and_open_their_page_to_one_key(services: dict[str, str], name: str) -> None:
    assert re.search(r"SAMPLE_CONCURRENCY: ['\"]0['\"]", services[name])
    assert "ASGI_JOBS_KEY: the key" in services[name]


def test_workers_are_started_by_a_command_that_exists() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    (command,) = re.findall(r"command: python -m asgi_jobs (.+)", text)
    options = parsers()[0].parse_args(command.split())

    assert options.jobs == "sample_app.jobs:jobs"
    assert f"find {options.health_file} " in text


def test_what_the_image_is_made_of_is_there_and_not_kept_out() -> None:
    sources = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {source for line in sources for source in line.split()}

    assert all((ROOT / source).exists() for source in copied)
    assert copied == set(let_in)
