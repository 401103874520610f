"""SIGTERM ends a server at whatever moment it comes, with the engine that it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lorecall.server.bench.processes.serving import free_port

from tests.server.served import SMALL

LIMIT_S = 240
"""How long a moment is waited for, and then the end; generous, for a loaded machine."""


def session(leader: int) -> list[str]:
    """Return the processes of a session that run, by their command lines."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _parent, _group, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(owner) == leader and state != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
            except (OSError, ValueError):
                continue  # it ended meanwhile
    return found


def wait_until(check: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it is."""
    end = time.monotonic() + LIMIT_S
    while not check() and time.monotonic() < end:
        time.sleep(0.05)
    return check()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ("", -signal.SIGTERM),  # after a second: nothing is written yet
        ("init engine (profile", 130),
        pytest.param("Loaded endpoint plugin lorecall", 130, marks=pytest.mark.soak),
        pytest.param("Application startup complete", 0, marks=pytest.mark.soak),
    ],
)
def test_sigterm_ends_the_server_and_its_engine(
    tiny: Callable[[str], Path], tmp_path: Path, moment: str, code: int
) -> None:
    """At any moment: nothing of it runs on, and no library complains about how it ended."""
    log = tmp_path / "log"
    command = [str(Path(sys.executable).with_name("lorecall")), "serve", "--base", str(tiny("int8-w8a8"))]
    with log.open("w") as sink:
        server = subprocess.Popen(
            [*command, "--port", str(free_port()), *SMALL],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "LORECALL_STORE": str(tmp_path / "store"),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_LOGGING_LEVEL": "INFO",  # the moments are lines of this level
            },
            start_new_session=True,
        )
    try:
        early = code < 0
        assert early or wait_until(lambda: moment in log.read_text() or server.poll() is not None)
        time.sleep(1 if early else 0)
        assert server.poll() is None, log.read_text()[-2000:]
        server.send_signal(signal.SIGTERM)
        assert server.wait(LIMIT_S) == code, log.read_text()[-2000:]
        assert wait_until(lambda: not session(server.pid)), session(server.pid)
        assert "nanobind" not in log.read_text()
    finally:
        if server.poll() is None or session(server.pid):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
