"""One small file a contender; each runs the same empty job in the way its own documentation proposes."""

from benchmarks.peers import errand, huey_memory, idiom, ours, taskflow, taskiq_memory
from benchmarks.peers.contender import Contender

IDIOM = Contender("create_task", None, idiom.contender)
OURS = Contender("asgi_jobs", "asgi-jobs", ours.contender)
OURS_FULL = Contender("asgi_jobs, full", "asgi-jobs", ours.full)
LIBRARIES = (
    Contender("taskiq InMemoryBroker", "taskiq", taskiq_memory.contender),
    Contender("huey MemoryHuey", "huey", huey_memory.contender),
    Contender("fastapi-taskflow", "fastapi-taskflow", taskflow.contender),
    Contender("errand-jobs", "errand-jobs", errand.contender),
)

__all__ = ["IDIOM", "LIBRARIES", "OURS", "OURS_FULL", "Contender"]
