"""What needs a person, in words: blocked queues, jobs that do not stop, tasks that nobody knows, failures alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from asgi_jobs.dashboard import views, words, workerview
from asgi_jobs.dashboard.jobactions import cancel_action, release_action
from asgi_jobs.dashboard.links import Links
from asgi_jobs.dashboard.masking import shown, visible
from asgi_jobs.dashboard.pulse import Harm, alike
from asgi_jobs.dashboard.views import LOOKS, Action, Code, Link, Look, Part, Parts, Strong
from asgi_jobs.dashboard.workerview import START_ONE
from asgi_jobs.job import Job, JobState

ROWS = 6
MOST_IDS = 100


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs a person: what, why, since when, and what can be done."""

    id: str
    css: str
    look: Look
    what: Parts
    why: Parts
    long: Part
    action: Action | None


def attention(harm: Harm, links: Links, now: datetime, *, may_act: bool) -> Attention:
    """A harm, in words."""
    row = MADE[harm.kind](harm, links, now)
    return row if may_act else replace(row, action=None)


def _blocked(harm: Harm, links: Links, now: datetime) -> Attention:
    job, queue = harm.jobs[0], harm.queue
    assert queue is not None
    assert harm.since is not None
    name = Link(visible(queue.name), links.jobs(queue=queue.name))
    wait = f": {words.amount(queue.queued, 'job')}{_wait(queue.queued)} behind "
    why: Parts = ("It has run for ", views.ran(job, now)) if job.state is JobState.RUNNING else (_held_words(job),)
    if queue.waiting_at:
        why = (*why, " and is waiting at ", Code(shown(queue.waiting_at)))
    return Attention(
        id=f"a-{job.id}",
        css="warn",
        look=LOOKS["blocked"],
        what=("Queue ", name, wait, views.job_link(job, links)),
        why=why,
        long=words.since(harm.since, now),
        action=None if job.cancelling else cancel_action(job, links, queue, "overview"),
    )


def _held_words(job: Job) -> str:
    return f"It is between two attempts: {views.tries(job)}" if job.error else "It was interrupted and is to run again"


def _stuck(harm: Harm, links: Links, now: datetime) -> Attention:
    job = harm.jobs[0]
    frame = views.top_frame(job)
    where: Parts = (
        ("It is at ", Code(views.place_in_code(frame)), " in ", Code(visible(frame.function))) if frame else ()
    )
    held = f"queue {visible(job.queue)} stays held until it ends" if job.queue is not None else ""
    between = "; " if where and held else ""
    assert harm.since is not None
    return Attention(
        id=f"a-{job.id}",
        css="warn",
        look=LOOKS["stuck"],
        what=(views.job_link(job, links), " was asked to stop and has not"),
        why=(*where, between, held),
        long=words.since(harm.since, now),
        action=release_action(job, links, "overview") if job.worker is not None else None,
    )


def _unknown(harm: Harm, links: Links, now: datetime) -> Attention:
    task, number = harm.jobs[0].task, words.amount(harm.number, "job")
    return Attention(
        id=f"a-{words.digest(task)}",
        css="warn",
        look=LOOKS["unknown"],
        what=("No worker knows ", Link(shown(task), links.jobs(task=task)), ": ", number, _wait(harm.number)),
        why=("Declare the task, deploy the worker that has it, or cancel them. Until then they keep their places.",),
        long="" if harm.since is None else words.since(harm.since, now),
        action=_cancel_unknown(task, harm.number, links),
    )


def _cancel_unknown(task: str, number: int, links: Links) -> Action:
    many = f"{number:,}"
    most = " At most 1,000 at once." if number > 1_000 else ""
    return Action(
        f"Cancel {many}…",
        links.to("/jobs/cancel"),
        (("task", task), ("back", "overview")),
        key=f"task-{words.digest(task)}",
        question=("Cancel ", Strong(f"all {many} unfinished jobs"), f" of {shown(words.short_task(task))}?{most}"),
        button=f"Cancel {words.amount(number, 'job')}",
        subject=shown(task),
    )


def _nobody(harm: Harm, links: Links, now: datetime) -> Attention:
    return Attention(
        id="a-nobody",
        css="bad",
        look=LOOKS["nobody"],
        what=("No worker runs: ", words.waiting(harm.number, harm.later)),
        why=START_ONE,
        long="",
        action=None,
    )


