"""Bodies are bounded, and what no engine can use is refused by the field's name."""

import asyncio
import json
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.http.body import BodyTooLargeError, parse_body, read_body
from starlette.types import Message


def receiver(*parts: bytes) -> Any:
    """Return a `receive` that gives a body in parts, and then nothing more."""
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    waiting = iter([*messages, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(waiting)

    return receive


def test_a_body_is_read_whole_and_given_again() -> None:
    """The parts are joined; the route sees the same body, and then what came after it."""

    async def read() -> tuple[bytes, list[Message]]:
        body, again = await read_body(receiver(b'{"a"', b": 1}"), 100)
        return body, [await again(), await again()]

    body, seen = asyncio.run(read())
    assert body == b'{"a": 1}'
    assert seen[0] == {"type": "http.request", "body": body, "more_body": False}
    assert seen[1]["type"] == "http.disconnect"


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole() -> None:
    """413 with the number, as soon as the bound is passed."""
    with pytest.raises(BodyTooLargeError, match="more than 6 bytes") as caught:
        asyncio.run(read_body(receiver(b"1234", b"5678", b"never read"), 6))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"stop": "\\ud800"}', "surrogate"),
        (b'{"a": {"b": ["x", {"\\udfff": 1}]}}', "surrogate"),
        (b'{"top_k": 18446744073709551616}', "64 bits"),
        (b'{"seed": -9223372036854775809}', "64 bits"),
        (b'{"temperature": 1e999}', "finite"),
        (b'{"temperature": NaN}', "finite"),
        (b'{"x": [-Infinity]}', "finite"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    ],
)
def test_what_no_engine_can_use_is_refused(body: bytes, problem: str) -> None:
    """The message names the field and the kind of problem."""
    with pytest.raises(UsageError, match=problem):
        parse_body(body)


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": "emoji \U0001f600 and \x00", "seed": 2**63 - 1, "x": -(2**63), "y": [1e300, None, True]},
        {"prompt": "a number of 30 digits in a text: " + "1" * 30},
        {},
    ],
)
def test_everything_else_passes(content: dict[str, Any]) -> None:
    """Pairs of surrogates, the extremes of 64 bits and digits within a text are nobody's fault."""
    assert parse_body(json.dumps(content).encode()) == content


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'"x"'])
def test_what_is_no_object_is_left_to_the_route(body: bytes) -> None:
    """The route's own message says what it wants."""
    assert parse_body(body) == {}
