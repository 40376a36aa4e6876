"""`python -m asgi_jobs worker package.module:jobs`: run the jobs of a store in a database, without a web server."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from asgi_jobs.app import Jobs
from asgi_jobs.errors import JobsError

PROGRAM = "python -m asgi_jobs"
WORKER = """\
Run the jobs of a Jobs whose store is a database, without a web server.

What jobs need must be open when the module has been imported, or come from providers: the lifespan of an
application is not run. Stop it with TERM or Ctrl-C: running jobs have the Jobs' shutdown_timeout to end, what is
left goes back to its place. A second signal does not wait."""
EXITS = """\
exit codes: 0 after a stop, 1 when the store cannot be used, 2 for a wrong command line,
128 + number after a second signal"""
USUAL_CONCURRENCY = 100
HEALTH_INTERVAL = timedelta(seconds=10)
THREADS_MAY_END = 1.0
"""Seconds for threads that jobs have left behind."""
logger = logging.getLogger("asgi_jobs")


class NoJobs(Exception):
    """There is no Jobs to run at the given place; the message says what is there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser, worker = parsers()
    options = parser.parse_args(arguments)
    try:
        jobs = find_jobs(options.jobs)
        jobs.set_concurrency(options.concurrency or jobs.settings.concurrency or USUAL_CONCURRENCY)
    except (NoJobs, JobsError) as error:
        worker.error(str(error))
    configure_logging(verbose=options.verbose)
    return asyncio.run(Worker(jobs, options.health_file).run())


def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """What reads the command line, and what reads the part after `worker`."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Background jobs for ASGI applications.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    worker = commands.add_parser(
        "worker",
        help="run the jobs of a store in a database, without a web server",
        description=WORKER,
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    worker.add_argument("jobs", metavar="package.module:jobs", help="where the Jobs is, as for uvicorn")
    worker.add_argument(
        "--concurrency",
        type=at_least_one,
        metavar="N",
        help=f"most jobs running at once (default: what the Jobs says; {USUAL_CONCURRENCY} where that is 0)",
    )
    worker.add_argument(
        "--health-file",
        type=Path,
        metavar="FILE",
        help=f"touch it every {HEALTH_INTERVAL.seconds} seconds while all is well, for a container's health check",
    )
    worker.add_argument("--verbose", action="store_true", help="log each start and end of a job")
    return parser, worker


def at_least_one(text: str) -> int:
    """A number of jobs, as argparse asks for it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


# Finding the Jobs


def find_jobs(place: str) -> Jobs:
    """The durable `Jobs` at `package.module:name`; an error in the module itself is raised as it is."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise NoJobs(f"{place!r} is no place of a Jobs; write package.module:name, such as app.main:jobs")
    found = look_up(import_module(module), name, place)
    if not isinstance(found, Jobs):
        raise NoJobs(f"{place} is no Jobs, but a {type(found).__name__}")
    if not found.durable:
        raise NoJobs(
            f"{place} keeps its jobs in memory, where no other process sees them; "
            'give it a database: Jobs(store="postgresql+asyncpg://…")'
        )
    return found


def import_module(name: str) -> Any:
    """Import a module, which may lie in the current directory."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise NoJobs(f"there is no module {error.name!r}, neither in {here} nor installed") from None


def look_up(module: Any, name: str, place: str) -> Any:
    """The attribute of a module, or an attribute's attribute."""
    found = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            jobs = ", ".join(sorted(key for key, value in vars(module).items() if isinstance(value, Jobs)))
            raise NoJobs(f"there is no {place}" + (f"; the module has {jobs}" if jobs else "")) from None
    return found


# Running it


class Worker:
    """One run of the engine without a server: until a signal, and then until its jobs have ended or gone back.

    Args:
        jobs: what to run.
        health_file: what to touch while all is well.
    """

    def __init__(self, jobs: Jobs, health_file: Path | None) -> None:
        self._jobs = jobs
        self._health_file = health_file
        self._asked = asyncio.Event()
        self._second: int | None = None  # the signal after the first

    async def run(self) -> int:
        """Run until it is stopped; gives the exit code."""
        loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(thread_name_prefix="asyncio")
        loop.set_default_executor(threads)
        self._listen(loop)
        code = await self._work()
        leave_threads(threads, code)
        return code

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task()
        assert task is not None

        def asked(number: int) -> None:
            if self._asked.is_set():
                self._second = number
                task.cancel()  # each cuts short the step of the stop that is under way
            self._asked.set()

        def caught(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(asked, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, caught)  # not the loop's add_signal_handler, which Windows has not

    async def _work(self) -> int:
        try:
            async with self._jobs:
                self._announce()
                await self._until_asked()
        except asyncio.CancelledError:
            if self._second is None:
                raise
            return 128 + self._second
        except JobsError as error:
            logger.error("%s: %s", type(error).__name__, error)
            return 1
        logger.info("The worker has stopped")
        return 0

    def _announce(self) -> None:
        tasks = len(self._jobs._tasks)
        if not tasks:
            logger.warning(
                "This worker knows no task, so it will run nothing: let the module of the Jobs import those that "
                "declare its tasks"
            )
        concurrency = self._jobs.settings.concurrency
        logger.info("Worker %d runs up to %d job(s) at once, of %d task(s)", os.getpid(), concurrency, tasks)

    async def _until_asked(self) -> None:
        if self._health_file is None:
            await self._asked.wait()
            return
        while not self._asked.is_set():
            if (await self._jobs.health()).ok:
                self._health_file.touch()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_INTERVAL.total_seconds()):
                    await self._asked.wait()
        self._health_file.unlink(missing_ok=True)


def leave_threads(threads: ThreadPoolExecutor, code: int) -> None:
    """End the process, if threads that jobs have started (`asyncio.to_thread`) go on and would keep it.

    Their jobs were given up, and wait in the store for this process to end.
    """
    threads.shutdown(wait=False, cancel_futures=True)
    for thread in threads._threads:
        thread.join(THREADS_MAY_END)
    left = [thread for thread in threads._threads if thread.is_alive()]
    if left:
        logger.warning("%d thread(s) of jobs go on; the process ends without them", len(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def configure_logging(*, verbose: bool) -> None:
    """Show log lines, unless the program has arranged for that itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if verbose:
        logger.setLevel(logging.DEBUG)


if __name__ == "__main__":
    sys.exit(main())
