"""One line of JSON for each request: who asked what for which model, and how it ended; never a text."""

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lorecall.server.auth.request_context import RequestContext

logger = logging.getLogger("lorecall.access")

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PATH_LENGTH = 200

Headers = Sequence[tuple[bytes, bytes]]


def write_access_log() -> None:
    """Have the lines written to stdout, each as it is."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def request_id(headers: Headers) -> bytes:
    """Return the caller's `X-Request-Id` if it is short and harmless in a log, else a new one."""
    stated = next((value for name, value in headers if name.lower() == REQUEST_ID), b"")
    return stated if _SAFE_ID.fullmatch(stated) else uuid.uuid4().hex.encode()


def replaced(headers: Headers, *new: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return headers with others in the place of those of the same name."""
    names = {name for name, _value in new}
    return [*((name, value) for name, value in headers if name.lower() not in names), *new]


class AccessLine:
    """Collects what the line of one request says.

    Args:
        method: The request's method; "WEBSOCKET" for a websocket.
        path: Its path, without the query.
        identity: Its id.
    """

    def __init__(self, method: str, path: str, identity: str) -> None:
        self._line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": identity,
            "method": method,
            "path": path[:_PATH_LENGTH],
        }
        self._started = time.perf_counter()

    def write(self, context: RequestContext, model: str, status: int) -> None:
        """Write the line.

        Args:
            context: The request, with the versions that it ran on and the tokens that it used.
            model: The model's public name; "" if it named none.
            status: The answer's status; 499 if the client went away before there was one.
        """
        if not logger.isEnabledFor(logging.INFO):
            return
        lease = context.leases.get(model)
        self._line |= {
            "status": status,
            "key": context.actor,
            "model": model or None,
            "version": lease.version if lease is not None else None,
            "tokens": context.tokens,
            "seconds": round(time.perf_counter() - self._started, 4),
        }
        logger.info(json.dumps(self._line))
