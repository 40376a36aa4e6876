"""What an error is to a visitor: a status, a heading and words."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from asgi_jobs import errors
from asgi_jobs.dashboard.masking import masked
from asgi_jobs.dashboard.render import SAID

STATUS: dict[type[errors.JobsError], int] = {
    errors.JobNotFound: 404,
    errors.TaskNotFound: 404,
    errors.NeedsArguments: 409,
    errors.InvalidState: 409,
    errors.ArgumentsGone: 409,
    errors.NotRunning: 503,
    errors.ShuttingDown: 503,
    errors.QueueFull: 503,
    errors.StoreError: 503,
    errors.InvalidOption: 422,
    errors.InvalidOptionType: 422,
}
AWAY = (errors.StoreError, errors.NotRunning)
"""What passes by itself."""


def said_of(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Its status, its words and its headers."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail, dict(error.headers or {})
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
    said = masked(str(error)) or type(error).__name__
    return status, f"{said[:1].upper()}{said[1:]}", {}


def heading_of(error: Exception, status: int) -> str:
    """What its page says at the top."""
    match error:
        case errors.JobNotFound():
            return "This job is not known"
        case errors.StoreAway():
            return "The database does not answer"
        case errors.StoreError():
            return "The database cannot be used now"
        case errors.NotRunning():
            return "The engine is not running"
        case _:
            return SAID.get(status, SAID[400])
