"""A script that has jobs, and is stopped by Ctrl-C. `python -m tests.servers.apps.script short|forever`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from asgi_jobs import Jobs
from tests.servers.apps.work import short, tell

jobs = Jobs(authorize="local", shutdown_timeout=timedelta(seconds=2))


async def forever() -> None:
    tell("job begins")
    await asyncio.Event().wait()


async def main() -> None:
    async with jobs:
        await jobs.enqueue({"short": short, "forever": forever}[sys.argv[1]], name=sys.argv[1]).wait()


if __name__ == "__main__":
    asyncio.run(main())
