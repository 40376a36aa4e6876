from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sample_app.server import Sample


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], Sample]]:
    """Start the sample; argument: how long an import rests after each batch, in seconds."""
    with ExitStack() as running:

        def start(import_pause: float) -> Sample:
            data: Path = tmp_path_factory.mktemp("sample")
            sample = running.enter_context(Sample(data, import_pause))
            sample.open_dashboard()
            return sample

        yield start


@pytest.fixture(scope="module")
def sample(start: Callable[[float], Sample]) -> Sample:
    """One sample for all tests of a file: each uses a person, a tenant or a queue of its own."""
    return start(0.03)
