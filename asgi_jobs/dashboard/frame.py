"""The frame around every page: title, notices, counts, footer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from asgi_jobs.clock import in_words
from asgi_jobs.dashboard import attention, siteview, words
from asgi_jobs.dashboard.masking import visible
from asgi_jobs.dashboard.notices import notices
from asgi_jobs.dashboard.pulse import Pulse
from asgi_jobs.dashboard.siteview import Tab
from asgi_jobs.dashboard.views import Note
from asgi_jobs.dashboard.visit import Visit
from asgi_jobs.dashboard.words import Moment

if TYPE_CHECKING:
    from asgi_jobs import Jobs

PAGES = (
    ("overview", "Overview", "/"),
    ("jobs", "Jobs", "/jobs"),
    ("queues", "Queues", "/queues"),
    ("tasks", "Tasks", "/tasks"),
)
WORKERS = ("workers", "Workers", "/workers")  # of a durable store: in memory there is this process alone
DONE = {
    "cancel": ("{jobs} cancelled or asked to stop", "had ended meanwhile"),
    "retry": ("{jobs} enqueued again", "cannot be run again"),
    "run": ("{jobs} enqueued", ""),
    "pause": ("The queue is paused: what runs goes on, nothing new starts", ""),
    "resume": ("The queue goes on", ""),
    "release": ("The job was given up", ""),
}
BADGE_LENGTH = 40
SAID = 50  # harms of which those who hear the page are told


@dataclass(frozen=True, slots=True)
class Nav:
    """A page of the navigation."""

    word: str
    href: str
    current: bool


@dataclass(frozen=True, slots=True)
class Flash:
    """What the visitor's own act has led to."""

    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything around a page's content.

    `says`: what needs a person, each in a few words; what is new among them is said to those who hear the page.
    """

    title: str
    brand: str
    badge: str
    home: str
    nav: list[Nav]
    updated: Moment
    tabs: list[Tab]
    notices: list[Note]
    says: Sequence[str]
    flash: Flash | None
    retention: str
    store: str
    durable: bool
    started: Moment | None
    alarm: bool
    lists: bool
    refreshes: bool
    open: str
    here: str
    etag: str


def frame(
    jobs: Jobs, visit: Visit, pulse: Pulse | None, *, page: str, title: str, query: QueryParams,
    listed: str | None = None, lists: bool = False, etag: str = "",
) -> Frame:  # fmt: skip
    """The frame of one page, around what is known: no pulse, no counts.

    `lists`: it refreshes itself where no script does, unless a question is open.
    """
    settings, now = jobs.settings, jobs.now()
    opened = query.get("confirm", "")[:100]
    pages = (*PAGES, WORKERS) if jobs.durable else PAGES
    kept = in_words(settings.retention)
    return Frame(
        title=f"{title} · {visible(settings.title)}",
        brand=visible(settings.title),
        badge=visible(settings.badge or "")[:BADGE_LENGTH],
        home=_home(settings.home_url),
        nav=[Nav(word, visit.links.to(path), name == page) for name, word, path in pages],
        updated=words.clock(now),
        tabs=siteview.tabs(pulse.counts if pulse else None, visit.links, listed),
        notices=notices(jobs, visit, pulse, now, page),
        says=[attention.said(harm) for harm in pulse.harms[:SAID]] if pulse else (),
        flash=flash(query),
        retention=kept,
        store="Jobs are kept in the database" if jobs.durable else "Memory store: jobs are lost when this process ends",
        durable=jobs.durable,
        started=words.since(jobs.started_at, now) if jobs.started_at and jobs.status == "running" else None,
        alarm=pulse is None or bool(pulse.harms),
        lists=lists,
        refreshes=lists and not opened,
        open=opened,
        here=_here(query),
        etag=etag,
    )


def _home(url: str | None) -> str:
    """Where the application is: a path or an http address, nothing that runs."""
    return url if url and url.startswith(("/", "http://", "https://")) else ""


def _here(query: QueryParams) -> str:
    """This page's own query, to which a question is added; what was just done is not part of it."""
    left = {"confirm", "did", "n", "skipped", "key"}
    kept = [(name, value) for name, value in query.multi_items() if name not in left]
    return f"?{urlencode(kept, errors='replace')}&" if kept else "?"


def flash(query: QueryParams) -> Flash | None:
    """The notice that a redirect asks for: known words and numbers, nothing that a link could put there."""
    if query.get("did") not in DONE:
        return None
    said, why = DONE[query["did"]]
    done, skipped = _number(query.get("n", "1")), _number(query.get("skipped", ""))
    left_out = f"{words.amount(skipped, 'job')} {why}" if skipped and why else ""
    if left_out and not done:
        return Flash(f"Nothing was done: {left_out}.")
    text = said.format(jobs=words.amount(done, "job"))
    return Flash(f"{text}; {left_out}." if left_out else f"{text}.")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0
