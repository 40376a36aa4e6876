"""A real nginx in front of a server: its own configuration, one process without privileges, ended by its pid."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.servers.process import until

FOUND = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needed = pytest.mark.skipif(FOUND is None, reason="nginx is not installed: apt install nginx-light")
CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} reuseport;
    {location}
  }}
}}
"""


@contextmanager
def nginx(port: int, location: str, directory: Path) -> Iterator[str]:
    """Serves on a reserved port what the `location` block says; gives its address."""
    assert FOUND is not None
    file = directory / "nginx.conf"
    file.write_text(CONFIGURATION.format(port=port, location=location, directory=directory))
    process = subprocess.Popen([FOUND, "-p", str(directory), "-c", str(file)], stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _answers(address))
        assert process.poll() is None, process.communicate()[1]
        yield address
    finally:
        process.terminate()
        process.communicate()


def _answers(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(address).status_code > 0
    return False
