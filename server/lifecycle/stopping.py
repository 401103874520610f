"""The end of a server: from SIGTERM on it takes no new request, and what runs has `--shutdown-timeout` to finish.

vLLM 0.32 drains its engine only. While it does, its HTTP server takes requests that the engine then turns away,
and answers them with 200, no text and the finish reason "abort".
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.engine.common.plugin import require

STEP_S = 0.05


class StoppingError(LorecallError):
    """The server stops and takes no new request."""

    status = 503
    code = "server_stopping"

    def __init__(self) -> None:
        super().__init__("this server is stopping", hint="repeat the request: another server answers it")


class Stopping:
    """Counts the requests that run, and refuses new ones once the server stops.

    Attributes:
        begun: Whether the server stops.
        running: The requests that run.
    """

    def __init__(self) -> None:
        self.begun = False
        self.running = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the block as a request that runs.

        Raises:
            StoppingError: The server stops.
        """
        if self.begun:
            raise StoppingError
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait until none runs or the time is over; not for the thread of the loop."""
        self.begun = True
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(STEP_S)


def drain_before_shutdown(engine_client: Any, stopping: Stopping, seconds: float) -> None:
    """Make a client of the engine drain the server before it shuts the engine down.

    Args:
        engine_client: vLLM's client; its server calls `shutdown` in a thread when it gets SIGTERM.
        stopping: What counts and refuses requests.
        seconds: How long what runs may take, `--shutdown-timeout`.
    """
    shutdown = require(type(engine_client), "shutdown", ("self", "timeout")).__get__(engine_client)

    def drained(timeout: float | None = None) -> None:
        began = time.monotonic()
        if not engine_client.errored and not _in_loop():
            stopping.drain(seconds)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        shutdown(timeout=left)

    engine_client.shutdown = drained


def _in_loop() -> bool:
    """Whether this thread runs an event loop, in which no request could end while the thread waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
