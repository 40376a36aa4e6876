from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_jobs.engine.neighbours import Neighbours

if sys.platform == "win32":
    pytest.skip("no POSIX locks, so nothing is detected", allow_module_level=True)

CHILD = """
import importlib.util, os, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("neighbours", sys.argv[3])  # alone: its package takes a second
module = sys.modules["neighbours"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

def fork():
    if not os.fork():
        sys.stdin.read()  # until the test ends
        os._exit(0)

def fork_and_leave():
    if not os.fork():
        neighbours.leave()
        os._exit(0)
    os.wait()

neighbours, second = (module.Neighbours(sys.argv[1], directory=Path(sys.argv[2])) for _ in range(2))
commands = {
    "join": neighbours.join, "leave": neighbours.leave, "count": neighbours.count,
    "join second": second.join, "leave second": second.leave, "fork": fork, "fork and leave": fork_and_leave,
}
for line in sys.stdin:
    print(commands[line.strip()](), flush=True)
"""


class Server:
    """A child process of the test with a `Neighbours` of its own, which does as it is told."""

    def __init__(self, origin: str, directory: Path) -> None:
        module = sys.modules[Neighbours.__module__].__file__
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, origin, str(directory), str(module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        with self.process:
            self.process.kill()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "neighbours"


@pytest.fixture
def serve(directory: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(origin: str = "/shop/main.py") -> Server:
        servers.append(server := Server(origin, directory))
        server.ask("join")
        return server

    yield start
    for server in servers:
        server.end()


def test_processes_of_one_parent_and_one_file_count_each_other(serve: Callable[..., Server]) -> None:
    first, second, third = serve(), serve(), serve()

    assert [server.ask("count") for server in (first, second, third)] == ["3", "3", "3"]


def test_another_file_is_another_application(serve: Callable[..., Server]) -> None:
    serve("/shop/admin.py")

    assert serve().ask("count") == "1"


def test_another_parent_is_another_server(serve: Callable[..., Server], directory: Path) -> None:
    serve()
    ours = Neighbours("/shop/main.py", directory=directory)  # our parent is not our children's
    ours.join()
    try:
        assert ours.count() == 1
    finally:
        ours.leave()


def test_one_that_leaves_is_no_longer_counted(serve: Callable[..., Server], directory: Path) -> None:
    first, second = serve(), serve()
    second.ask("leave")

    assert first.ask("count") == "1"
    assert second.ask("count") == "1"
    assert len(list(directory.iterdir())) == 1


def test_one_that_is_killed_is_no_longer_counted_and_its_file_goes(
    serve: Callable[..., Server], directory: Path
) -> None:
    first, second = serve(), serve()
    assert first.ask("count") == "2"

    second.kill()

    assert len(list(directory.iterdir())) == 2
    assert first.ask("count") == "1"
    assert len(list(directory.iterdir())) == 1


def test_a_reload_that_ends_the_old_process_first_is_alone(serve: Callable[..., Server]) -> None:
    for _ in range(3):
        server = serve()
        assert server.ask("count") == "1"
        server.kill()


def test_what_was_left_by_a_killed_process_of_another_application_goes_too(
    serve: Callable[..., Server], directory: Path
) -> None:
    serve("/other.py").kill()
    assert len(list(directory.iterdir())) == 1

    serve()

    assert len(list(directory.iterdir())) == 1


def test_two_jobs_of_one_file_in_one_process_are_no_neighbours(directory: Path) -> None:
    one = Neighbours("/shop/main.py", directory=directory)
    other = Neighbours("/shop/main.py", directory=directory)
    one.join()
    other.join()

    assert (one.count(), other.count()) == (1, 1)
    one.leave()
    assert len(list(directory.iterdir())) == 1
    other.leave()
    assert list(directory.iterdir()) == []


def test_two_jobs_in_one_process_are_one_neighbour_and_stay_it_when_one_stops(
    serve: Callable[..., Server],
) -> None:
    double, single = serve(), serve()
    double.ask("join second")
    both = single.ask("count")
    double.ask("leave second")

    assert (both, single.ask("count")) == ("2", "2")
    assert double.ask("count") == "2"


def test_before_joining_and_after_leaving_one_is_alone(directory: Path) -> None:
    neighbours = Neighbours("/shop/main.py", directory=directory)

    assert neighbours.count() == 1
    neighbours.leave()
    for _ in range(2):
        neighbours.join()
        neighbours.join()
        assert len(list(directory.iterdir())) == 1
        neighbours.leave()
        neighbours.leave()
    assert list(directory.iterdir()) == []


def test_no_file_handle_is_left(directory: Path) -> None:
    neighbours = Neighbours("/shop/main.py", directory=directory)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        neighbours.join()
        neighbours.count()
        neighbours.leave()

    assert len(list(Path("/dev/fd").iterdir())) == before


def test_when_somebody_has_tidied_up_it_puts_up_a_new_sign(serve: Callable[..., Server], directory: Path) -> None:
    first, second = serve(), serve()
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()

    first.ask("count")
    second.ask("count")

    assert (first.ask("count"), second.ask("count")) == ("2", "2")


def test_the_directory_is_this_users_alone(directory: Path) -> None:
    neighbours = Neighbours("/shop/main.py", directory=directory)
    neighbours.join()
    try:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]
    finally:
        neighbours.leave()


@pytest.mark.parametrize("trap", ["link", "open to others", "file", "unreachable"])
def test_a_directory_that_is_not_this_users_alone_is_not_used(tmp_path: Path, trap: str) -> None:
    directory, elsewhere = tmp_path / "neighbours", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "link":
        directory.symlink_to(elsewhere)
    elif trap == "open to others":
        directory.mkdir()
        directory.chmod(0o777)
    elif trap == "file":
        directory.touch()
    else:
        directory = tmp_path / "no" / "such"
    neighbours = Neighbours("/shop/main.py", directory=directory)

    neighbours.join()

    assert neighbours.count() == 1
    assert list(elsewhere.iterdir()) == []
    assert not directory.is_dir() or list(directory.iterdir()) == []
    neighbours.leave()


def test_a_link_in_the_directory_is_not_followed(directory: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    directory.mkdir(mode=0o700)
    (directory / "1-x.999999999.0").symlink_to(victim)
    (directory / "not a sign").touch()
    neighbours = Neighbours("/shop/main.py", directory=directory)

    neighbours.join()
    assert neighbours.count() == 1
    neighbours.leave()

    assert victim.exists()
    assert sorted(path.name for path in directory.iterdir()) == ["1-x.999999999.0", "not a sign"]


def test_a_forked_child_does_not_end_its_parents_sign(serve: Callable[..., Server]) -> None:
    first, second = serve(), serve()

    first.ask("fork and leave")

    assert second.ask("count") == "2"


def test_a_forked_child_that_outlives_its_parent_is_no_neighbour(serve: Callable[..., Server]) -> None:
    first, second = serve(), serve()
    first.ask("fork")

    first.kill()

    assert second.ask("count") == "1"


def test_by_default_the_files_are_in_a_directory_of_this_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    neighbours = Neighbours(__file__)
    neighbours.join()
    try:
        assert len(list((tmp_path / f"asgi_jobs-{os.getuid()}").iterdir())) == 1
    finally:
        neighbours.leave()
