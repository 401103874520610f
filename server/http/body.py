"""Request bodies: read whole up to a bound, and refused where they hold what no engine can use."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from lorecall.adapters.core.errors import UsageError
from starlette.types import Message, Receive

SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|\d{19}|[eE]\+?\d{3}|NaN|Infinity")
"""Without any of these a body holds no lone surrogate, no huge integer and no infinity, and is not walked."""

NAME = re.compile(r"[a-z_]{1,64}")
SURROGATE = re.compile("[\ud800-\udfff]")
INTEGERS = range(-(2**63), 2**64)
"""Integers that fit into 64 bits, as the messages to the engine have them."""


class BodyTooLargeError(UsageError):
    """A request's body is larger than the server reads."""

    status = 413
    code = "body_too_large"


async def read_body(receive: Receive, limit: int) -> tuple[bytes, Receive]:
    """Read a body, and return it with a `receive` that begins with it.

    Raises:
        BodyTooLargeError: It has more than `limit` bytes.
    """
    body, more, last = bytearray(), True, None
    while more:
        last = await receive()
        body += last.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError(
                f"the body has more than {limit} bytes",
                hint="send less, or start the server with a larger LORECALL_MAX_BODY_BYTES",
                param="body",
            )
        more = last["type"] == "http.request" and last.get("more_body", False)
    whole = bytes(body)
    first: list[Message] = [{"type": "http.request", "body": whole, "more_body": False}]
    if last is not None and last["type"] == "http.disconnect":
        first.append(last)

    async def again() -> Message:
        return first.pop(0) if first else await receive()

    return whole, again


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is; {} for anything else, which the route refuses itself.

    Raises:
        UsageError: It nests too deeply, or a value is a lone surrogate, not finite or wider than 64 bits.
    """
    try:
        content = json.loads(body)
    except RecursionError:
        raise UsageError("the body nests too deeply", hint="send flat JSON", param="body") from None
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    if not json.detect_encoding(body).startswith("utf-8") or not is_utf8(body):
        raise UsageError("the body is not UTF-8", hint="send JSON in UTF-8", param="body")
    if SUSPECT.search(body):
        for field, value in content.items():
            check_value(str(field), [field, value])
    return content


def is_utf8(body: bytes) -> bool:
    """Say whether a body is strictly UTF-8; `json.loads` also takes halves of surrogate pairs."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_value(field: str, value: Any) -> None:
    """Check everything within a value.

    Raises:
        UsageError: A part of it cannot be passed on; the message names a field that is a word, without its value.
    """
    for part in parts_of(value):
        if isinstance(part, str) and SURROGATE.search(part):
            problem = "holds half of a surrogate pair, which is no character"
        elif isinstance(part, int) and part not in INTEGERS:
            problem = "holds an integer that does not fit into 64 bits"
        elif isinstance(part, float) and not math.isfinite(part):
            problem = "holds a number that is not finite"
        else:
            continue
        known = field if NAME.fullmatch(field) else None  # another one could be a text in the wrong place
        raise UsageError(f"{known!r} {problem}" if known else f"a field {problem}", param=known)


def parts_of(value: Any) -> Iterator[Any]:
    """Yield the strings and numbers of a JSON value, keys included, without recursion."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part
        else:
            yield part
