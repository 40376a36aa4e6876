"""Forms: read with a bound, and of the right type only."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

LARGEST = 256 * 1024  # a thousand ids take 40 kB
MOST_FIELDS = 1_100
TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})


async def form_of(request: Request) -> FormData:
    """The form that was posted; an empty one where nothing was.

    Raises:
        HTTPException: 413 when it is larger than 256 KiB, 415 when it is no form, 400 when it is malformed.
    """
    body = await _bounded(request)
    if not body:
        return FormData()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in TYPES:
        raise HTTPException(415, "Send a form: application/x-www-form-urlencoded or multipart/form-data.")

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    replayed = Request(request.scope, replay)
    try:
        return await replayed.form(max_files=0, max_fields=MOST_FIELDS)
    except (MultiPartException, ValueError, LookupError) as error:
        raise HTTPException(400, "The form could not be read.") from error


async def _bounded(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:12]) > LARGEST:
        raise HTTPException(413, f"A form of more than {LARGEST // 1024} KiB is not read.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"A form of more than {LARGEST // 1024} KiB is not read.")
    return bytes(body)
