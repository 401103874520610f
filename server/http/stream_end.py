"""Ends a stream whose version was replaced with an error event, on the two routes where vLLM's handlers cannot.

`/v1/responses` breaks off, since its handler takes the error for an event of its own; `/v1/messages` sends an
event whose message is pydantic's, since its handler takes the error for a chat's chunk.
"""

import json
from collections.abc import Callable
from typing import Any, Self

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.auth.request_context import RequestContext
from starlette.datastructures import Headers
from starlette.types import Message, Send

STARTS = b"event: "


def _messages_error(error: LorecallError, _number: int) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "api_error", "message": str(error)}}


def _responses_error(error: LorecallError, number: int) -> dict[str, Any]:
    event = {"type": "error", "code": error.code, "message": str(error), "param": error.param}
    return {**event, "sequence_number": number}


EVENTS: dict[str, Callable[[LorecallError, int], dict[str, Any]]] = {
    "/v1/messages": _messages_error,
    "/v1/responses": _responses_error,
}
"""How an error is said in the stream of a route, as its Nth event from 0."""


class StreamEnd:
    """Passes an answer on, and puts the error of a replaced version at its end; a context manager of the answer.

    Args:
        path: The request's path.
        context: The request; its `failure` is the error.
        send: Sends a message of the answer.
    """

    def __init__(self, path: str, context: RequestContext, send: Send) -> None:
        self._event = EVENTS.get(path)
        self._context = context
        self._send = send
        self._open = False
        self._events = 0

    async def send(self, message: Message) -> None:
        """Send a message of the answer; an error event of vLLM's own says why it is one."""
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._open = kind.startswith("text/event-stream")
        elif self._open:
            body = message.get("body", b"")
            if body.startswith(STARTS + b"error"):
                message = {**message, "body": self._error() or body}
            self._events += body.startswith(STARTS)
            self._open = message.get("more_body", False)
        await self._send(message)

    async def __aenter__(self) -> Self:
        """Begin the answer."""
        return self

    async def __aexit__(self, _kind: object, raised: BaseException | None, _trace: object) -> bool:
        """End a stream that broke off because of this request's replaced version, which is no error then."""
        error = self._error() if self._open and isinstance(raised, Exception) else None
        if error is None:
            return False
        await self.send({"type": "http.response.body", "body": error, "more_body": False})
        return True

    def _error(self) -> bytes | None:
        """Return the error event, if there is one to send."""
        if self._event is None or self._context.failure is None:
            return None
        event = self._event(self._context.failure, self._events)
        return STARTS + b"error\ndata: " + json.dumps(event).encode() + b"\n\n"
