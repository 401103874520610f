"""Says which field of an input is wrong without a word of the input: a key may be a secret as well as a value."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

UNKNOWN = "*"
"""Stands for a key that no model declares, or for the key of a free-form object."""


def describe_error(error: Mapping[str, Any], kind: object) -> tuple[str, str]:
    """Return where an error of pydantic is, and what is wrong there.

    Args:
        error: One of `ValidationError.errors()`.
        kind: The model that was validated, or a type made of models.

    Returns:
        The path with dots between its parts, "" for the whole input; and one sentence without the value.
    """
    names = set(field_names(kind))
    path: Sequence[int | str] = error["loc"]
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(path[-1]), names, 1)
        hint = f", which may mean {near[0]!r}" if near else ""
        return _joined(path[:-1], names), f"a field that is not known{hint}"
    return _joined(path, names), str(error["msg"])


def field_names(kind: object) -> Iterator[str]:
    """Yield the names of a model's fields, and those of the models in it."""
    waiting, seen = [kind], set()
    while waiting:
        one = waiting.pop()
        waiting += get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel) and one not in seen:
            seen.add(one)
            yield from one.model_fields
            waiting += [field.annotation for field in one.model_fields.values()]


def _joined(path: Sequence[int | str], names: set[str]) -> str:
    return ".".join(str(part) if isinstance(part, int) or part in names else UNKNOWN for part in path)
