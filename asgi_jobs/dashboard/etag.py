"""ETags made from data, and their comparison."""

from __future__ import annotations

import hashlib
import re

_TAG = re.compile(r'(?:W/)?("[^"]*")')


def etag(*parts: object) -> str:
    """A weak tag: it stands for the data, while the words made from it change with the clock."""
    text = "\x1f".join(map(repr, parts))
    return f'W/"{hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()}"'


def unchanged(given: str | None, tag: str) -> bool:
    """Whether the visitor has this already: weak comparison with each tag of the list (RFC 9110, 13.1.2)."""
    if given is None:
        return False
    return given.strip() == "*" or tag.removeprefix("W/") in _TAG.findall(given)
