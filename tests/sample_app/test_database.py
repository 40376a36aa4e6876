import asyncio

import pytest

from sample_app.database import uninterrupted


async def test_uninterrupted_work_is_done_although_its_task_is_cancelled() -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        started.set()
        await may_end.wait()
        return "done"

    task = asyncio.create_task(uninterrupted(work()))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()

    assert await task == "done"


async def test_uninterrupted_work_raises_what_it_raises() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await uninterrupted(work())


async def test_uninterrupted_work_may_cancel_itself() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await uninterrupted(work())
