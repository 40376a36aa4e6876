"""What `Jobs` was told, checked and kept."""

from collections import OrderedDict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asgi_jobs import InvalidOption, InvalidOptionType, Jobs
from asgi_jobs.settings import Settings, check_count, check_queue, clean_name, to_origins, to_path


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Jobs().settings
    assert settings.concurrency == 100
    assert settings.threads == 20
    assert settings.max_sessions == 5
    assert settings.queues == {}
    assert settings.max_queued == settings.max_finished == 100_000
    assert settings.retention == timedelta(hours=1)
    assert settings.cleanup_interval == timedelta(minutes=5)
    assert settings.shutdown_timeout == timedelta(seconds=25)
    assert settings.stuck_after == timedelta(seconds=60)
    assert settings.authorize is None
    assert settings.origins == ()
    assert (settings.title, settings.badge, settings.home_url) == ("Background jobs", None, None)
    assert settings.templates is None


def test_settings_cannot_be_changed() -> None:
    settings = Jobs().settings
    with pytest.raises(AttributeError):
        settings.concurrency = 5  # type: ignore[misc]


def test_a_callers_dict_may_change_afterwards() -> None:
    queues = {"a": 2}
    jobs = Jobs(queues=queues)
    queues["b"] = 3
    assert jobs.settings.queues == {"a": 2}
    assert Jobs(queues=OrderedDict(a=2)).settings.queues == {"a": 2}


def test_origins_may_be_one_text_or_several() -> None:
    assert Jobs(origins="https://a.example").settings.origins == ("https://a.example",)
    assert Jobs(origins=["https://a.example", "http://b:8000"]).settings.origins == (
        "https://a.example",
        "http://b:8000",
    )
    assert to_origins(iter(["https://a.example"])) == ("https://a.example",)
    assert to_origins(5) == 5


def test_templates_is_a_path_or_the_text_of_one(tmp_path: Path) -> None:
    assert Jobs(templates=tmp_path).settings.templates == tmp_path
    assert Jobs(templates=str(tmp_path)).settings.templates == tmp_path
    assert to_path(None) is None
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InvalidOption, match=r"templates.*directory"):
        Jobs(templates=file)


def test_the_smallest_and_the_largest_values_are_accepted() -> None:
    settings = Jobs(
        concurrency=1,
        threads=1,
        max_sessions=1,
        max_queued=1,
        max_finished=0,
        retention=timedelta(0),
        shutdown_timeout=timedelta(0),
        cleanup_interval=timedelta(microseconds=1),
        stuck_after=timedelta(microseconds=1),
    ).settings
    assert settings.max_finished == 0
    assert Jobs(retention=timedelta.max, concurrency=10**9).settings.retention == timedelta.max


async def test_the_smallest_and_the_largest_values_work() -> None:
    async def work() -> int:
        return 1

    long = timedelta(seconds=5)
    several: tuple[dict[str, Any], ...] = (
        {"max_finished": 0},
        {"retention": timedelta(0)},
        {"retention": timedelta.max, "cleanup_interval": timedelta.max, "stuck_after": timedelta.max},
        {"shutdown_timeout": timedelta.max},
        {"shutdown_timeout": timedelta(0)},
    )
    for options in several:
        async with Jobs(authorize="local", **options) as jobs:
            assert await jobs.enqueue(work, timeout=timedelta.max).result(long) == 1
            await jobs.queues()


def test_no_workers_on_a_store_in_memory_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"concurrency=0.*workers"):
        Jobs(concurrency=0)


async def test_a_callable_of_any_kind_may_authorize() -> None:
    class Authorize:
        async def __call__(self, request: Any) -> bool:
            return True

    for authorize in (lambda request: True, Authorize(), "local", None):
        assert Jobs(authorize=authorize).settings.authorize is authorize


@pytest.mark.parametrize("value", [0, 1, 5, 10**12])
def test_counts(value: int) -> None:
    check_count("option", value, 0)
    with pytest.raises(InvalidOption, match=f"option must be {value + 1} or more, not {value}"):
        check_count("option", value, value + 1)
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(InvalidOptionType, match="option must be a whole number"):
            check_count("option", wrong, 0)


def test_queue_names() -> None:
    for name in ("a", "x" * 200, "é", "👩‍👩‍👧‍👦" * 20, " ", "\n"):
        check_queue(name)
    for name in ("", "x" * 201, "é" * 201, "a\0", "\ud800"):
        with pytest.raises(InvalidOption, match="queue"):
            check_queue(name)
    with pytest.raises(InvalidOptionType, match=r"queue.*str\(…\)"):
        check_queue(5)


def test_names_for_people() -> None:
    assert clean_name("plain") == "plain"
    assert clean_name("é" * 600) == "é" * 500
    assert clean_name("\0\ud800") == "\ufffd?"
    with pytest.raises(InvalidOptionType, match="name"):
        clean_name(5)


def test_every_setting_can_be_given_to_jobs() -> None:
    import inspect

    given = set(inspect.signature(Jobs).parameters)
    assert set(Settings.__dataclass_fields__) <= given
