"""Real routers on loopback, in front of running servers: HAProxy with the shipped file, and vllm-router."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from lorecall.server.bench.processes.serving import free_port

from tests.server.pair import ADMIN, wait_for

ROOT = Path(__file__).parents[3]
HAPROXY = ROOT / "helm" / "routers" / "haproxy.cfg"
VLLM_ROUTER = Path(sys.executable).with_name("vllm-router")
NAMES = ("haproxy", "vllm-router")
CHOSEN = "haproxy"


@contextmanager
def running_router(name: str, servers: Sequence[str], log: Path) -> Iterator[str]:
    """Start a router in front of servers, and give its URL; skip where it is not installed.

    Args:
        name: One of `NAMES`.
        servers: The servers' URLs, three at most.
        log: File for its output.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command, environ = _haproxy(port, servers) if name == "haproxy" else _vllm_router(port, servers)
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {name} here: run `make tools` or `make setup`")
    with ExitStack() as ended, log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env={**os.environ, **environ})
        ended.callback(process.wait)
        ended.callback(process.send_signal, signal.SIGKILL)
        assert wait_for(lambda: _answers(url)), log.read_text()[-2000:]
        yield url


def _answers(url: str) -> bool:
    try:
        headers = {"Authorization": f"Bearer {ADMIN}"}  # its own health says nothing of the servers behind it
        return httpx.get(f"{url}/v1/models", headers=headers, timeout=5).is_success
    except httpx.TransportError:
        return False


def _haproxy(port: int, servers: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    addresses = [urlsplit(one).netloc for one in servers]
    addresses += [f"127.0.0.1:{free_port()}"] * (3 - len(servers))  # nothing listens there
    named = {f"LORECALL_SERVER_{number}": one for number, one in enumerate(addresses, start=1)}
    return ["haproxy", "-db", "-f", str(HAPROXY)], {"LORECALL_BIND": f"127.0.0.1:{port}", **named}


def _vllm_router(port: int, servers: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    options = ["--health-check-interval-secs", "1", "--worker-startup-check-interval", "1"]
    options += ["--health-failure-threshold", "1", "--health-success-threshold", "1"]
    options += ["--prometheus-port", str(free_port()), "--policy", "consistent_hash"]
    return [str(VLLM_ROUTER), "--port", str(port), "--worker-urls", *servers, *options], {}
