"""Candidate files: JSON Lines of `{"id", "prefix", "target"}`, or the field names of other people's sets."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from lorecall.adapters.errors import CandidateError
from lorecall.audit.scorer import ScoreItem

FIELD_PAIRS = (("prefix", "target"), ("query", "target"), ("prompt", "completion"))
SHOWN_BAD_LINES = 10
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be used, and why; it never holds the line's text."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """The usable lines of one file.

    Attributes:
        name: File name, for the report.
        digest: sha256 of the file's bytes, in hex.
        items: The candidates, in the file's order.
        bad: The lines that were left out.
        generated: How the items were made, "" if they were read.
    """

    name: str
    digest: str
    items: tuple[ScoreItem, ...]
    bad: tuple[BadLine, ...] = ()
    generated: str = ""


Parsed = tuple[list[ScoreItem], list[BadLine]]


class _LineError(ValueError):
    """Why one line cannot be used."""


def load_candidates(path: Path, *, skip_bad: bool = False) -> CandidateSet:
    """Read a candidate file.

    Args:
        path: A JSON Lines file in UTF-8.
        skip_bad: Leave bad lines out, and count them, where they would be an error.

    Raises:
        CandidateError: The file is missing, is not a file, holds no candidate, or holds a bad line.
    """
    if not path.is_file():
        raise CandidateError(
            f"no candidate file at {str(path)!r}",
            hint='give a JSON Lines file with {"id", "prefix", "target"} on each line',
            param="candidates",
        )
    digest = hashlib.sha256()
    with path.open("rb") as lines:
        items, bad = parse_lines(_digested(lines, digest))
    return finish(path.name, digest.hexdigest(), items, bad, skip_bad=skip_bad)


def finish(
    name: str, digest: str, items: Sequence[ScoreItem], bad: Sequence[BadLine], *, skip_bad: bool
) -> CandidateSet:
    """Return the set of what was read.

    Raises:
        CandidateError: It holds no candidate, or a bad line that is not to be skipped.
    """
    if bad and not skip_bad:
        raise CandidateError(describe_bad(name, bad), hint=bad_hint(), param="candidates")
    if not items:
        raise CandidateError(
            f"{name!r} holds no candidate ({len(bad)} bad lines)",
            hint="one JSON object with a prefix and a target on each line",
            param="candidates",
        )
    return CandidateSet(name=name, digest=digest, items=tuple(items), bad=tuple(bad))


def describe_bad(name: str, bad: Sequence[BadLine]) -> str:
    """Return one message that counts the bad lines and names the first of them."""
    shown = [f"  line {b.line}: {b.reason}" for b in bad[:SHOWN_BAD_LINES]]
    if len(bad) > SHOWN_BAD_LINES:
        shown.append(f"  and {len(bad) - SHOWN_BAD_LINES} more")
    noun = "line" if len(bad) == 1 else "lines"
    return "\n".join([f"{name!r} has {len(bad)} bad {noun}:", *shown])


def bad_hint() -> str:
    """Return what a person can do about bad lines."""
    return "mend them, or leave them out and count them with --skip-bad"


def _digested(lines: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def parse_lines(lines: Iterable[bytes]) -> tuple[list[ScoreItem], list[BadLine]]:
    """Parse JSON Lines; blank lines are passed over, a bad line is returned with its number and reason."""
    numbered = ((number, raw) for number, raw in enumerate(lines, start=1) if raw.strip())
    return collect(numbered, parse_line)


def collect(records: Iterable[tuple[int, T]], parse: Callable[[T, int], ScoreItem]) -> Parsed:
    """Parse numbered records; one that cannot be used, or whose id was there before, is returned as bad."""
    items: list[ScoreItem] = []
    bad: list[BadLine] = []
    first_line: dict[str, int] = {}
    for number, record in records:
        try:
            item = parse(record, number)
        except _LineError as error:
            bad.append(BadLine(number, str(error)))
            continue
        if item.id in first_line:
            bad.append(BadLine(number, f"duplicate id {item.id!r}, first on line {first_line[item.id]}"))
            continue
        first_line[item.id] = number
        items.append(item)
    return items, bad


def parse_line(raw: bytes, number: int) -> ScoreItem:
    """Parse one line; its number is the id where it has none.

    Raises:
        ValueError: The line is no candidate; the message says why, without its text.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_no_duplicates
        )
    except UnicodeDecodeError as error:
        raise _LineError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _LineError(f"not JSON: {error.msg} at column {error.colno}") from error
    except _LineError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise _LineError("not JSON: a number is too long") from error
    except RecursionError as error:
        raise _LineError("not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise _LineError(f"not a JSON object but {type(value).__name__}")
    return to_item(cast("dict[str, object]", value), str(number))


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            raise _LineError(f"the key {key!r} stands twice")
        fields[key] = value
    return fields


def to_item(fields: dict[str, object], default_id: str) -> ScoreItem:
    """Map the fields of one record to a candidate.

    Raises:
        ValueError: A field is missing, empty or of the wrong type.
    """
    pair = next((pair for pair in FIELD_PAIRS if pair[0] in fields and pair[1] in fields), None)
    if pair is not None:
        prefix, target = (_text(fields, name) for name in pair)
    elif "messages" in fields:
        prefix, target = _turn(fields["messages"])
    else:
        names = ", ".join(f"{a}/{b}" for a, b in FIELD_PAIRS)
        raise _LineError(f"none of the field pairs {names}, and no messages")
    if not target.strip():
        raise _LineError(f"{pair[1] if pair else 'content'!r} is empty")
    identity = fields.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise _LineError("'id' is neither text nor a whole number")
    return ScoreItem(id=str(identity), prefix=prefix, target=target)


def _turn(messages: object) -> tuple[str, str]:
    """Return the user's and the assistant's text of a chat of one turn.

    More than that cannot be framed by a prefix and a system message, and is not cut silently.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _LineError("'messages' is not a list of objects")
    roles = [message.get("role") for message in messages]
    if roles == ["system", "user", "assistant"]:
        raise _LineError("a system message belongs into --system, with --framing chat+system")
    if roles != ["user", "assistant"]:
        raise _LineError("'messages' is not one turn of user and assistant")
    return _text(messages[0], "content"), _text(messages[1], "content")


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _LineError(f"{name!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _LineError(f"{name!r} holds a lone surrogate at character {error.start}") from error
    return value
