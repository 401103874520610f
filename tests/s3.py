"""A real S3 server on loopback: moto's, in a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

OPTIONS: dict[str, Any] = {"key": "test", "secret": "test"}


@contextmanager
def running_s3() -> Iterator[dict[str, Any]]:
    """A server for the time of the block; gives s3fs's storage options for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, process)
            yield OPTIONS | {"endpoint_url": url}
        finally:
            process.terminate()


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "moto's server ended"
        try:
            httpx.get(f"{url}/moto-api/")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server did not come up")
