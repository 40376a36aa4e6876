"""Real servers with applications that cannot start, or that know no lifespan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.servers.process import Server, granian, hypercorn, uvicorn

pytestmark = pytest.mark.processes

APPS = "tests.servers.apps.broken"
Serve = Callable[..., AbstractContextManager[Server]]
EVERY_SERVER = pytest.mark.parametrize("serve", [uvicorn, hypercorn, granian])


def refusal(serve: Serve, app: str) -> str:
    """What a server says that does not come up."""
    with pytest.raises(AssertionError, match="has ended") as ended, serve(f"{APPS}:{app}"):
        pass
    return str(ended.value)


@EVERY_SERVER
def test_a_start_up_that_fails_ends_the_server_with_its_error(serve: Serve) -> None:
    said = refusal(serve, "failing")

    assert "no database" in said
    assert "Stopping: waiting" not in said  # nobody waits for jobs that never may start
    assert "1 job was lost at shutdown: 'short'" in said


@EVERY_SERVER
def test_a_taken_name_ends_the_server_with_the_remedy(serve: Serve) -> None:
    said = refusal(serve, "taken")

    assert "request.state.jobs is taken" in said
    assert "state='mail_jobs'" in said


@EVERY_SERVER
def test_an_application_without_a_lifespan_has_a_page_and_ends_well(serve: Serve) -> None:
    with serve(f"{APPS}:without_lifespan") as server:
        assert server.page()["counts"]["queued"] == 0
        assert server.client.get("/").text == "ready"
        code = server.stop()

    assert code in (0, -15)
    assert "Traceback" not in server.output
