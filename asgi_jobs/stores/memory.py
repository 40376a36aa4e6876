"""The memory store: dictionaries and deques, and no I/O. Jobs are lost with the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush, nsmallest
from itertools import islice
from math import inf
from threading import Lock
from time import monotonic as real_monotonic
from typing import Any

from asgi_jobs.errors import QueueFull
from asgi_jobs.job import ATTEMPTS_KEPT, Attempt, Details, JobState, Record
from asgi_jobs.stores.archive import Archive
from asgi_jobs.stores.base import (
    COUNTED,
    Answer,
    Callbacks,
    Cancelled,
    Claimed,
    Minute,
    Outcome,
    Place,
    Query,
    Standing,
    Ticket,
    Verdict,
)
from asgi_jobs.stores.lanes import STALE_BEFORE_SWEEP, Lane
from asgi_jobs.stores.search import Look, matches, newest_first, number_of

SCHEDULED, QUEUED, RUNNING = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING
SUCCEEDED, CANCELLED = JobState.SUCCEEDED, JobState.CANCELLED
HELD, SUCCESS = Verdict.HELD, Verdict.SUCCEEDED
STATES: dict[Verdict, JobState] = {verdict: verdict.value for verdict in Verdict}  # `value` costs 130 ns a time

FEW = 5_000
AT_ONCE, STEP = 1_000, 1_000
"""Numbers that are looked at before `find` first lets the loop go on, and then between two turns."""
AT_WORK = 200
"""Queues at work that a limited `standings` tells of at least."""
NOTHING = Claimed(())


class MemoryStore:
    """Everything in this process. Every method but `find` answers at once; `add` and `cancel` from any thread."""

    durable = False

    def __init__(
        self,
        *,
        limits: Mapping[str, int],
        max_queued: int,
        max_finished: int,
        monotonic: Callable[[], float] = real_monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._limits = limits
        self._max_queued = max_queued
        self._lock = Lock()
        self._records: dict[int, Record] = {}  # by number: in the order of enqueue
        self._top = 0  # the highest number so far
        self._late: float = inf  # the lowest number that came after a higher one, with its commit
        self._most = 0  # the most records since the dictionary was made; an emptied one keeps its table
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Record | Lane] = deque()  # in the order in which they became ready
        self._parked: deque[Record | Lane] = deque()  # were first in that line, but wait for a thread
        self._stale = 0  # cancelled records and emptied lanes in these two
        self._delayed: list[tuple[float, int, Record]] = []
        self._stale_delays = 0  # cancelled records in it
        self._unique: dict[str, Record] = {}
        self._tickets: dict[str, Ticket] = {}
        self._running: set[Record] = set()
        self._tally = dict.fromkeys(JobState, 0)
        self._archive = Archive(self._records, self._tally, max_finished)
        self._retrying = 0  # of the scheduled ones, those between two attempts
        self.revision = 0
        for name, limit in limits.items():
            self._lanes[name] = Lane(name, limit)

    def open(self, callbacks: Callbacks) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close; records stay."""

    # Taking work in

    def add(self, records: Sequence[Record], *, bounded: bool = True) -> Sequence[Record]:
        """See `Store.add`."""
        with self._lock:
            kept, tally = self._records, self._tally
            if self._unique or len(records) > 1:
                records = self._one_per_key(records)
            if bounded and tally[QUEUED] + tally[SCHEDULED] + len(records) > self._max_queued:
                self.refuse_full(len({record.number for record in records}.difference(kept)))
            for record in records:
                if record.details is not None and not self._has_place(record, record.details):
                    continue
                kept[record.number] = record
                if record.number > self._top:
                    self._top = record.number
                else:
                    self._late = min(self._late, record.number)
                tally[QUEUED] += 1
                if record.queue is None:
                    self._ready.append(record)
                else:
                    self._stand(record, record.queue)
            self.revision += 1
            return records

    def refuse_full(self, n: int) -> None:
        """See `Store.refuse_full`."""
        tally = self._tally
        if tally[QUEUED] + tally[SCHEDULED] + n > self._max_queued:
            raise QueueFull(f"{self._max_queued:,} jobs wait already (max_queued); nothing was enqueued")

    def propose(self, record: Record, tick: float) -> bool:
        """See `Store.propose`."""
        key = record.plan.key
        ticket = self.ticket(key)
        if ticket.last is not None and ticket.last >= tick:
            return False
        if ticket.job is not None and not ticket.job.state.finished:
            self._tickets[key] = ticket._replace(last=tick, skipped=ticket.skipped + 1)
            return False
        self.add((record,))
        self._tickets[key] = Ticket(tick, ticket.skipped, record)
        return True

    def ticket(self, task: str) -> Ticket:
        """See `Store.ticket`."""
        ticket = self._tickets.get(task, Ticket(None, 0, None))
        if ticket.job is not None and ticket.job.number not in self._records:
            return ticket._replace(job=None)
        return ticket

    def tickets(self, tasks: Sequence[str]) -> dict[str, Ticket]:
        """See `Store.tickets`."""
        return {task: self.ticket(task) for task in tasks}

    def _one_per_key(self, records: Sequence[Record]) -> Sequence[Record]:
        """In place of a record whose `unique` key is taken, the unfinished job that has it."""
        taken: dict[str, Record] = {}
        given = []
        for record in records:
            key = record.details.unique if record.details is not None else None
            given.append(record if key is None else self._unique.get(key) or taken.setdefault(key, record))
        return given

    def _has_place(self, record: Record, details: Details) -> bool:
        """Whether the record is new, and stands in line at once; else it is looked after here."""
        if record.number in self._records:  # the unfinished job of the same key
            return False
        if details.unique is not None:
            self._unique[details.unique] = record
        if details.due is None:
            return True
        self._records[record.number] = record
        if record.number > self._top:
            self._top = record.number
        else:
            self._late = min(self._late, record.number)
        self._delay(record, details.due)
        return False

    def _delay(self, record: Record, due: float) -> None:
        record.state = SCHEDULED
        self._tally[SCHEDULED] += 1
        heappush(self._delayed, (due, record.number, record))

    def _stand(self, record: Record, queue: str) -> None:
        """Put a queued job at the end of its lane."""
        lane = self._lanes.get(queue)
        if lane is None:
            lane = record.lane = self._lanes[queue] = Lane(queue, self._limits.get(queue, 1), record)
            lane.ready = True
            self._ready.append(lane)
            return
        record.lane = lane
        lane.append(record)
        if not lane.ready:
            self._offer(lane)

    def _offer(self, lane: Lane) -> None:
        """Let the lane join the line of what is ready, or forget it when it is idle."""
        if lane.head is not None:
            if not lane.ready and len(lane.holders) < lane.limit and lane.paused is None:
                lane.ready = True
                self._ready.append(lane)
        elif (
            not lane.holders
            and lane.paused is None
            and lane.name not in self._limits
            and self._lanes.get(lane.name) is lane
        ):
            del self._lanes[lane.name]

    def due(self) -> float | None:
        """See `Store.due`."""
        with self._lock:
            delayed = self._delayed
            now = self._monotonic()
            while delayed:
                due, _, record = delayed[0]
                if record.state is not SCHEDULED or record.details.due != due:  # type: ignore[union-attr]
                    heappop(delayed)  # cancelled meanwhile
                    self._stale_delays -= 1
                elif due > now:
                    return due
                else:
                    heappop(delayed)
                    record.since = due
                    self._make_ready(record)
            return None

    def _make_ready(self, record: Record) -> None:
        record.state = QUEUED
        self._tally[SCHEDULED] -= 1
        self._tally[QUEUED] += 1
        self.revision += 1
        if record.held:
            self._retrying -= 1
            self._ready.append(record)
        elif record.queue is None:
            self._ready.append(record)
        else:
            self._stand(record, record.queue)

    def reset_due(self, due_of: Callable[[Record], float]) -> None:
        """The wall clock was set: ask again when each delayed job is due."""
        with self._lock:
            live = {entry[2] for entry in self._delayed if entry[2].state is SCHEDULED}
            for record in live:
                record.detail().due = due_of(record)
            self._delayed = [(record.detail().due, record.number, record) for record in live]  # type: ignore[misc]
            heapify(self._delayed)
            self._stale_delays = 0

    # The exchange

    def exchange(self, outcomes: Sequence[Outcome], n: int, threads: int) -> Claimed:
        """See `Store.exchange`."""
        with self._lock:
            if not (outcomes or self._ready or self._parked):
                return NOTHING
            now = self._monotonic()
            self.revision += 1
            for outcome in outcomes:
                record = outcome.record
                if record.state is not RUNNING:  # it was taken in before
                    continue
                if outcome.verdict is SUCCESS and record.details is None:
                    self._succeed(record, now)
                else:
                    self._settle(outcome, now)
            return Claimed(self._claim(n, threads, now))

    def _succeed(self, record: Record, now: float) -> None:
        """`_settle` for nearly every job."""
        self._running.discard(record)
        record.state = SUCCEEDED
        record.finished = now
        record.error = None
        self._tally[RUNNING] -= 1
        lane = record.lane
        if lane is not None:
            record.lane = None
            lane.release(record)
            self._offer(lane)
        self._archive.keep(record)

    def _settle(self, outcome: Outcome, now: float) -> None:
        record = outcome.record
        record.error = outcome.error
        self._running.discard(record)
        self._tally[RUNNING] -= 1
        if outcome.verdict is not HELD:
            state = STATES[outcome.verdict]
        elif record.cancelling:
            state = CANCELLED
        else:
            self._hold(record, outcome, now)
            return
        lane = record.lane
        self._finish(record, state, now)
        if lane is not None:
            lane.release(record)
            self._offer(lane)

    def _hold(self, record: Record, outcome: Outcome, now: float) -> None:
        details = record.detail()
        details.held = True
        if outcome.counted:
            self._remember_attempt(record, now)
        else:
            record.attempt -= 1
        record.started = None
        record.since = now
        record.state = QUEUED
        if outcome.delay > 0:
            details.due, details.run_at = now + outcome.delay, None
            self._retrying += 1
            self._delay(record, details.due)
        else:
            self._tally[QUEUED] += 1
            self._ready.append(record)

    def _remember_attempt(self, record: Record, now: float) -> None:
        details = record.detail()
        if details.attempts is None:
            details.attempts = deque(maxlen=ATTEMPTS_KEPT - 1)
        date = record.epoch.date
        details.attempts.append(Attempt(date(record.started or now), date(now), record.error))

    def _claim(self, n: int, threads: int, now: float) -> list[Record]:
        """Hand out what has been ready longest; what needs a thread waits first in line for the next."""
        claimed: list[Record] = []
        ready, parked = self._ready, self._parked
        while len(claimed) < n:
            if parked and threads:
                item = parked.popleft()
            elif ready:
                item = ready.popleft()
            else:
                break
            record = self._startable(item)
            if record is None:
                continue
            if record.plan.threaded:
                if not threads:
                    parked.append(item)
                    continue
                threads -= 1
            if item is not record:
                self._advance(item, record)
            record.state = RUNNING
            record.attempt += 1
            record.started = now
            if record.details is not None:
                record.details.held = False
            claimed.append(record)
        self._tally[QUEUED] -= len(claimed)
        self._tally[RUNNING] += len(claimed)
        self._running.update(claimed)
        return claimed

    def _startable(self, item: Any) -> Record | None:
        """The job that an entry of the ready line stands for, if it may still start."""
        if type(item) is Lane:
            if item.head is not None and item.paused is None:
                return item.head
            self._stale -= item.head is None
            item.ready = False
            self._offer(item)
            return None
        record: Record = item  # it has no queue; or its slot already, for it stands between two attempts
        if record.state is not QUEUED:
            self._stale -= 1
            return None
        if record.lane is None or record.lane.paused is None:
            return record
        record.lane.park(record)
        return None

    def _advance(self, lane: Any, record: Record) -> None:
        """The lane's head starts: it takes a slot, and the lane joins the line again at its end."""
        lane.advance()
        lane.holders += (record,)
        if lane.head is not None and len(lane.holders) < lane.limit:
            self._ready.append(lane)
        else:
            lane.ready = False

    # The end of a job

    def _finish(self, record: Record, state: JobState, now: float) -> None:
        record.state = state
        record.finished = now
        record.lane = None
        details = record.details
        if details is not None:
            details.held = False
            if details.unique is not None and self._unique.get(details.unique) is record:
                del self._unique[details.unique]
        self._archive.keep(record)

    def prune(self, keep: float, limit: int) -> int:
        """See `Store.prune`."""
        with self._lock:
            self._most = max(self._most, len(self._records))
            dropped = self._archive.prune(self._monotonic() - keep, limit)
            if dropped < limit:
                self._shrink()
            self.revision += bool(dropped)
            return dropped

    def _shrink(self) -> None:
        """A dictionary that was emptied keeps its table (29 MiB after a million entries): make it anew."""
        if len(self._records) * 4 < self._most:
            self._records = dict(self._records)
            self._lanes = dict(self._lanes)
            self._unique = dict(self._unique)
            self._running = set(self._running)
            self._archive.shrink(self._records)
            self._most = len(self._records)

    @property
    def trimmed(self) -> bool:
        """See `Store.trimmed`."""
        return self._archive.trimmed

    # Acting on jobs and queues

    def cancel(self, ids: Sequence[str], reason: str) -> Cancelled:
        """See `Store.cancel`."""
        ended: list[Record] = []
        asked: list[Record] = []
        with self._lock:
            now = self._monotonic()
            for id in ids:
                record = self._find(id)
                if record is None or record.state.finished:
                    continue
                details = record.detail()
                if details.cancel_requested is None:
                    details.cancel_requested, details.cancel_reason = now, reason or None
                if record.state is RUNNING:
                    asked.append(record)
                else:
                    self._cancel_waiting(record, now)
                    ended.append(record)
            self.revision += 1
        return Cancelled(ended, asked)

    def _cancel_waiting(self, record: Record, now: float) -> None:
        was, held, lane = record.state, record.held, record.lane
        self._tally[was] -= 1
        self._retrying -= held and was is SCHEDULED
        self._finish(record, CANCELLED, now)
        record.view = None  # after a run the engine puts the value there first
        if held and lane is not None:
            lane.release(record)
        if was is SCHEDULED:
            self._leave_delayed()
        elif lane is None or held:
            self._leave_ready()
        else:
            self._leave_lane(lane, record)
        if lane is not None:
            self._offer(lane)

    def _leave_lane(self, lane: Lane, record: Record) -> None:
        was_head = record is lane.head
        lane.leave(record)
        if not was_head or not lane.ready:
            return
        if lane.head is None:
            self._leave_ready()
        elif record.plan.threaded and not lane.head.plan.threaded and lane in self._parked:
            self._parked.remove(lane)  # it need not wait for a thread any more
            self._ready.append(lane)

    def _leave_ready(self) -> None:
        """One that stood in the line of what is ready has left: swept out when they are many."""
        self._stale += 1
        if self._stale > STALE_BEFORE_SWEEP and self._stale * 2 > len(self._ready) + len(self._parked):
            self._ready = deque(item for item in self._ready if _may_be_ready(item))
            self._parked = deque(item for item in self._parked if _may_be_ready(item))
            self._stale = 0

    def _leave_delayed(self) -> None:
        """The same for one that was delayed."""
        self._stale_delays += 1
        if self._stale_delays > STALE_BEFORE_SWEEP and self._stale_delays * 2 > len(self._delayed):
            self._delayed = [entry for entry in self._delayed if entry[2].state is SCHEDULED]
            heapify(self._delayed)
            self._stale_delays = 0

    def pause(self, queue: str) -> None:
        """See `Store.pause`."""
        with self._lock:
            lane = self._lanes.get(queue)
            if lane is None:
                lane = self._lanes[queue] = Lane(queue, self._limits.get(queue, 1))
            if lane.paused is None:
                lane.paused = self._monotonic()
            self.revision += 1

    def resume(self, queue: str) -> None:
        """See `Store.resume`."""
        with self._lock:
            lane = self._lanes.get(queue)
            if lane is None:
                return
            lane.paused = None
            self._ready.extend(lane.unpark())
            self._offer(lane)
            self.revision += 1

    # Looking

    def _find(self, id: str) -> Record | None:
        number = number_of(id)
        record = self._records.get(number) if number is not None else None
        return record if record is not None and record.id == id else None

    def get(self, id: str) -> Record | None:
        """See `Store.get`."""
        return self._find(id)

    def find(self, query: Query) -> Answer[list[Record]]:
        """See `Store.find`. Answers at once, unless it has to look through many records: then the loop goes on."""
        with self._lock:
            if query.state is not None and query.state is not SUCCEEDED and self._tally[query.state] <= FEW:
                few = newest_first(self._in_state(query.state), query.before)
                return list(islice((record for record in few if matches(record, query)), query.limit))
            look = Look(query, self._top, self._lowest())
            look.on(self._records, AT_ONCE)
        return look.found if look.ended else self._look_on(look)

    def _lowest(self) -> int:
        """A number that none is below: the first one's, unless a later one came with a lower number."""
        first = next(iter(self._records), self._top + 1)
        if self._late < first and self._late not in self._records:
            lowest = min(self._records, default=first)
            self._late = lowest if lowest < first else inf
        return int(min(first, self._late))

    async def _look_on(self, look: Look) -> list[Record]:
        while not look.ended:
            await asyncio.sleep(0)
            with self._lock:
                look.on(self._records, STEP)
        return look.found

    def _in_state(self, state: JobState) -> Iterable[Record]:
        """All records in a state in which there are few, found without a look at the others."""
        if state is RUNNING:
            return self._running
        if state is SCHEDULED:
            return [record for _, _, record in self._delayed if record.state is SCHEDULED]
        return self._queued() if state is QUEUED else self._archive.unlucky[state].values()

    def _queued(self) -> list[Record]:
        found = [item for line in (self._ready, self._parked) for item in line if type(item) is Record]
        for lane in self._lanes.values():
            found += lane.waiting()
            found += lane.parked or ()
        return [record for record in found if record.state is QUEUED]

    def counts(self) -> dict[JobState, int]:
        """See `Store.counts`."""
        return dict(self._tally)

    def hour(self) -> Sequence[Minute]:
        """See `Store.hour`. Records that went before their time are counted, too."""
        with self._lock:
            return self._archive.hour.minutes(self._monotonic())

    def pending(self) -> int:
        """See `Store.pending`."""
        tally = self._tally
        return tally[QUEUED] + self._retrying + tally[RUNNING]

    def drained(self, until: float) -> bool:
        """See `Store.drained`."""
        with self._lock:
            if self._tally[RUNNING] or self._ready or self._parked:
                return False
            return not any(due < until and r.state is SCHEDULED and r.held for due, _, r in self._delayed)

    def abandon(self, reason: str) -> list[Record]:
        """See `Store.abandon`."""
        with self._lock:
            waiting = [r for r in self._records.values() if r.state is QUEUED or r.state is SCHEDULED]
        return self.cancel([record.id for record in waiting], reason).ended

    def standings(self, names: Sequence[str] | None = None, limit: int | None = None) -> list[Standing]:
        """See `Store.standings`."""
        with self._lock:
            lanes = self._all_lanes()
            if names is not None:
                lanes = {name: lanes[name] for name in names if name in lanes}
            if limit is not None:
                lanes = self._first_lanes(lanes, limit)
            return [self._standing(lane) for lane in lanes.values()]

    def queue_count(self) -> int:
        """See `Store.queue_count`."""
        with self._lock:
            return len(self._all_lanes())

    def _all_lanes(self) -> dict[str, Lane]:
        lanes = dict(self._lanes)
        for _, _, record in self._delayed:  # a delayed job has no place in its queue, but the queue has it
            if record.state is SCHEDULED and record.queue is not None and record.queue not in lanes:
                lanes[record.queue] = Lane(record.queue, self._limits.get(record.queue, 1))
        return lanes

    def _first_lanes(self, lanes: dict[str, Lane], limit: int) -> dict[str, Lane]:
        """Those that are paused or configured, and of those at work and of the others those that wait longest."""
        chosen: dict[str, Lane] = {}
        at_work: list[Lane] = []
        others: list[Lane] = []
        for name, lane in lanes.items():
            if lane.paused is not None or name in self._limits:
                chosen[name] = lane
            else:
                (at_work if lane.holders else others).append(lane)
        longest = [*nsmallest(max(limit, AT_WORK), at_work, _waits_since), *nsmallest(limit, others, _waits_since)]
        return chosen | {lane.name: lane for lane in longest}

    def _standing(self, lane: Lane) -> Standing:
        return Standing(
            name=lane.name,
            limit=lane.limit,
            queued=lane.queued,
            paused=lane.paused,
            holders=list(lane.holders),
            head=lane.head,
            last_failed=self._archive.last_failed.get(lane.name),
        )

    def holders(self, record: Record) -> Sequence[Record]:
        """See `Store.holders`."""
        lane = self._lanes.get(record.queue) if record.queue is not None else None
        if lane is None or len(lane.holders) < lane.limit:
            return ()
        return tuple(lane.holders)

    def places(self, records: Sequence[Record]) -> dict[str, Place]:
        """See `Store.places`."""
        with self._lock:
            wanted: dict[Lane, set[Record]] = {}
            for record in records:
                if record.lane is not None and record.state is QUEUED and not record.held:
                    wanted.setdefault(record.lane, set()).add(record)
            places: dict[str, Place] = {}
            for lane, ours in wanted.items():
                places |= _places_in(lane, ours)
            return places

    def waiting_in(self, queue: str, limit: int) -> list[Record]:
        """See `Store.waiting_in`."""
        with self._lock:
            lane = self._lanes.get(queue)
            waiting = list(islice(lane.waiting(), limit)) if lane else []
            if len(waiting) < limit:
                delayed = (r for _, _, r in self._delayed if r.state is SCHEDULED and r.queue == queue)
                waiting.extend(islice(delayed, limit - len(waiting)))
                held = [r for r in (lane.holders if lane else ()) if r.state is QUEUED]
                waiting.extend(held)
            return waiting


def _places_in(lane: Lane, ours: set[Record]) -> dict[str, Place]:
    """The places of some jobs of one lane."""
    places: dict[str, Place] = {}
    before = next(iter(lane.holders), None)
    for position, waiting in enumerate(islice(lane.waiting(), COUNTED), 1):
        if waiting in ours:
            places[waiting.id] = Place(position, before)
            if len(places) == len(ours):
                return places
        before = waiting
    return {record.id: Place(COUNTED + 1, None) for record in ours} | places


def _waits_since(lane: Lane) -> float:
    return lane.head.since if lane.head is not None else inf


def _may_be_ready(item: Record | Lane) -> bool:
    if isinstance(item, Lane):
        item.ready = item.head is not None
        return item.ready
    return item.state is QUEUED
