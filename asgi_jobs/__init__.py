"""Background jobs for ASGI applications, in the same process, with nothing else to install or run."""

from asgi_jobs.app import Jobs
from asgi_jobs.engine.current import current_job
from asgi_jobs.errors import (
    AmbiguousArgument,
    ArgumentsGone,
    ArgumentsUnreadable,
    DeadlockError,
    InvalidCall,
    InvalidOption,
    InvalidOptionType,
    InvalidState,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobsError,
    NeedsArguments,
    NoCurrentJob,
    NotRunning,
    NotStored,
    ProcessDied,
    QueueFull,
    RequestBound,
    ResultNotKept,
    ShuttingDown,
    StoreAway,
    StoreError,
    StoreLocked,
    StoreUnusable,
    TaskNotFound,
)
from asgi_jobs.events import Event
from asgi_jobs.info import Health, TaskInfo, WorkerInfo
from asgi_jobs.job import Job, JobError, JobState
from asgi_jobs.middleware import JobsMiddleware
from asgi_jobs.stores.base import QueueInfo
from asgi_jobs.stores.sql.tables import metadata
from asgi_jobs.task import Retry, Task

__all__ = [
    "AmbiguousArgument",
    "ArgumentsGone",
    "ArgumentsUnreadable",
    "DeadlockError",
    "Event",
    "Health",
    "InvalidCall",
    "InvalidOption",
    "InvalidOptionType",
    "InvalidState",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "JobState",
    "Jobs",
    "JobsError",
    "JobsMiddleware",
    "NeedsArguments",
    "NoCurrentJob",
    "NotRunning",
    "NotStored",
    "ProcessDied",
    "QueueFull",
    "QueueInfo",
    "RequestBound",
    "ResultNotKept",
    "Retry",
    "ShuttingDown",
    "StoreAway",
    "StoreError",
    "StoreLocked",
    "StoreUnusable",
    "Task",
    "TaskInfo",
    "TaskNotFound",
    "WorkerInfo",
    "current_job",
    "metadata",
]
