"""Lets SIGTERM stop a server that is still starting.

Until it serves, vLLM 0.32 turns SIGTERM into KeyboardInterrupt in whatever code runs then. While it waits for its
engine that is `zmq_socket_ctx`, which swallows it: the server went on to start, and then served. Other libraries
turn it into an error of their own, which somebody else may swallow; so the signal is remembered, too.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorecall.server.engine.common.plugin import require

ENTRY = "vllm.entrypoints.launchers.api_server.entry"

_seen: list[int] = []


def is_stopping() -> bool:
    """Whether SIGTERM came while the server was starting."""
    return bool(_seen)


def check() -> None:
    """Stop the start if SIGTERM came and was swallowed.

    Raises:
        KeyboardInterrupt: It came.
    """
    if is_stopping():
        raise KeyboardInterrupt("terminated")


def apply() -> None:
    """Raise the interrupt again after vLLM has closed the socket, and remember the signal in an API server."""
    from vllm.v1.engine import utils

    open_socket = require(utils, "zmq_socket_ctx", ("path", "socket_type", "bind"))

    @contextmanager
    def socket_with_interrupts(*args: Any, **options: Any) -> Iterator[Any]:
        interrupt: KeyboardInterrupt | None = None
        with open_socket(*args, **options) as socket:
            try:
                yield socket
            except KeyboardInterrupt as error:
                interrupt = error
                raise
        if interrupt is not None:
            raise interrupt

    utils.zmq_socket_ctx = socket_with_interrupts
    if ENTRY in sys.modules:  # not in an engine's processes, which handle signals themselves
        _remember(sys.modules[ENTRY])


def _remember(entry: Any) -> None:
    """Note the signal before vLLM's handler raises; vLLM has just set it when it calls `setup_server`."""
    setup = require(entry, "setup_server", ("args", "reuse_port"))

    def setup_and_remember(args: Any, *, reuse_port: bool) -> Any:
        interrupt = signal.getsignal(signal.SIGTERM)

        def remember(number: int, frame: Any) -> None:
            _seen.append(number)
            if callable(interrupt):
                interrupt(number, frame)

        if callable(interrupt):
            signal.signal(signal.SIGTERM, remember)
        return setup(args, reuse_port=reuse_port)

    entry.setup_server = setup_and_remember
