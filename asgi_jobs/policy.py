"""From the words of `@jobs.task(…)` to a policy."""

from __future__ import annotations

from typing import Any

from asgi_jobs.errors import InvalidOption, InvalidOptionType
from asgi_jobs.schedule import Cron, Every
from asgi_jobs.settings import check_queue
from asgi_jobs.task import Policy, check_timedelta, to_retry

OPTIONS = (
    "key",
    "queue",
    "retries",
    "timeout",
    "every",
    "cron",
    "timezone",
    "start_after",
    "atomic",
    "keep_result",
)


def policy_of(given: dict[str, Any], *, durable: bool = False) -> Policy:
    """The policy that `@jobs.task(…)` was given.

    Raises:
        InvalidOption, InvalidOptionType: something in it cannot work; the message names it and the remedy.
    """
    unknown = given.keys() - set(OPTIONS)
    if unknown:
        raise InvalidOptionType(f"task() knows no {', '.join(sorted(unknown))}; it knows {', '.join(OPTIONS)}")
    queue, timeout, key = given.get("queue"), given.get("timeout"), given.get("key")
    if queue is not None:
        check_queue(queue)
    if timeout is not None:
        check_timedelta("timeout", timeout)
    if key is not None and (not isinstance(key, str) or not key):
        raise InvalidOptionType(f"key must be a text, not {key!r}")
    for option in ("atomic", "keep_result"):
        if not isinstance(given.get(option, False), bool):
            raise InvalidOptionType(f"{option} must be True or False, not {given[option]!r}")
    if given.get("atomic") and not durable:
        raise InvalidOption("atomic=True needs a durable store; a store in memory has no transaction to share")
    return Policy(
        queue=queue,
        retries=to_retry("retries", given.get("retries")),
        timeout=timeout,
        schedule=_schedule(given),
        atomic=given.get("atomic", False),
        keep_result=given.get("keep_result", False),
    )


def _schedule(given: dict[str, Any]) -> Every | Cron | None:
    every, cron, start_after = given.get("every"), given.get("cron"), given.get("start_after")
    if every is not None and cron is not None:
        raise InvalidOption("give either every or cron, not both")
    if start_after is not None and every is None:
        raise InvalidOption("start_after goes with every=…")
    if cron is not None:
        return Cron(cron, given.get("timezone", "UTC"))
    if "timezone" in given:
        raise InvalidOption("timezone goes with cron=…")
    return Every(every, start_after) if every is not None else None
