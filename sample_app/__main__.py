"""`python -m sample_app [--port 8000]`: start the application, and say where it is."""

import argparse
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import ClassVar
from urllib.parse import quote

import uvicorn


class Server(uvicorn.Server):
    """A server that says where it is once it can be reached."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            announce(f"http://{host}:{port}")


def announce(address: str) -> None:
    from sample_app.jobs import jobs

    key = quote(jobs.access.key.value)
    print(f"\n  Airfield         {address}/\n  Background jobs  {address}/jobs/?key={key}\n", flush=True)


class Lines(logging.Formatter):
    """A line each: when, how bad, who and what; in colour where a person looks on."""

    colours: ClassVar = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}

    def __init__(self, *, coloured: bool) -> None:
        super().__init__("{asctime}  {levelname:<7}  {package:<9}  {message}", datefmt="%H:%M:%S", style="{")
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        record.package = record.name.partition(".")[0]
        line = super().format(record)
        colour = self.colours.get(record.levelname) if self._coloured else None
        return f"{colour}{line}\x1b[0m" if colour else line


def configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(coloured=sys.stderr.isatty() and "NO_COLOR" not in os.environ))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sample_app", description="A small application with background jobs."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    return parser.parse_args()


def leave(signal_number: int, frame: FrameType | None) -> None:
    """End quietly: uvicorn sends the signal that stopped it once more when all is done."""
    sys.exit(0)


def main() -> None:
    options = arguments()
    configure_logging()
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    config = uvicorn.Config(
        "sample_app.app:app",
        options.host,
        options.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    Server(config).run(sockets=[config.bind_socket()])


if __name__ == "__main__":
    main()
