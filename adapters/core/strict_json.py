"""Parse untrusted JSON: duplicate keys, deep nesting, endless or infinite numbers, half characters are errors."""

import codecs
import json
import math
import re
from typing import Any

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr

MAX_DEPTH = 64
MAX_PARTS = 1 << 19  # two bytes of text become a hundred in memory
_OTHER_KINDS = {
    codecs.BOM_UTF8: (
        "begins with a byte order mark, which PEFT and the engine cannot read",
        "save it as plain UTF-8; `lorecall adapters convert` does",
    ),
    b"version https://git-lfs": (
        "is a pointer of git-lfs, not the file",
        "get the file itself: git lfs pull, or hf download",
    ),
    b"": ("is empty", "copy or save it again"),
}
SURROGATE = re.compile("[\ud800-\udfff]")


class _DuplicateKeyError(ValueError):
    """A key that occurs twice in one object: parsers differ in which value they use."""


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """Parse the bytes of a JSON object strictly. The caller limits their number.

    Args:
        raw: UTF-8 bytes.
        name: The file's name, for messages.

    Raises:
        ConfigRefusedError: It is not JSON in UTF-8, not an object, has over `MAX_PARTS` parts, or an object in
            it has a key twice.
    """
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_PARTS:
        raise ConfigRefusedError(
            Reason.BAD_JSON, f"{name} has more than {MAX_PARTS} parts", hint="save it again", param=name
        )
    for start, (problem, hint) in _OTHER_KINDS.items():
        if raw.startswith(start) and (start or not raw):
            raise ConfigRefusedError(Reason.BAD_JSON, f"{name} {problem}", hint=hint, param=name)
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
    _check_parts(value, name)
    return value


def _check_parts(value: dict[str, Any], name: str) -> None:
    """Check that everything within an object can be written out again.

    Raises:
        ConfigRefusedError: It nests too deeply, or holds a number that is not finite or half of a character.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    problem = ""
    while waiting and not problem:
        part, depth = waiting.pop()
        if isinstance(part, dict | list):
            inner = [*part.keys(), *part.values()] if isinstance(part, dict) else part
            waiting += [(one, depth + 1) for one in inner]
            problem = f"nests deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else ""
        elif isinstance(part, float) and not math.isfinite(part):
            problem = "has a number that is not finite"
        elif isinstance(part, str) and SURROGATE.search(part):
            problem = "has half of a surrogate pair, which is no character"
    if problem:
        raise ConfigRefusedError(Reason.BAD_JSON, f"{name} {problem}", hint="save it again", param=name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(safe_repr(key))
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
