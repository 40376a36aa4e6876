"""The worker of `benchmarks.sql_wake`: `python -m asgi_jobs worker benchmarks.wake_app:jobs`."""

import os
import time

from asgi_jobs import Jobs

jobs = Jobs(store=os.environ["BENCHMARK_STORE"], authorize="local")


@jobs.task(key="first line")
async def first_line(sent: int) -> None:
    """Print how long ago the call was made; the clock is the machine's, the same in all processes."""
    print(time.clock_gettime_ns(time.CLOCK_MONOTONIC) - sent, flush=True)
