"""What of a text may be seen: passwords and SQL parameters are masked, what breaks a page is made visible."""

from __future__ import annotations

import re

MASK = "***"

# Greedy up to the last @ of the word: a password may hold @, : and / that nobody encoded.
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@'\"<>]*:)[^\s'\"<>]*@", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"\b((?:[a-z]+_)?(?:password|passwd|pwd|secret|token|api_?key|signature)=)(?!\*)[^\s&'\",;)\]]+",
    re.IGNORECASE,
)
# SQLAlchemy's StatementError, see its _message() and _sql_message(). The closing bracket ends a line; a text
# that was cut has none. Statements keep their shape and lose their literals.
_PARAMETERS = re.compile(r"\[parameters: .*?(?:\](?=\n|\Z)|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"\[SQL: .*?(?=\]\n|\]\Z|\n\[parameters: |\Z)", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^']|'')*(?:'|\Z)")
# PostgreSQL's DETAIL lines quote the row.
_KEY_DETAIL = re.compile(r"(\bKey \([^)]*\)=)\(.*?\)(?= (?:already|is |conflicts)|$)", re.MULTILINE)
_ROW_DETAIL = re.compile(r"(Failing row contains )\(.*?\)\.?$", re.MULTILINE)

# Shown as their code: they cannot be encoded, are dropped by browsers, or turn the text around them.
_UNSEEN = re.compile(
    r"\r\n?|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff\ufeff]"
)


def visible(text: str) -> str:
    """The text as it may be written into a page: no character that breaks it, or that turns its order."""
    return _UNSEEN.sub(_code, text) if not text.isascii() or not text.isprintable() else text


def _code(match: re.Match[str]) -> str:
    if match[0][0] == "\r":
        return "\n"
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def masked(text: str) -> str:
    """The text without what nobody should read on a page: passwords of URLs, parameters of SQL."""
    if "[SQL: " in text:
        text = _STATEMENT.sub(lambda found: _LITERAL.sub(f"'{MASK}'", found[0]), text)
    if "[parameters: " in text:
        text = _PARAMETERS.sub(f"[parameters: {MASK}]", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = _NAMED_SECRET.sub(rf"\1{MASK}", text)
        text = _KEY_DETAIL.sub(rf"\1({MASK})", text)
    if "Failing row" in text:
        text = _ROW_DETAIL.sub(rf"\1({MASK})", text)
    return text


def shown(text: object) -> str:
    """A text of somebody else, ready for the page and for JSON."""
    return visible(masked(str(text)))
