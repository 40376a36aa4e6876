"""The checker of histories finds each fault that is planted, and nothing in a clean history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.history import (
    LOST,
    NOT_ALIVE,
    OUT_OF_ORDER,
    OVERLAPPING,
    RAN_ANYWAY,
    Report,
    check,
)
from benchmarks.journal import Event, Journal, Kind, events


class History:
    """A history that is made up; each event comes a while after the one before, or at a time of its own."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._now = 0

    def add(self, kind: Kind, process: str, job: str = "", queue: str | None = "q", **facts: Any) -> int:
        self._now += 10
        self.events.append(Event(self._now, kind, process, job, queue, facts))
        return self._now

    def call(self, job: str, queue: str | None = "q", *, process: str = "web", **facts: Any) -> None:
        self.add(Kind.CALLED, process, job, queue, **facts)

    def accept(self, job: str, *, process: str = "web") -> None:
        self.add(Kind.ACCEPTED, process, job)

    def enqueue(self, job: str, queue: str | None = "q", *, process: str = "web", **facts: Any) -> None:
        self.call(job, queue, process=process, **facts)
        self.accept(job, process=process)

    def start(self, job: str, *, process: str = "worker") -> int:
        return self.add(Kind.STARTED, process, job)

    def end(self, job: str, run: int, outcome: str = "ok", *, process: str = "worker") -> None:
        self.add(Kind.ENDED, process, job, run=run, outcome=outcome)

    def run(self, job: str, outcome: str = "ok", *, process: str = "worker") -> None:
        self.end(job, self.start(job, process=process), outcome, process=process)

    def probe(self, queue: str = "q") -> None:
        self.enqueue(f"probe of {queue}", queue, process="end", probe=True)
        self.run(f"probe of {queue}")

    def check(self, **limits: int) -> Report:
        return check(self.events, limits)

    def faults(self, **limits: int) -> list[str]:
        return [fault.kind for fault in self.check(**limits).faults]


@pytest.fixture
def history() -> History:
    return History()


