"""New jobs in, outcomes in, jobs out: the exchange."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, or_, select
from sqlalchemy.exc import IntegrityError

from asgi_jobs.errors import QueueFull
from asgi_jobs.job import ATTEMPTS_KEPT, Attempt, JobState, Record
from asgi_jobs.stores.base import Answer, Claimed, Outcome, Verdict
from asgi_jobs.stores.sql.common import Common
from asgi_jobs.stores.sql.database import Asked, Exchanged, Found, Told, Want
from asgi_jobs.stores.sql.rows import new_row, signs_of_life, storable, write_attempts, write_options
from asgi_jobs.stores.sql.tables import FINISHED, SHORT, State, jobs

DEPTH = 1_000
"""Queues looked at in one step of the round over all of them."""
HINTS = 10_000
TRIES = 10
NOTHING = Claimed(())
HELD = Verdict.HELD
STATES = {
    Verdict.SUCCEEDED: State.SUCCEEDED,
    Verdict.FAILED: State.FAILED,
    Verdict.CANCELLED: State.CANCELLED,
    Verdict.HELD: State.HELD,
}


class Taking(Common):
    """Takes jobs in and hands them out."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._mine: dict[str, Record] = {}  # handed out here, and their outcomes are not stored yet
        self._hints: dict[str, None] = {}  # queues in which something may have become ready, in order
        self._ends = 1  # how often the round over all queues has yet to reach the last; 0: hints tell what is ready
        self._cursor = ""  # where it is
        self._looked = False  # nothing has happened since a look that found no more
        self._unsure = False  # an exchange has failed, and may have been committed all the same

    # In

    def stamp(self, record: Record) -> None:
        """See `DurableStore.stamp`.

        Raises:
            InvalidOption: the retries of this job cannot be kept.
        """
        record.epoch = self._ids.epoch()
        details = record.detail()
        if details.retries is not None:
            write_options(None, details.retries)
        self._rows.know(record)

    def refuse_full(self, n: int) -> None:
        """See `Store.refuse_full`; the count is the fleet's, at most five seconds old."""
        if self._waiting + n > self._max_queued:
            raise QueueFull(f"{self._max_queued:,} jobs wait already (max_queued); nothing was enqueued")

    async def add(self, records: Sequence[Record], *, bounded: bool = True) -> Sequence[Record]:
        """See `Store.add`. May be repeated after any error: what is stored already stays as it is."""
        write = self._write if bounded else self._write_at_once  # what is too much is taken back
        made, there = await write(partial(self._add, records, bounded))
        self.written([record for record in records if record.id in made])
        return [record if record.id in made else self._record(there[record.id]) for record in records]

    def written(self, records: Sequence[Record]) -> None:
        """See `DurableStore.written`."""
        for record in records:
            record.detail().stored = True
            self._rows.know(record)
        self._waiting += len(records)
        self._expect(record.queue for record in records if record.details is None or record.details.due is None)
        self.revision += 1

    def write(self, session: Any, records: Sequence[Record]) -> None:
        """See `DurableStore.write`."""
        self._database.insert_in(session, [new_row(record) for record in records])

    def _add(
        self, records: Sequence[Record], bounded: bool, connection: Connection
    ) -> tuple[set[str], dict[str, Row[Any]]]:
        """Insert jobs; gives the ids of those that are new, and for the others the row that is there already."""
        made: set[str] = set()
        there: dict[str, Row[Any]] = {}
        rest = list(records)
        for _ in range(TRIES):
            made |= self._database.insert(connection, [new_row(record) for record in rest])
            rest = [record for record in rest if record.id not in made]
            if rest:  # stored by an earlier try, or its unique key is taken by a job that may end any moment
                there |= self._there_already(connection, rest)
                rest = [record for record in rest if record.id not in there]
            if not rest:
                break
        if bounded and made:
            self.refuse_full(len(made))
        return made, there

    def _there_already(self, connection: Connection, records: Sequence[Record]) -> dict[str, Row[Any]]:
        keys = {record.id: record.details.unique for record in records if record.details}
        of_key = jobs.c.unique_key.in_({key for key in keys.values() if key}) & (jobs.c.state < State.SUCCEEDED)
        rows = connection.execute(select(*SHORT).where(or_(jobs.c.id.in_(list(keys)), of_key))).all()
        return {id: row for row in rows for id, key in keys.items() if id == row.id or (key and key == row.unique_key)}

    # What may be ready

    def _expect(self, queues: Any) -> None:
        """Something may have become ready in these queues; None: outside of any."""
        self._looked = False
        self._hints |= dict.fromkeys(queue for queue in queues if queue is not None)
        if len(self._hints) > HINTS:
            self._expect_anything()

    def _expect_anything(self) -> None:
        """Something may have become ready anywhere."""
        self._looked = False
        self._go_round()
        self._hints.clear()

    def _go_round(self) -> None:
        """Look at all queues, from where the round is until it is there again."""
        self._ends = 2 if self._cursor else 1

    # The exchange

    def exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Answer[Claimed]:
        """See `Store.exchange`."""
        if not self._presence.may_run:
            n = 0
        if not outcomes and (n <= 0 or (self._looked and not self._unsure)):
            return NOTHING
        return self._exchange(outcomes, n, threads)

    async def _exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Claimed:
        ended = [outcome.record.queue for outcome in outcomes if outcome.record.queue is not None]
        if ended:
            self._expect(ended)
        at = self._clock.monotonic()
        said = [self._said(outcome, at) for outcome in outcomes]
        want = self._want(n, threads, {outcome.record.id for outcome in outcomes})
        # Nothing is left to be looked for, until somebody says otherwise, perhaps before this has ended.
        hints, ends = self._hints, self._ends
        self._hints, self._ends, self._looked = {}, 0, True
        try:
            step = await self._repeat_step(said, want)
        except BaseException:
            self._unsure = True
            self._look_again(hints, ends)
            raise
        self._unsure = False
        refused = self._take_in(outcomes, step.told, step.now - self._offset)
        more = False
        if want is None:
            self._look_again(hints, ends)
        else:
            more = self._conclude(want, step.found, hints, ends) or len(step.found.rows) == want.n < n
        claimed = [self._rows.claimed(row, step.now) for row in (*step.found.rows, *step.adopted)]
        self._mine |= {record.id: record for record in claimed}
        self._waiting -= len(claimed)
        self.revision += bool(outcomes or claimed)
        return Claimed(claimed, more, refused)

    def _want(self, n: int, threads: int, ended: set[str]) -> Want | None:
        """What is asked for; None: nothing."""
        tasks = self._tasks()
        known = [key for key, task in tasks.items() if threads > 0 or not task.plan.threaded]
        if n > 0 and threads > 0 and any(task.plan.threaded for task in tasks.values()):
            n = min(n, threads)  # any of them may need one; the next exchange brings the others
        if n <= 0 or not known:
            return None
        if len(self._hints) > n and not self._ends:
            self._go_round()
        suspected = any(record.detail().deaths >= 2 and id not in ended for id, record in self._mine.items())
        return Want(
            n=n,
            tasks=known,
            hints=() if self._ends else tuple(self._hints),
            limits={queue: limit for queue, limit in self._limits.items() if limit > 1},
            cursor=self._cursor,
            depth=DEPTH if self._ends else 0,
            suspects=0 if suspected else 1,
        )

    async def _repeat_step(self, said: Sequence[dict[str, Any]], want: Want | None) -> Exchanged:
        """Two claims may reach for one slot: the index lets one have it, and the other begins again."""
        known = {*self._mine} if self._unsure else None
        asked = Asked(self._presence.me, self.time, said, want, known)
        for _ in range(TRIES):
            try:
                return await self._answered(lambda: self._database.exchange(asked))
            except IntegrityError as error:
                last = error
        raise last

    def _look_again(self, hints: dict[str, None], ends: int) -> None:
        """What may be ready, and was not all claimed, is so still."""
        self._looked = False
        self._ends = max(self._ends, ends)
        self._hints = hints | self._hints

    def _conclude(self, want: Want, found: Found, hints: dict[str, None], ends: int) -> bool:
        """Where the next claim goes on; gives whether to ask again at once, for there is room left."""
        filled = len(found.rows) >= want.n
        if want.depth:
            self._cursor = _last_served(want, found) if filled else found.cursor
        if filled:
            self._look_again(hints, ends)
            return False
        if found.skipped:
            self._look_again(hints, ends)
            return True
        unseen = max(ends - found.ends, 0)
        self._ends = max(self._ends, unseen)
        if len(want.tasks) < len(self._tasks()) and not self._ends:  # what needs a thread was passed over
            self._go_round()
        self._looked = self._looked and not self._ends
        return unseen > 0

    # Outcomes

    def _said(self, outcome: Outcome, at: float) -> dict[str, Any]:
        """An outcome as the database is told of it."""
        record = outcome.record
        details = record.detail()
        said: dict[str, Any] = {"id": record.id, "claim": outcome.claim, "state": STATES[outcome.verdict]}
        if outcome.error is not None:
            said["error_type"] = outcome.error.type
            said["error_message"] = storable(outcome.error.message)
            said["traceback"] = storable(outcome.error.traceback)
        if outcome.verdict is HELD:
            said["delay"] = max(outcome.delay, 0.0)
            if outcome.counted:
                said["attempts"] = write_attempts([*(details.attempts or ()), _attempt(outcome, at)])
            else:
                said["uncounted"] = 1
        if outcome.result is not None:
            said["result"] = outcome.result
        if details.uncommitted:
            said["uncommitted"] = True
        if details.progress is not None or details.log:
            said |= {key: value for key, value in signs_of_life(record).items() if key != "waiting_at"}
        return said

    def _take_in(self, outcomes: Sequence[Outcome], told: Mapping[tuple[str, int], Told], at: float) -> list[Outcome]:
        """Bring the records up to date; gives the outcomes that were refused."""
        refused = []
        for outcome in outcomes:
            record = outcome.record
            mine = self._mine.get(record.id) is record and record.detail().claim == outcome.claim
            if mine:
                del self._mine[record.id]
            answer = told.get((record.id, outcome.claim or 0))
            if answer is None:
                refused.append(outcome)
                self._spawn(self.watch(record))  # whoever waits for it here waits for its end elsewhere now
            elif _contradicts(outcome, answer.state):
                refused.append(outcome)
                self._spawn(self.get(record.id))
            elif mine:
                self._settle(outcome, answer.state, at)
        return refused

    def _settle(self, outcome: Outcome, state: int, at: float) -> None:
        record = outcome.record
        details = record.detail()
        record.error = outcome.error
        details.waiting_at = None
        if state >= State.SUCCEEDED:
            record.state = FINISHED[State(state)]
            record.finished = max(at, record.started or at)
            return
        self._waiting += 1
        if outcome.counted:
            if details.attempts is None:
                details.attempts = deque(maxlen=ATTEMPTS_KEPT - 1)
            details.attempts.append(_attempt(outcome, at))
        else:
            record.attempt -= 1
        record.started, record.since = None, at
        details.held, details.due, details.run_at = True, at + max(outcome.delay, 0.0), None
        record.state = JobState.SCHEDULED if outcome.delay > 0 else JobState.QUEUED
        self._looked = False

    async def watch(self, record: Record) -> None:
        """See `DurableStore.watch`."""
        raise NotImplementedError

    def drained(self, until: float) -> bool:
        """See `Store.drained`: what waits is not lost, so nothing but what runs is waited for."""
        return not self._mine

    def abandon(self, reason: str) -> list[Record]:
        """See `Store.abandon`: nothing is lost with the process."""
        return []


def _last_served(want: Want, found: Found) -> str:
    """The queue after which the round goes on, when there was no room for all that it found."""
    queues = {row.queue for row in found.rows if row.queue is not None}
    if found.ends and want.cursor:  # it began again at the first
        return max((queue for queue in queues if queue <= want.cursor), default="")
    return max((queue for queue in queues if queue > want.cursor), default=want.cursor)


def _contradicts(outcome: Outcome, state: int) -> bool:
    """The success of an `atomic` job was committed with its session, though its commit seemed to fail."""
    return state == State.SUCCEEDED and outcome.verdict is not Verdict.SUCCEEDED


def _attempt(outcome: Outcome, at: float) -> Attempt:
    record = outcome.record
    date = record.epoch.date
    return Attempt(date(record.started or at), date(at), outcome.error)
