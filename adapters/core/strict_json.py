"""Parse untrusted JSON: duplicate keys, NaN, deep nesting and endless numbers are errors."""

import json
from typing import Any

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr


class _DuplicateKeyError(ValueError):
    """A key that occurs twice in one object: parsers differ in which value they use."""


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """Parse the bytes of a JSON object strictly. The caller limits their number.

    Args:
        raw: UTF-8 bytes.
        name: The file's name, for messages.

    Raises:
        ConfigRefusedError: It is not JSON in UTF-8, not an object, or an object in it has a key twice.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except _DuplicateKeyError as error:
        raise ConfigRefusedError(
            Reason.DUPLICATE_KEY, f"{name} has the key {error} twice", hint="keep one of them", param=name
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigRefusedError(
            Reason.BAD_JSON,
            f"{name} is not valid JSON: {safe_repr(str(error))}",
            hint="save the adapter again",
            param=name,
        ) from error
    if not isinstance(value, dict):
        raise ConfigRefusedError(
            Reason.BAD_JSON,
            f"{name} holds a {type(value).__name__}",
            hint="it must hold one JSON object",
            param=name,
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(safe_repr(next(key for key in keys if keys.count(key) > 1)))
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
