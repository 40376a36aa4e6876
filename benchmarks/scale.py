"""How much is measured: enough for a figure, or just enough to see that it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of one run.

    Attributes:
        burst: jobs enqueued before their end is waited for.
        bursts: how often that is done in one throughput sample.
        rounds: samples of each contender.
        depths: waiting jobs (and queue names) behind which ``enqueue`` is timed.
        enqueues: calls timed at each depth.
        wakes: jobs sent one by one to an idle engine.
        records: jobs whose memory is counted.
        retention: seconds that their records are kept: longer than it takes to run them all.
        requests: requests to the host application in one phase.
        listed: finished records behind the overview page.
        polls: times that the page is asked for.
    """

    burst: int = 1_000
    bursts: int = 20
    rounds: int = 9
    depths: tuple[int, ...] = (1, 100_000, 1_000_000)
    enqueues: int = 20_000
    wakes: int = 2_000
    records: int = 100_000
    retention: float = 12.0
    requests: int = 2_000
    listed: int = 1_000_000
    polls: int = 100


QUICK = Scale(
    burst=50,
    bursts=4,
    rounds=2,
    depths=(1, 1_000),
    enqueues=100,
    wakes=20,
    records=1_000,
    retention=1.0,
    requests=50,
    listed=1_000,
    polls=5,
)


@dataclass(frozen=True, slots=True)
class SqlScale:
    """Counts of one run on databases.

    Attributes:
        rounds: samples of each contender.
        on_sqlite: jobs of one sample on SQLite.
        named: jobs of one sample with queue names on PostgreSQL. Procrastinate gets slower a job the more there are.
        single: jobs of one sample in one single queue, a third as many for a worker with `concurrency=1`.
        single_slow: the same of those who look for work every 0.1 s.
        commits: one-row commits of one sample.
        finished: rows of finished jobs that are present beside.
        wakes: jobs sent one by one to another process.
        depths: waiting jobs, and queue names of them, at which the growth curve is taken.
        drained: jobs that are run at each of its points.
    """

    rounds: int = 3
    on_sqlite: int = 3_000
    named: int = 1_000
    single: int = 1_000
    single_slow: int = 30
    commits: int = 1_000
    finished: int = 1_000_000
    wakes: int = 300
    depths: tuple[tuple[int, int], ...] = (
        (1_000, 100),
        (10_000, 100),
        (100_000, 100),
        (10_000, 10_000),
        (100_000, 10_000),
    )
    drained: int = 2_000


SQL_QUICK = SqlScale(
    rounds=1,
    on_sqlite=100,
    named=50,
    single=20,
    single_slow=3,
    commits=50,
    finished=1_000,
    wakes=10,
    depths=((100, 10), (200, 100)),
    drained=50,
)


@dataclass(frozen=True, slots=True)
class PageScale:
    """Counts of one run on the pages.

    Attributes:
        listed: records of ended jobs.
        queues: names at work, or with a job that waits, beside them.
        polls: times that each page is asked for.
    """

    listed: int = 1_000_000
    queues: int = 5_000
    polls: int = 9


PAGE_QUICK = PageScale(listed=1_000, queues=20, polls=2)
