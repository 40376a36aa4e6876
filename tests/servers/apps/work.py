"""What the small applications share: their jobs, and one that takes half a second."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgi_jobs import Jobs

AUTHORIZE: Any = {"local": "local", "key": None}[os.environ.get("AUTHORIZE", "local")]
jobs = Jobs(authorize=AUTHORIZE)


def tell(text: str) -> None:
    print(f"[{text}]", flush=True)


async def short() -> None:
    tell("job begins")
    await asyncio.sleep(0.5)
    tell("job ends")