def _gone(harm: Harm, links: Links, now: datetime) -> Attention:
    worker, one = harm.worker, harm.number == 1
    assert worker is not None
    assert harm.since is not None
    ran = f"{words.amount(harm.number, 'job')} that it ran {'stands' if one else 'stand'} still"
    back = f"{'It goes back to its place' if one else 'They go back to their places'} when another worker takes over."
    return Attention(
        id=f"a-{workerview.row_id(worker)}",
        css="warn",
        look=LOOKS["gone"],
        what=("Worker ", workerview.worker_link(worker, links), f" is gone: {ran}"),
        why=(back, *(() if harm.able else (" ", *START_ONE))),
        long=words.since(harm.since, now),
        action=None,
    )


def _loop(harm: Harm, links: Links, now: datetime) -> Attention:
    loop = harm.loop
    assert loop is not None
    who = Link(shown(loop.name), links.job(loop.job_id)) if loop.job_id else shown(loop.name)
    return Attention(
        id="a-loop",
        css="warn",
        look=LOOKS["loop"],
        what=(who, f" kept the event loop from going on for {loop.seconds:.1f} s"),
        why=("It was in ", Code(visible(loop.function)), " at ", Code(f"{visible(loop.file)}:{loop.line}"),
             "; no request was answered and no other job went on meanwhile."),
        long=words.ago(loop.since, now),
        action=None,
    )  # fmt: skip


def _wait(number: int) -> str:
    return " waits" if number == 1 else " wait"


def _failed(harm: Harm, links: Links, now: datetime) -> Attention:
    job, number = harm.jobs[0], len(harm.jobs)
    task, error = alike(job)
    assert harm.since is not None
    what = f"{shown(words.short_task(task))}: {shown(error)}"
    href = links.job(job.id) if number == 1 else links.jobs(state="failed", task=task, q=error)
    said = shown(job.error.message).strip().partition("\n")[0][:300] if job.error else ""
    return Attention(
        id=f"a-{job.id}",
        css="bad",
        look=Look("failed", "failed", f"{number:,} failed"),
        what=(Link(what, href),),
        why=(said,),
        long=words.ago(harm.since, now),
        # Of more the list that it leads to has the button: a page full of ids is no overview.
        action=retry_action(harm.jobs, links, "overview", shown(words.short_task(task)))
        if number <= MOST_IDS
        else None,
    )


def retry_action(jobs: Sequence[Job], links: Links, back: str, noun: str) -> Action:
    """The button that runs failed jobs again: at once for one, with a question for many."""
    if len(jobs) == 1:
        return Action("Run again", links.job(jobs[0].id, "retry"), (("back", back),), subject=shown(jobs[0].name))
    number = f"{len(jobs):,}"
    return Action(
        f"Run {number} again…",
        links.to("/jobs/retry"),
        (("back", back), *(("id", job.id) for job in jobs)),
        key=f"retry-{jobs[0].id}",
        question=("Run ", Strong(f"{number} failed jobs"), f" of {noun} again? Each becomes a new job."),
        button=f"Run {number} again",
        confirm_css="pri",
        subject=noun,
    )


def said(harm: Harm) -> str:
    """The harm in a few words, for those who hear the page: the same as long as it is the same."""
    if harm.kind == "nobody":
        return "No worker runs"
    if harm.kind == "loop":
        return "The event loop stood still"
    if harm.worker is not None:
        return f"Worker {workerview.where(harm.worker)} is gone"
    job = harm.jobs[0]
    if harm.kind == "unknown":
        return f"No worker knows {shown(job.task)}"
    if harm.kind == "blocked":
        return f"Queue {visible(job.queue or '')} is blocked"
    return f"{shown(job.name)} does not stop" if harm.kind == "stuck" else f"{shown(words.short_task(job.task))} failed"


MADE: dict[str, Callable[[Harm, Links, datetime], Attention]] = {
    "blocked": _blocked,
    "stuck": _stuck,
    "unknown": _unknown,
    "nobody": _nobody,
    "gone": _gone,
    "loop": _loop,
    "failed": _failed,
}


def heading(harms: Sequence[Harm]) -> str:
    """The answer, before anything else."""
    if not harms:
        return "Nothing needs attention"
    return f"{words.amount(len(harms), 'thing needs', 'things need')} attention"
