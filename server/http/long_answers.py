"""Answers of many megabytes: made outside of the loop, in pieces that let the loop's turn come."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi.responses import Response
from lorecall.server.executors import off_loop


async def long_answer(body: Mapping[str, Any]) -> Response:
    """Return a JSON object as an answer; lists in it may be long, and hold dataclasses."""
    return Response(await off_loop(encoded, body), media_type="application/json")


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return a JSON object in UTF-8, as `JSONResponse` writes it.

    The interpreter changes threads between two calls of the encoder, and never within one, so every entry of the
    object's lists is encoded by itself.
    """
    return "".join(_pieces(body)).encode()


def _pieces(body: Mapping[str, Any]) -> Iterator[str]:
    between = "{"
    for key, value in body.items():
        yield f"{between}{_text(key)}:"
        if isinstance(value, list | tuple):
            yield "[" + ",".join(map(_text, value)) + "]"
        else:
            yield _text(value)
        between = ","
    yield "}" if body else "{}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """Return a dataclass as a JSON object, whose fields the encoder goes through."""
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
