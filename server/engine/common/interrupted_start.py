"""Lets SIGTERM stop a server whose engine is still starting.

Until it serves, vLLM 0.32 turns SIGTERM into KeyboardInterrupt. While it waits for its engine it does so inside
`zmq_socket_ctx`, which swallows that: the server went on to start, and then served.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorecall.server.engine.common.plugin import require


def apply() -> None:
    """Raise the interrupt again after vLLM has closed the socket."""
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
