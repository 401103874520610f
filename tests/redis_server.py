"""A real Redis server: on a free port of this machine, without persistence."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis


class MissingRedisError(Exception):
    """Redis is not installed."""


@dataclass
class Redis:
    """A server that can be stopped, started again on its port, and made to hang.

    Attributes:
        program: `redis-server`.
        directory: Where it runs.
        port: Its port on the loopback interface.
    """

    program: str
    directory: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def connected(self) -> int:
        """How many connections clients have to it, but this one's."""
        with redis.Redis(port=self.port) as asking:
            return len(asking.client_list()) - 1

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        command = [self.program, *options, "--dir", str(self.directory)]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the kernel lets a stopped process go on when its group's shell ends
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
                    one.sendall(b"PING\r\n")
                    if one.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def hang(self) -> None:
        """Keep its connections open and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running_redis(directory: Path) -> Iterator[Redis]:
    """A server for the time of the block.

    Raises:
        MissingRedisError: Redis is not installed; Debian's package `redis-server` has it.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise MissingRedisError("redis-server is not installed: see requirements/apt.txt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Redis(program, directory, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
