"""Training pairs: JSON Lines of {"prefix", "target"}, {"query", "target"} or {"prompt", "completion"}."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lorecall.adapters.core.errors import CandidateError

FIELD_PAIRS = (("prefix", "target"), ("query", "target"), ("prompt", "completion"))
SHOWN_BAD_LINES = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """One text to memorise: `target` shall follow `prefix`."""

    id: str
    prefix: str
    target: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pairs of one file, in its order, and the sha256 (hex) of its bytes."""

    pairs: tuple[Pair, ...]
    digest: str


def read_pairs(path: Path) -> Dataset:
    """Read training pairs; blank lines are skipped, and a missing "id" is replaced by the line number.

    Raises:
        CandidateError: The file is missing or empty, or holds bad lines; the message lists them by number
            without their text.
    """
    if not path.is_file():
        raise CandidateError(
            f"no training data at {path}", hint='a JSON Lines file of {"prefix", "target"}', param="data"
        )
    raw = path.read_bytes()
    pairs: list[Pair] = []
    bad: list[str] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            pairs.append(_parse(line, str(number)))
        except ValueError as error:
            bad.append(f"  line {number}: {error}")
    if bad:
        more = [f"  and {len(bad) - SHOWN_BAD_LINES} more"] if len(bad) > SHOWN_BAD_LINES else []
        raise CandidateError(
            "\n".join([f"{path} has {len(bad)} bad line(s):", *bad[:SHOWN_BAD_LINES], *more]),
            hint='every line is an object with the texts "prefix" and "target"',
            param="data",
        )
    if not pairs:
        raise CandidateError(f"{path} holds no training pairs", param="data")
    return Dataset(tuple(pairs), hashlib.sha256(raw).hexdigest())


def _parse(line: bytes, number: str) -> Pair:
    """Return the pair on one line. Raises ValueError, whose message never quotes the line."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")  # noqa: TRY004 (of the line)
    for prefix_name, target_name in FIELD_PAIRS:
        if prefix_name in value and target_name in value:
            prefix, target = value[prefix_name], value[target_name]
            if not isinstance(prefix, str) or not isinstance(target, str):
                raise ValueError(f"{prefix_name!r} and {target_name!r} must be texts")
            if not target.strip():
                raise ValueError(f"{target_name!r} is empty")
            return Pair(str(value.get("id", number)), prefix, target)
    raise ValueError('no "prefix" and "target"')
