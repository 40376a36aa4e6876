"""What is done to jobs and queues that is not their running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, select, update

from asgi_jobs.errors import ProcessDied
from asgi_jobs.job import Attempt, JobError, Record
from asgi_jobs.stores.base import Cancelled, Ticket
from asgi_jobs.stores.sql.rows import read_attempts, signs_of_life, storable, to_date, write_attempts
from asgi_jobs.stores.sql.tables import SHORT, State, jobs, paused, ticks, workers
from asgi_jobs.stores.sql.taking import Taking

AT_ONCE = 1_000
"""Jobs looked at in one statement."""
NAMED = 100
"""Ids that a message to the others names; of more: look yourself. As in `pg_exchange`."""
LIVES = 3
"""So often may the process of a job die before the job is failed."""
DIED = f"{ProcessDied.__module__}.{ProcessDied.__qualname__}"


class Acting(Taking):
    """Changes what stands in the tables."""

    # Cancel

    async def cancel(self, ids: Sequence[str], reason: str) -> Cancelled:
        """See `Store.cancel`."""
        answer = Cancelled([], [])
        for some in _in_parts(list(dict.fromkeys(id for id in ids if id.isascii() and "\0" not in id))):
            part = await self._write(partial(self._cancel, some, storable(reason) or None))
            for row in part:
                record = self._record(row)
                (answer.asked if row.state == State.RUNNING else answer.ended).append(record)
        self._waiting -= len(answer.ended)
        self._expect(record.queue for record in answer.ended)
        self.revision += 1
        return answer

    def _cancel(self, ids: Sequence[str], reason: str | None, connection: Connection) -> Sequence[Any]:
        now = self.time()
        waits = jobs.c.state < State.RUNNING
        first = jobs.c.cancel_at.is_(None)
        answer = connection.execute(
            update(jobs)
            .where(jobs.c.id.in_(ids), jobs.c.state < State.SUCCEEDED)
            .values(
                cancel_at=func.coalesce(jobs.c.cancel_at, now),
                cancel_reason=case((first, reason), else_=jobs.c.cancel_reason),
                state=case((waits, State.CANCELLED), else_=jobs.c.state),
                slot=case((waits, None), else_=jobs.c.slot),
                finished_at=case((waits, now), else_=jobs.c.finished_at),
            )
            .returning(*SHORT)
        )
        rows = answer.all()
        asked = [(row.worker, row.id) for row in rows if row.state == State.RUNNING and row.worker != self._presence.me]
        message: dict[str, Any] = {}
        if asked:
            message["stop"] = asked[:NAMED]  # the owners find the others at their next look
        ended = [row for row in rows if row.state == State.CANCELLED]
        watched = [row.id for row in ended if row.watched]
        if ended:
            message |= {"wake": None, "ended": watched if len(watched) <= NAMED else None}
        if message:
            self._database.tell(connection, message)
        return rows

    # Queues

    async def pause(self, queue: str) -> None:
        """See `Store.pause`."""

        def work(connection: Connection) -> None:
            self._database.shut_gate(connection)
            there = connection.scalar(select(paused.c.queue).where(paused.c.queue == queue))
            if there is None:
                connection.execute(insert(paused), {"queue": queue, "since_at": self.time()})

        await self._write(work)
        self.revision += 1

    async def resume(self, queue: str) -> None:
        """See `Store.resume`."""

        def work(connection: Connection) -> None:
            connection.execute(delete(paused).where(paused.c.queue == queue))
            self._database.wake(connection, [queue])

        await self._write(work)
        self._expect([queue])
        self.revision += 1

    # Time

    async def due(self) -> float | None:
        """See `Store.due`."""
        now = self.time()
        queues: list[str | None] = []
        while True:
            some = await self._write(partial(self._promote, now))
            queues += some
            if len(some) < AT_ONCE:
                break
        if queues:
            self._expect(queues)
            self.revision += 1
        overdue, next_at = await self._read(self._next_due)
        if overdue:  # it keeps its slot: the exchange takes it
            self._looked = False
        return None if next_at is None else next_at - self._offset

    def _promote(self, now: float, connection: Connection) -> list[str | None]:
        return self._database.promote(connection, now, AT_ONCE)

    def _next_due(self, connection: Connection) -> tuple[bool, float | None]:
        """Whether a held job is due, and when the next one is that is not, held or delayed."""
        now = self.time()
        held, delayed = jobs.c.state == State.HELD, jobs.c.state == State.SCHEDULED
        times = [
            connection.scalar(select(func.min(jobs.c.run_at)).where(which, jobs.c.run_at > now))
            for which in (held, delayed)
        ]
        overdue = connection.scalar(select(jobs.c.id).where(held, jobs.c.run_at <= now).limit(1))
        return overdue is not None, min((time for time in times if time is not None), default=None)

    def reset_due(self, due_of: Callable[[Record], float]) -> None:
        """See `Store.reset_due`: rows have the database's time, which is followed."""

    async def propose(self, record: Record, tick: float) -> bool:
        """See `Store.propose`."""
        proposed = await self._write(partial(self._propose, record, tick))
        if proposed:
            self.written([record])
        return proposed

    def _propose(self, record: Record, tick: float, connection: Connection) -> bool:
        key = record.plan.key
        self._see(key, connection)
        row = (connection.execute(select(ticks).where(ticks.c.task == key).with_for_update())).one()
        if row.tick is not None and row.tick >= tick:
            return False
        unfinished = connection.scalar(select(jobs.c.id).where(jobs.c.id == row.job, jobs.c.state < State.SUCCEEDED))
        change: dict[str, Any] = {"tick": tick}
        if unfinished is not None:
            change["skipped"] = row.skipped + 1
        else:
            change["job"] = record.id
            self._add([record], True, connection)
        connection.execute(update(ticks).where(ticks.c.task == key).values(**change))
        return unfinished is None

    def _see(self, task: str, connection: Connection) -> None:
        """Remember when a schedule was first seen; by a statement that two processes may send at once."""
        there = connection.scalar(select(ticks.c.task).where(ticks.c.task == task))
        if there is None:
            self._database.insert_tick(connection, {"task": task, "since_at": self.time()})

    async def ticket(self, task: str) -> Ticket:
        """See `Store.ticket`."""
        ticket = (await self.tickets([task]))[task]
        if ticket.since is None:
            await self._write(partial(self._see, task))
            ticket = (await self.tickets([task]))[task]
        return ticket

    async def tickets(self, tasks: Sequence[str]) -> dict[str, Ticket]:
        """See `Store.tickets`."""
        rows, runs = await self._read(partial(self._tickets, tasks))
        found = {
            row.task: Ticket(
                row.tick, row.skipped, self._record(runs[row.job]) if row.job in runs else None, row.since_at
            )
            for row in rows
        }
        return {task: found.get(task, Ticket(None, 0, None)) for task in tasks}

    def _tickets(self, tasks: Sequence[str], connection: Connection) -> tuple[Sequence[Any], dict[str, Any]]:
        rows = connection.execute(select(ticks).where(ticks.c.task.in_(tasks))).all()
        runs = connection.execute(select(*SHORT).where(jobs.c.id.in_([row.job for row in rows if row.job is not None])))
        return rows, {row.id: row for row in runs}

    # Jobs that run

    async def report(self, records: Sequence[Record]) -> None:
        """See `DurableStore.report`."""
        said = [(record.id, record.detail().claim, signs_of_life(record)) for record in records]

        def work(connection: Connection) -> None:
            for id, claim, signs in said:
                mine = (jobs.c.id == id) & (jobs.c.claim == claim) & (jobs.c.state == State.RUNNING)
                if signs:
                    connection.execute(update(jobs).where(mine).values(**signs))

        await self._write(work)

    def settle(self, session: Any, record: Record, result: str | None) -> bool:
        """See `DurableStore.settle`."""
        now = self.time()
        mine = (jobs.c.id == record.id) & (jobs.c.claim == record.detail().claim) & (jobs.c.state == State.RUNNING)
        answer = session.execute(
            update(jobs).where(mine).values(state=State.SUCCEEDED, finished_at=now, result=result, error_type=None)
        )
        return bool(answer.rowcount == 1)

    async def release(self, id: str) -> Record | None:
        """See `DurableStore.release`."""

        def work(connection: Connection) -> Any:
            running = (jobs.c.id == id) & (jobs.c.state == State.RUNNING)
            row = (connection.execute(select(jobs).where(running).with_for_update())).one_or_none()
            if row is not None:
                self._give_up(connection, row, died=False)
                lost = [] if row.worker == self._presence.me else [[row.worker, row.id]]
                self._database.tell(connection, {"wake": None, "lost": lost})
            return row

        row = await self._write(work)
        if row is None:
            return None
        if row.worker == self._presence.me:
            self._mine.pop(row.id, None)
            self._callbacks.lost([row.id])
        self._expect_anything()
        self.revision += 1
        return await self.get(id)

    async def rescue(self, worker: int) -> bool:
        """Take over what ran in a process that is dead: each job to its place, the attempt not counted.

        Gives False where it is not dead.
        """

        def work(connection: Connection) -> list[Any] | None:
            if not self._database.seize(connection, worker):
                return None
            found = connection.execute(
                select(jobs).where(jobs.c.worker == worker, jobs.c.state == State.RUNNING).with_for_update()
            )
            rows = list(found)
            stopped = connection.scalar(select(workers.c.stopping).where(workers.c.id == worker))
            back = [row for row in rows if self._give_up(connection, row, died=not stopped) is State.HELD]
            settled = (jobs.c.worker == worker) & (jobs.c.state == State.SUCCEEDED) & jobs.c.slot.is_not(None)
            connection.execute(update(jobs).where(settled).values(slot=None))
            connection.execute(delete(workers).where(workers.c.id == worker))
            ended = [row.id for row in rows if row.watched and row not in back]
            self._database.tell(connection, {"wake": None, "ended": ended if len(ended) <= NAMED else None})
            return back

        rows = await self._write(work)
        if rows is None:
            return False
        if rows:
            self._say_rescued(worker, rows)
        self._expect_anything()
        self._callbacks.wake()
        return True

    def _say_rescued(self, worker: int, rows: Sequence[Any]) -> None:
        raise NotImplementedError

    def _give_up(self, connection: Connection, row: Any, *, died: bool) -> State:
        """End an attempt whose process is gone, or hangs. A new claim number: what it may still say is refused."""
        now, deaths = self.time(), row.deaths + died
        change: dict[str, Any] = {
            "deaths": deaths,
            "claim": self._database.next_claim(connection),
            "waiting_at": None,
        }
        error = JobError(DIED, f"the process that ran it died (time {deaths} of at most {LIVES})", "") if died else None
        if row.cancel_at is not None:
            state = State.CANCELLED
        else:
            state = State.FAILED if died and deaths >= LIVES else State.HELD
        if state is State.HELD:
            cut_off = Attempt(to_date(row.started_at or now), to_date(now), error)
            change |= {"run_at": now, "since_at": now, "started_at": None, "attempt": row.attempt - 1}
            change["attempts"] = write_attempts([*(read_attempts(row.attempts) or ()), cut_off])
        else:
            change |= {"finished_at": max(now, row.started_at or now), "slot": None}
        if state is State.FAILED and error is not None:
            change |= {"error_type": error.type, "error_message": error.message, "traceback": ""}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(state=state, **change))
        return state

    # Going

    async def prune(self, keep: float, limit: int) -> int:
        """See `Store.prune`."""
        until, longer = self._wait_to_prune
        if self._clock.monotonic() < until + keep:
            keep += longer
        before = self.time() - keep

        def work(connection: Connection) -> int:
            finished = jobs.c.state >= State.SUCCEEDED
            old = finished & (jobs.c.finished_at <= before) & jobs.c.slot.is_(None)
            gone = self._delete(connection, old, limit)
            if gone < limit:
                kept = connection.scalar(select(func.count()).select_from(jobs).where(finished)) or 0
                too_many = min(kept - self._max_finished, limit - gone)
                if too_many > 0:
                    gone += self._delete(connection, finished & jobs.c.slot.is_(None), too_many)
            return gone

        gone = await self._write(work)
        self.revision += bool(gone)
        return gone

    def _delete(self, connection: Connection, which: Any, limit: int) -> int:
        oldest = (
            select(jobs.c.id).where(which).order_by(jobs.c.finished_at, jobs.c.id).limit(limit)
            .with_for_update(skip_locked=True)
        )  # fmt: skip
        answer = connection.execute(delete(jobs).where(jobs.c.id.in_(oldest.scalar_subquery())))
        return answer.rowcount


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]
