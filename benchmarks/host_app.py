"""The application whose requests are timed while jobs run in its process.

``python -m benchmarks.host_app PORT``; ``/load?kind=asgi_jobs`` sends 10,000 empty jobs a second, for half a
minute at most.
"""

import asyncio
import sys
from collections.abc import Callable
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_jobs import Jobs, JobsMiddleware
from benchmarks.peers.ours import allow

RATE = 10_000
LONGEST = 30.0

jobs = Jobs(authorize=allow)
counts = {"ended": 0}
producers: set[asyncio.Task[None]] = set()
idiom_tasks: set[asyncio.Task[None]] = set()


async def noop(number: int) -> None:
    """The job: counts itself, so that the client can see the rate."""
    counts["ended"] += 1


def send_ours(number: int) -> None:
    """One job of ours."""
    jobs.enqueue(noop, number)


def send_idiom(number: int) -> None:
    """One task of the bare idiom."""
    task = asyncio.create_task(noop(number))
    idiom_tasks.add(task)
    task.add_done_callback(idiom_tasks.discard)


SENDERS: dict[str, Callable[[int], None]] = {"asgi_jobs": send_ours, "create_task": send_idiom}


async def produce(send: Callable[[int], None]) -> None:
    """Keep to the rate: every millisecond send what is due."""
    begin = monotonic()
    sent = 0
    while (elapsed := monotonic() - begin) < LONGEST:
        due = int(elapsed * RATE)
        for number in range(sent, due):
            send(number)
        sent = due
        await asyncio.sleep(0.001)


async def index(request: Request) -> JSONResponse:
    """The request that is timed."""
    return JSONResponse({"hello": "world"})


async def load(request: Request) -> JSONResponse:
    """Change what is sent; answers how many jobs have ended so far."""
    for task in list(producers):
        task.cancel()
    producers.clear()
    kind = request.query_params["kind"]
    if kind in SENDERS:
        producers.add(asyncio.create_task(produce(SENDERS[kind])))
    return JSONResponse(counts)


app = Starlette(
    routes=[Route("/", index), Route("/load", load)],
    middleware=[Middleware(JobsMiddleware, jobs=jobs)],
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
