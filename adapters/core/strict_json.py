"""Parse untrusted JSON: duplicate keys, deep nesting, endless or infinite numbers, half characters are errors."""

import codecs
import json
import math
import re
from collections.abc import Iterable
from itertools import chain
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
    level: list[Any] = [value]
    depth, problem = 0, ""
    while level and not problem:  # level by level: a header has thousands of parts
        depth += 1
        inner = [one for part in level for one in _inside(part)]
        texts = "".join([one for one in inner if type(one) is str])
        if depth > MAX_DEPTH:
            problem = f"nests deeper than {MAX_DEPTH}"
        elif not all(math.isfinite(one) for one in inner if type(one) is float):
            problem = "has a number that is not finite"
        elif not texts.isascii() and SURROGATE.search(texts):
            problem = "has half of a surrogate pair, which is no character"
        level = [one for one in inner if type(one) is dict or type(one) is list]
    if problem:
        raise ConfigRefusedError(Reason.BAD_JSON, f"{name} {problem}", hint="save it again", param=name)


def _inside(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part if isinstance(part, list) else chain(part, part.values())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(safe_repr(key))
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
