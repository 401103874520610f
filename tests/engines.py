"""Engines for tests, forked from one process: an engine's imports take longer than the rest of its start."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import cpu_environment, openmp_library


@dataclass
class Fork:
    """A forked host where `EngineHost` has a `subprocess.Popen`.

    Attributes:
        pid: Its process, and that of its group.
        stdin: What it reads requests from.
        stdout: What it writes answers to.
    """

    pid: int
    stdin: IO[str]
    stdout: IO[str]
    _handle: int = field(init=False)

    def __post_init__(self) -> None:
        self._handle = os.pidfd_open(self.pid)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked host", timeout or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()
        os.close(self._handle)


class ForkedHost(EngineHost):
    """An engine host that is a fork."""

    def __init__(self, log: Path, process: Fork) -> None:
        self.log, self._log = log, log.open("a")
        self._process: Any = process
        try:
            self._read()
        except BaseException:
            self.close()
            raise


class Engines:
    """The process that engines are forked from.

    Args:
        log: File for what it prints.
    """

    def __init__(self, log: Path) -> None:
        cores = sorted(os.sched_getaffinity(0))
        bound = cpu_environment(dict(os.environ), cores, openmp_library())
        bound.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would outweigh what an engine's arguments say
        own = {
            "OMP_NUM_THREADS": str(len(cores)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_USE_LAYERNAME": "0",  # as `prepare_environment` does before vLLM is imported
        }
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("w") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked"],
                stdin=theirs.fileno(),
                stdout=sink,
                stderr=sink,
                env={**os.environ, **bound, **own, "HF_HUB_OFFLINE": "1"},
            )

    def start(
        self,
        log: Path,
        arguments: dict[str, Any],
        *,
        plugin: bool = True,
        environ: dict[str, str] | None = None,
    ) -> ForkedHost:
        """Start an engine; the arguments are those of `EngineHost`."""
        plugins = {"VLLM_PLUGINS": "lorecall" if plugin else "none"}
        job = {"arguments": arguments, "environ": {**plugins, **(environ or {})}}
        its_stdin, requests = os.pipe()
        answers, its_stdout = os.pipe()
        with log.open("a") as sink:
            socket.send_fds(self._socket, [json.dumps(job).encode()], [its_stdin, its_stdout, sink.fileno()])
        os.close(its_stdin)
        os.close(its_stdout)
        pid = int(self._socket.recv(64) or -1)
        return ForkedHost(log, Fork(pid, os.fdopen(requests, "w"), os.fdopen(answers)))

    def close(self) -> None:
        """End the process; engines that run go on."""
        self._socket.close()
        self._process.wait()


@contextmanager
def running_engines(work: Path) -> Iterator[Engines]:
    """Yield a process for engines, and end it."""
    engines = Engines(work / "engines.log")
    try:
        yield engines
    finally:
        engines.close()
