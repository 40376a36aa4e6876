"""What figures depend on."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def machine(distributions: Iterable[str | None]) -> str:
    """Interpreter, system, cores, and the versions of these distributions beside ours."""
    names = ["asgi-jobs", *(name for name in distributions if name)]
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{python}, {system}, load average {_load()}; {versions}."


def _load() -> str:
    """Whether others used the machine too: then even ratios are doubtful."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"
