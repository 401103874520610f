"""Engines and servers for tests, forked from one process: imports take longer than the rest of their start."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import cpu_environment, openmp_library

OF_HOSTS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass
class Fork:
    """A forked host or server where another one is a `subprocess.Popen`.

    Attributes:
        pid: Its process, and that of its group.
        stdin: What a host reads requests from.
        stdout: What a host writes answers to.
    """

    pid: int
    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    _handle: int = field(init=False)

    def __post_init__(self) -> None:
        self._handle = os.pidfd_open(self.pid)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout or 0)

    def poll(self) -> str | None:
        """Return None while it runs; nobody knows its exit status."""
        return "some status" if select.select([self._handle], [], [], 0)[0] else None

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                stream.close()
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
        job = {"arguments": arguments, "environ": {**OF_HOSTS, **plugins, **(environ or {})}}
        its_stdin, requests = os.pipe()
        answers, its_stdout = os.pipe()
        with log.open("a") as sink:
            pid = self._fork(job, [its_stdin, its_stdout, sink.fileno()])
        os.close(its_stdin)
        os.close(its_stdout)
        return ForkedHost(log, Fork(pid, os.fdopen(requests, "w"), os.fdopen(answers)))

    def run(self, words: Sequence[str], environ: dict[str, str], log: Path) -> Fork:
        """Run `lorecall` with some words, its output in a file."""
        with log.open("w") as sink, Path(os.devnull).open() as nothing:
            job = {"words": list(words), "environ": environ}
            return Fork(self._fork(job, [nothing.fileno(), sink.fileno(), sink.fileno()]))

    def _fork(self, job: dict[str, Any], files: list[int]) -> int:
        socket.send_fds(self._socket, [json.dumps(job).encode()], files)
        return int(self._socket.recv(64) or -1)

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
