"""What of a text may be seen."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from asgi_jobs.dashboard.masking import masked, shown, visible


@pytest.mark.parametrize(
    "text",
    [
        "could not connect to postgresql+asyncpg://app:s3cret@db:5432/shop",
        "redis://:s3cret@cache/0 refused",
        "amqp://u:s3cret/with@odd:characters@host/ is down",
        "GET https://api.example/v1?user=a&token=s3cret&x=1 failed",
        "GET https://api.example/v1?api_key=s3cret failed",
        "connection string: host=db password=s3cret dbname=shop",
        "Key (email)=(s3cret) already exists.",
        "DETAIL:  Failing row contains (1, s3cret, null).",
        "[parameters: ('s3cret', 2)]",
        "[parameters: ('s3cret', 2",
        "[parameters: [('s3cret', 1), ('s3cret', 2)  ... displaying 10 of 100 total bound parameter sets ...]]",
        "[SQL: INSERT INTO users (name) VALUES ('s3cret')]",
        "[SQL: INSERT INTO users\n (name, note)\n VALUES ('it''s s3cret', 's3cret']",
    ],
)
def test_a_secret_is_masked(text: str) -> None:
    assert "s3cret" not in masked(text)
    assert "***" in masked(text)


def test_a_database_error_keeps_its_statement_and_loses_its_parameters() -> None:
    error = IntegrityError(
        "INSERT INTO users (email, age) VALUES (?, ?)", ("ana@example.com", 30), Exception("UNIQUE failed")
    )
    said = masked(str(error))
    assert "INSERT INTO users (email, age) VALUES (?, ?)" in said
    assert "UNIQUE failed" in said
    assert "sqlalche.me" in said
    assert "ana@example.com" not in said


@pytest.mark.parametrize(
    "text",
    [
        "https://hooks.initech.example/orders did not answer within 10 s",
        "Receipt 10491 for ana@example.com",
        "x = y; a[parameters] = 1",
        "KeyError: 'token'",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_what_is_shown_is_both_masked_and_visible() -> None:
    assert shown("redis://:s3cret@cache\x00") == "redis://:***@cache\\x00"


def test_what_breaks_or_turns_a_text_is_shown_as_its_code() -> None:
    assert visible("a\x00b\x1b[31m") == "a\\x00b\\x1b[31m"
    assert visible("invoice\u202efdp.exe") == "invoice\\u202efdp.exe"
    assert visible("half \ud800 a pair") == "half \\ud800 a pair"
    assert visible("Ωmega, naïve, 東京, 😀, line\nnext\ttab\r\nlast") == "Ωmega, naïve, 東京, 😀, line\nnext\ttab\nlast"
