"""An exception as text: type, message and traceback, bounded, and such that any database takes them."""

from __future__ import annotations

from collections.abc import Iterator

from asgi_jobs.frames import Place, code_at, ends, storable

MESSAGE = 4_000
TRACEBACK = 16_000
NOTE = 60
"""Room for the words that say how much was cut."""
EXCEPTIONS = 30
"""Most exceptions that one traceback tells of, causes and members of groups together."""
CHAIN = 10
GROUP = 10
CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"
TYPE = 500


def format_error(error: BaseException) -> tuple[str, str, str]:
    """An exception as type, message (at most 4,000 characters) and traceback (at most 16,000).

    The type is dotted, builtins bare. Whatever the exception does when asked, this does not raise, the
    work is bounded and the texts can be stored as UTF-8. Frames of the engine's own above the job's are
    left out.
    """
    kind, message = _type_name(error), _message(error)
    try:
        text = "\n".join(_tell(error, iter(range(EXCEPTIONS))))
    except Exception as trouble:
        text = f"{kind}: {message}\n[no traceback: it raised {type(trouble).__name__} itself]"
    return kind, message, storable(_without_middle(text))


def _type_name(error: BaseException) -> str:
    kind = type(error)
    try:
        module, name = kind.__module__, kind.__qualname__
    except Exception:  # a metaclass may do as it likes
        module, name = type.__getattribute__(kind, "__module__"), kind.__name__
    return storable((name if module == "builtins" else f"{module}.{name}")[:TYPE])


def _message(error: BaseException) -> str:
    try:
        text = str.__str__(str(error))  # a plain str, whatever was returned
    except BaseException as trouble:  # whatever it is, it came out of the exception's own __str__
        text = f"<no message: str() of the exception raised {type(trouble).__name__}>"
    return storable(_cut(text))


def _cut(text: str) -> str:
    room = MESSAGE - NOTE
    return text if len(text) <= MESSAGE else f"{text[:room]} … [{len(text) - room:,} more characters]"


def _without_middle(text: str) -> str:
    """At most `TRACEBACK` characters: where it began, and three times as much of where it ended."""
    if len(text) <= TRACEBACK:
        return text
    head, tail = TRACEBACK // 4, TRACEBACK // 4 * 3 - NOTE
    note = f"… [{len(text) - head - tail:,} characters are left out here] …"
    return f"{text[:head]}\n{note}\n{text[-tail:]}"


def _tell(error: BaseException, budget: Iterator[int]) -> Iterator[str]:
    """The lines of a traceback, with what led to the error before it."""
    chain, left_out = _chain(error, budget)
    if left_out:
        yield "[earlier exceptions are left out here]\n"
    for link, joint in chain:
        yield from _tell_one(link, budget)
        if joint:
            yield f"\n{joint}\n"


def _chain(error: BaseException, budget: Iterator[int]) -> tuple[list[tuple[BaseException, str]], bool]:
    """The error and its causes, oldest first, each with the sentence that leads on to the next one."""
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    joint = ""
    while link is not None and id(link) not in seen and len(chain) < CHAIN:
        if next(budget, None) is None:
            return chain[::-1], True
        seen.add(id(link))
        chain.append((link, joint))
        if link.__cause__ is not None:
            link, joint = link.__cause__, CAUSE
        else:
            link, joint = (None if link.__suppress_context__ else link.__context__), CONTEXT
    return chain[::-1], link is not None and id(link) not in seen


def _tell_one(error: BaseException, budget: Iterator[int]) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        head, left_out, tail = ends(error.__traceback__)
        yield from map(_line, head)
        if left_out:
            yield f"  [{left_out:,} frames are left out here]"
        yield from map(_line, tail)
    message = _message(error)
    yield f"{_type_name(error)}: {message}" if message else _type_name(error)
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        yield from (_cut(note) for note in notes[:GROUP] if isinstance(note, str))
    if isinstance(error, BaseExceptionGroup):
        yield from _tell_members(error, budget)


def _line(place: Place) -> str:
    line = place.line or 0
    where = f'  File "{place.code.co_filename}", line {line}, in {place.code.co_qualname}'
    module = place.module if isinstance(place.module, dict) else None
    code = code_at(place.code.co_filename, line, module)
    return f"{where}\n    {code}" if code else where


def _tell_members(group: BaseExceptionGroup[BaseException], budget: Iterator[int]) -> Iterator[str]:
    count = len(group.exceptions)
    for number, error in enumerate(group.exceptions[:GROUP], 1):
        yield f"  +---------------- {number:,} of {count:,} ----------------"
        for lines in _tell(error, budget):
            yield from (f"  | {line}" for line in lines.split("\n"))
    if count > GROUP:
        yield f"  +---------------- {count - GROUP:,} more exceptions are left out here"
