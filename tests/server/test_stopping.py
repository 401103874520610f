"""What ends a server at whatever moment, SIGTERM or SIGKILL, ends the engine that it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lorecall.server.bench.processes.serving import free_port

from tests.server.pair import wait_for
from tests.server.served import SMALL

LIMIT_S = 240
"""How long a moment is waited for, and then the end; generous, for a loaded machine."""

READY = "Application startup complete"


def session(leader: int) -> dict[int, str]:
    """Return the processes of a session that run: their numbers and command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _parent, _group, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(owner) == leader and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()[:80]
            except (OSError, ValueError):
                continue  # it ended meanwhile
    return found


@dataclass(frozen=True)
class Started:
    """A server that was started, its port and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def await_line(self, words: str) -> None:
        """Wait until its log has some words, or it has ended."""
        assert wait_for(lambda: words in self.log.read_text() or self.process.poll() is not None, LIMIT_S)
        assert self.process.poll() is None, self.log.read_text()[-2000:]


@contextmanager
def started(base: Path, work: Path, environ: dict[str, str] | None = None) -> Iterator[Started]:
    """Start `lorecall serve` in a session of its own; nothing of it is left afterwards."""
    log, port = work / "log", free_port()
    command = [str(Path(sys.executable).with_name("lorecall")), "serve", "--base", str(base)]
    with log.open("w") as sink:
        server = subprocess.Popen(
            [*command, "--port", str(port), *SMALL],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "LORECALL_STORE": str(work / "store"),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_LOGGING_LEVEL": "INFO",  # the moments are lines of this level
                **(environ or {}),
            },
            start_new_session=True,
        )
    try:
        yield Started(server, port, log)
    finally:
        if server.poll() is None or session(server.pid):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def libc_address(pid: int) -> str:
    """Return where a process has the C library: at the same place as another only if it is a fork."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(line.split("-")[0] for line in lines if "libc.so" in line)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ("", -signal.SIGTERM),  # after a second: nothing is written yet
        ("init engine (profile", 130),
        pytest.param("Loaded endpoint plugin lorecall", 130, marks=pytest.mark.soak),
        pytest.param(READY, 0, marks=pytest.mark.soak),
    ],
)
def test_sigterm_ends_the_server_and_its_engine(
    tiny: Callable[[str], Path], tmp_path: Path, moment: str, code: int
) -> None:
    """At any moment: nothing of it runs on, and no library complains about how it ended."""
    with started(tiny("int8-w8a8"), tmp_path) as server:
        server.await_line(moment)
        time.sleep(0 if moment else 1)
        assert server.process.poll() is None, server.log.read_text()[-2000:]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT_S) == code, server.log.read_text()[-2000:]
        assert wait_for(lambda: not session(server.process.pid), LIMIT_S), session(server.process.pid)
        assert "nanobind" not in server.log.read_text()


@pytest.mark.engine
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_a_killed_server_leaves_no_engine_and_a_free_port(
    tiny: Callable[[str], Path], tmp_path: Path, method: str
) -> None:
    """VLLM's engine lived on; as a fork, which it is where nobody says otherwise, it held the port."""
    environ = {} if method == "fork" else {"VLLM_WORKER_MULTIPROC_METHOD": method}
    with started(tiny("int8-w8a8"), tmp_path, environ) as server:
        server.await_line(READY)
        pid = server.process.pid
        engine = {name: number for number, name in session(pid).items() if name.startswith("VLLM::")}
        assert set(engine) == {"VLLM::EngineCore", "VLLM::Worker"}
        same = {libc_address(number) == libc_address(pid) for number in engine.values()}
        assert same == {method == "fork"}
        server.process.kill()
        server.process.wait()
        assert wait_for(lambda: not session(pid), LIMIT_S), session(pid)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
