"""What a stream ends with once its version was replaced; over vLLM's own handlers: test_replaced.py."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.auth.request_context import RequestContext
from lorecall.server.http.stream_end import StreamEnd

STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PLAIN = {**STREAM, "headers": [(b"content-type", b"application/json")]}


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    """Return a message with a part of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def passed(path: str, messages: list[dict[str, Any]], *, failed: bool = True) -> tuple[bytes, bool, bool]:
    """Return what arrives of an answer that breaks off, whether that was mended, and whether it ended."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> bool:
        failure = LorecallError("replaced", param="model") if failed else None
        end = StreamEnd(path, RequestContext(failure=failure), send)
        with contextlib.suppress(ValueError):
            async with end:
                for message in messages:
                    await end.send(message)
                raise ValueError("broke off")
            return True
        return False

    mended = asyncio.run(run())
    return b"".join(one.get("body", b"") for one in sent), mended, not sent[-1].get("more_body", True)


def test_responses_that_break_off_end_with_an_event() -> None:
    """Its number follows those before it."""
    begun = [STREAM, part(b"event: a\ndata: {}\n\n"), part(b"event: b\ndata: {}\n\n")]
    body, mended, ended = passed("/v1/responses", begun)
    assert (mended, ended) == (True, True)
    *_, kind, data = body.decode().strip().split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "code": "internal_error",
        "message": "replaced",
        "param": "model",
        "sequence_number": 2,
    }


def test_messages_say_what_happened() -> None:
    """The event is vLLM's, its text is not."""
    told = [STREAM, part(b"event: a\n\n"), part(b"event: error\ndata: pydantic\n\n"), part(b"", more=False)]
    body, mended, _ = passed("/v1/messages", told)
    assert not mended
    assert b"pydantic" not in body
    assert json.loads(body.split(b"data: ")[-1])["error"] == {"type": "api_error", "message": "replaced"}


@pytest.mark.parametrize(
    ("path", "messages", "failed"),
    [
        ("/v1/responses", [STREAM, part(b"event: a\n\n")], False),
        ("/v1/messages", [STREAM, part(b"event: error\ndata: theirs\n\n")], False),
        ("/v1/completions", [STREAM, part(b"data: {}\n\n")], True),
        ("/v1/responses", [STREAM, part(b"event: a\n\n", more=False)], True),
        ("/v1/responses", [PLAIN, part(b"{}")], True),
    ],
)
def test_everything_else_passes_as_it_is(path: str, messages: list[dict[str, Any]], *, failed: bool) -> None:
    """Other errors, other routes, streams that have ended, and answers in one piece."""
    body, mended, _ = passed(path, messages, failed=failed)
    assert (body, mended) == (messages[1]["body"], False)
