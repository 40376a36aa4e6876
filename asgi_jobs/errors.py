"""Every exception of the package. Each docstring says what happened and what to do."""


class JobsError(Exception):
    """The base of every exception that asgi_jobs raises."""


class InvalidOption(JobsError, ValueError):
    """An option has a value that cannot work. The message names the option and the remedy."""


class InvalidOptionType(JobsError, TypeError):
    """An option has the wrong type. The message names the option, what was given and what is wanted."""


class InvalidCall(JobsError, TypeError):
    """The function cannot be called with these arguments, or cannot be enqueued at all.

    Raised at the call of `enqueue`, so that the mistake shows in the line that made it.
    """


class AmbiguousArgument(InvalidCall):
    """A keyword is both an option of `enqueue` and a parameter of the function.

    Give the options apart: `jobs.using(name="…").enqueue(function, name=value)`.
    """


class RequestBound(JobsError, TypeError):
    """An argument, a closure variable or a dependency belongs to the request, which ends before the job.

    The message names it and shows the line as it should be. Pass plain values (`user.id`), and let the
    job ask for services of its own.
    """


class NotRunning(JobsError, RuntimeError):
    """The engine has not started, or has stopped. The message says how to start it."""


class ShuttingDown(JobsError, RuntimeError):
    """The engine is about to stop and takes no more jobs."""


class QueueFull(JobsError, RuntimeError):
    """`max_queued` jobs wait already, and nothing is dropped silently.

    Answer the request with 503, slow the producer down, or raise `Jobs(max_queued=…)`.
    """


class JobNotFound(JobsError, LookupError):
    """No job has this id. Finished records are kept for `Jobs(retention=…)`; this one may be gone."""


class TaskNotFound(JobsError, LookupError):
    """No declared task has this key; the page may be older than the program. `jobs.tasks()` has them all."""


class NeedsArguments(InvalidCall):
    """The task has required parameters, so it can be enqueued by code only, not from the page."""


class InvalidState(JobsError, RuntimeError):
    """The job's state does not allow this: only a finished job can be run again."""


class ArgumentsGone(JobsError, RuntimeError):
    """The job cannot be run again: its function and arguments are no longer kept.

    A job that succeeded lets go of them at its end; of the failed and cancelled ones the last 1,000 keep them.
    """


class NotStored(JobsError, RuntimeError):
    """The job does not exist: its transaction was rolled back, is not committed yet, or the store failed."""


class JobFailed(JobsError):
    """`result()` of a job that failed. `.job` is the job, `.job.error` has type, message and traceback."""

    def __init__(self, message: str, job: object = None) -> None:
        super().__init__(message)
        self.job = job


class JobCancelled(JobsError):
    """`result()` of a job that was cancelled. `.job` is the job, `.job.cancel_reason` says why."""

    def __init__(self, message: str, job: object = None) -> None:
        super().__init__(message)
        self.job = job


class ResultNotKept(JobsError, LookupError):
    """The job succeeded, but its value is not kept.

    A value is given to the `Job` objects that are alive when the job ends; hold on to the one that
    `enqueue` returned.
    """


class DeadlockError(JobsError, RuntimeError):
    """A job would wait for a job that cannot start before this one ends.

    Do not wait inside a job for one of its own queue; use another queue, or no wait at all.
    """


class NoCurrentJob(JobsError, LookupError):
    """`current_job()` was called outside a job."""


class StoreError(JobsError, RuntimeError):
    """The store's database could not do what it was asked."""


class StoreAway(StoreError):
    """The store's database does not answer. Nothing is lost; work goes on by itself when it does again."""


class StoreLocked(StoreError):
    """The database is locked by another transaction, perhaps the caller's own. Enqueue with `on_commit=session`."""


class StoreUnusable(StoreError):
    """The store's database answers, but cannot be used: the message says why, and the remedy."""


class ArgumentsUnreadable(JobsError, ValueError):
    """The stored arguments of a job do not fit its function any more; the job fails, and can be run again.

    It was enqueued by another version of the program. Give new parameters defaults, and change types in two steps.
    """


class ProcessDied(JobsError, RuntimeError):
    """The process that ran the job died; after the third time the job is failed."""