def test_a_clean_history_has_no_fault_and_is_counted(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    history.enqueue("c", "other")
    history.enqueue("d", None)
    for job in "acbd":
        history.run(job)
    history.probe()
    history.probe("other")

    report = history.check()

    assert report.faults == []
    assert (report.jobs, report.accepted, report.runs) == (6, 6, 6)
    assert report.pairs == 4  # a before b; a and b before the probe of q; c before the other's


# Lost


def test_a_job_that_was_accepted_and_never_ran_is_lost(history: History) -> None:
    history.enqueue("a")
    history.probe()

    assert history.faults() == [LOST]


def test_a_job_whose_only_run_failed_is_lost(history: History) -> None:
    history.enqueue("a")
    history.run("a", "error")
    history.probe()

    assert history.faults() == [LOST]


def test_a_job_whose_only_run_was_cut_off_is_lost(history: History) -> None:
    history.enqueue("a")
    history.start("a")
    history.add(Kind.KILLED, "worker")
    history.enqueue("probe", probe=True)
    history.run("probe", process="worker 2")

    assert history.faults() == [LOST]


def test_a_job_without_a_queue_can_be_lost_too(history: History) -> None:
    history.enqueue("a", None)

    assert history.faults() == [LOST]


@pytest.mark.parametrize("excuse", [Kind.CANCELLING, Kind.GAVE_UP])
def test_a_job_that_was_cancelled_or_given_up_is_not_lost(history: History, excuse: Kind) -> None:
    history.enqueue("a")
    history.add(excuse, "web", "a")
    history.probe()

    assert history.faults() == []


def test_a_job_that_was_never_accepted_is_not_lost(history: History) -> None:
    history.call("a")
    history.probe()

    assert history.faults() == []


def test_a_job_that_is_meant_to_fail_has_to_fail(history: History) -> None:
    history.enqueue("a", hopeless=True)
    history.run("a", "error")
    history.enqueue("b", hopeless=True)
    history.probe()

    assert history.faults() == [LOST]


# Out of order


def test_a_job_that_ran_before_one_that_was_accepted_before_its_call_is_out_of_order(history: History) -> None:
    history.enqueue("a", process="web 1")
    history.enqueue("b", process="web 2")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == [OUT_OF_ORDER]


def test_calls_of_one_process_are_in_order_even_when_not_awaited(history: History) -> None:
    history.call("a")
    history.call("b")
    history.accept("a")
    history.accept("b")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == [OUT_OF_ORDER]


def test_pairs_of_calls_of_one_process_are_counted_once_accepted_or_not(history: History) -> None:
    history.call("a")
    history.call("b")
    history.accept("a")
    history.accept("b")
    history.enqueue("c")
    for job in "abc":
        history.run(job)
    history.probe()

    assert history.check().pairs == 6  # a-b, a-c, b-c, and each with the probe


def test_calls_of_two_processes_that_overlap_have_no_order(history: History) -> None:
    history.call("a", process="web 1")
    history.call("b", process="web 2")
    history.accept("a", process="web 1")
    history.accept("b", process="web 2")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == []


def test_jobs_that_hang_on_a_commit_have_no_order_by_their_calls(history: History) -> None:
    history.call("a", by_commit=True)
    history.call("b", by_commit=True)
    history.accept("b")
    history.accept("a")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == []


def test_a_job_that_ran_between_two_attempts_of_the_one_before_it_is_out_of_order(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    history.run("a", "error")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == [OUT_OF_ORDER]


def test_a_delayed_job_has_no_order(history: History) -> None:
    history.enqueue("a", delayed=True)
    history.enqueue("b")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == []


def test_a_job_whose_acceptance_was_cut_off_has_its_place_all_the_same(history: History) -> None:
    history.call("a")
    history.call("b")
    history.run("b")
    history.run("a")
    history.probe()

    assert history.faults() == [OUT_OF_ORDER]


def test_order_is_found_to_be_broken_far_back(history: History) -> None:
    jobs = [str(number) for number in range(100)]
    for job in jobs:
        history.enqueue(job)
    for job in [*jobs[1:], jobs[0]]:
        history.run(job)
    history.probe()

    assert history.check().count(OUT_OF_ORDER) == 99


# Overlapping


def test_a_job_that_started_before_the_last_had_ended_overlaps(history: History) -> None:
    history.enqueue("a", process="web 1")
    history.call("b", process="web 2")
    history.accept("b", process="web 2")
    first = history.start("a", process="worker 1")
    history.run("b", process="worker 2")
    history.end("a", first, process="worker 1")
    history.probe()

    assert OVERLAPPING in history.faults()


def test_two_runs_of_one_job_at_once_overlap(history: History) -> None:
    history.enqueue("a")
    first = history.start("a", process="worker 1")
    history.run("a", process="worker 2")
    history.end("a", first, process="worker 1")
    history.probe()

    assert history.faults() == [OVERLAPPING]


def test_a_successor_that_started_before_the_kill_overlaps_with_the_run_that_it_cut_off(history: History) -> None:
    history.enqueue("a", delayed=True)
    history.enqueue("b", delayed=True)
    history.start("a", process="worker 1")
    history.run("b", process="worker 2")
    history.add(Kind.KILLED, "worker 1")
    history.run("a", process="worker 2")
    history.probe()

    assert history.faults() == [OVERLAPPING]


def test_a_run_that_a_kill_has_cut_off_ends_with_it(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    history.start("a", process="worker 1")
    history.add(Kind.KILLED, "worker 1")
    history.run("a", process="worker 2")
    history.run("b", process="worker 2")
    history.probe()

    report = history.check()

    assert report.faults == []
    assert (report.kills, report.cut_off, report.ran_again) == (1, 1, 0)


def test_a_run_that_never_ended_though_nobody_was_killed_overlaps_with_all_that_follow(history: History) -> None:
    history.enqueue("a", hopeless=True, delayed=True)
    history.run("a", "error")
    history.start("a")
    history.probe()

    assert OVERLAPPING in history.faults()


def test_a_job_that_ran_again_because_its_end_was_not_stored_is_counted(history: History) -> None:
    history.enqueue("a")
    history.run("a", process="worker 1")
    history.add(Kind.KILLED, "worker 1")
    history.run("a", process="worker 2")
    history.probe()

    report = history.check()

    assert report.faults == []
    assert report.ran_again == 1


# Several at once


def test_a_queue_with_a_limit_may_run_so_many_and_no_more(history: History) -> None:
    for job in "abc":
        history.enqueue(job)
    runs = {job: history.start(job) for job in "abc"}
    for job in "abc":
        history.end(job, runs[job])
    history.probe()

    assert history.faults(q=3) == []
    assert history.faults(q=2) == [OVERLAPPING]


def test_jobs_of_a_queue_with_a_limit_start_in_order(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    second = history.start("b")
    first = history.start("a")
    history.end("a", first)
    history.end("b", second)
    history.probe()

    assert history.faults(q=2) == [OUT_OF_ORDER]


def test_starts_in_two_processes_are_not_compared(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    second = history.start("b", process="worker 2")
    first = history.start("a", process="worker 1")
    history.end("a", first, process="worker 1")
    history.end("b", second, process="worker 2")
    history.probe()

    assert history.faults(q=2) == []


def test_starts_are_not_compared_when_a_kill_may_have_cut_off_a_claim(history: History) -> None:
    history.enqueue("a")
    history.enqueue("b")
    history.add(Kind.KILLED, "worker 1")
    second = history.start("b", process="worker 2")
    first = history.start("a", process="worker 2")
    history.end("a", first, process="worker 2")
    history.end("b", second, process="worker 2")
    history.probe()

    assert history.faults(q=2) == []


# Not alive, rolled back


def test_a_queue_whose_last_probe_did_not_end_is_not_alive(history: History) -> None:
    history.enqueue("a")
    history.run("a")
    history.call("probe", probe=True)

    assert history.faults() == [NOT_ALIVE]


def test_a_queue_that_was_not_probed_is_not_alive(history: History) -> None:
    history.enqueue("a")
    history.run("a")
    history.enqueue("b", "other")
    history.run("b")
    history.probe()

    (fault,) = history.check().faults

    assert (fault.kind, fault.queue) == (NOT_ALIVE, "other")


def test_a_job_that_ran_though_its_transaction_was_rolled_back_is_found(history: History) -> None:
    history.call("a", by_commit=True)
    history.add(Kind.ROLLED_BACK, "web", "a")
    history.run("a")
    history.probe()

    assert history.faults() == [RAN_ANYWAY]


# Files


def test_what_processes_wrote_is_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    web, worker = Journal(tmp_path, "web"), Journal(tmp_path, "worker")
    web.write(Kind.CALLED, "a", "q", probe=True)
    web.write(Kind.ACCEPTED, "a")
    run = worker.write(Kind.STARTED, "a")
    web.write(Kind.CALLED, "b", "q")
    worker.write(Kind.ENDED, "a", run=run, outcome="ok")
    web.write_of("worker", Kind.KILLED)
    web.close()
    worker.close()

    found = events(tmp_path)

    assert [event.kind for event in found] == ["called", "accepted", "started", "called", "ended", "killed"]
    assert [event.process for event in found] == ["web", "web", "worker", "web", "worker", "worker"]
    assert check(found).faults == []


def test_a_last_line_that_a_kill_has_torn_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "web")
    journal.write(Kind.CALLED, "a", "q")
    journal.close()
    with (tmp_path / "web.jsonl").open("a") as file:
        file.write('[12345, "acc')

    assert [event.kind for event in events(tmp_path)] == [Kind.CALLED]


def test_a_line_torn_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text('[12345, "acc\n[1, "called", "web", "a", "q", {}]\n')

    with pytest.raises(json.JSONDecodeError):
        events(tmp_path)
