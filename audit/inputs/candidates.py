"""Candidate files: JSON Lines of `{"id", "prefix", "target"}`, or the field names of other people's sets."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, cast

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.item_store import ItemStore
from lorecall.audit.scorer import ScoreItem

FIELD_PAIRS = (("prefix", "target"), ("query", "target"), ("prompt", "completion"))
SHOWN_BAD_LINES = 10
KEPT_BAD_LINES = 1000
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
        items: The candidates, in the file's order; many of them stay on disk.
        bad: The first of the lines that were left out, and
        bad_count: how many there were.
        generated: How the items were made, "" if they were read as they are.
    """

    name: str
    digest: str
    items: Sequence[ScoreItem]
    bad: tuple[BadLine, ...] = ()
    generated: str = ""
    bad_count: int = 0


@dataclass(slots=True)
class Parsed:
    """What was read so far: the items on disk, the first bad lines, and how many there were."""

    store: ItemStore = field(default_factory=ItemStore)
    bad: list[BadLine] = field(default_factory=list)
    bad_count: int = 0

    def refuse(self, line: int, reason: str) -> None:
        """Count a bad line, and keep the first of them."""
        self.bad_count += 1
        if len(self.bad) < KEPT_BAD_LINES:
            self.bad.append(BadLine(line, reason))


class Turns(StrEnum):
    """Which turns of a chat are asked for.

    ONLY takes chats of one turn and refuses longer ones. LAST takes the assistant's last turn, ALL each of them;
    the user's turn right before it is the prefix, and what was said before that is left out.
    """

    ONLY = "only"
    LAST = "last"
    ALL = "all"


class BadLineError(ValueError):
    """Why one line cannot be used."""


def load_candidates(path: Path, *, skip_bad: bool = False, turns: Turns = Turns.ONLY) -> CandidateSet:
    """Read a candidate file, in bounded memory.

    Args:
        path: A JSON Lines file in UTF-8.
        skip_bad: Leave bad lines out, and count them, where they would be an error.
        turns: Which turns of a chat are asked for.

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
        parsed = parse_lines(_digested(lines, digest), turns)
    return finish(path.name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=said_of(turns))


def said_of(turns: Turns) -> str:
    """Return what a report says of how chats were taken apart."""
    return (
        "" if turns is Turns.ONLY else f"chats: {turns} assistant turns, each after the user's turn before it"
    )


def finish(name: str, digest: str, parsed: Parsed, *, skip_bad: bool, generated: str = "") -> CandidateSet:
    """Return the set of what was read.

    Raises:
        CandidateError: It holds no candidate, or a bad line that is not to be skipped.
    """
    if parsed.bad_count and not skip_bad:
        raise CandidateError(describe_bad(name, parsed), hint=bad_hint(), param="candidates")
    if not parsed.store:
        raise CandidateError(
            f"{name!r} holds no candidate ({parsed.bad_count} bad lines)",
            hint="one JSON object with a prefix and a target on each line",
            param="candidates",
        )
    return CandidateSet(
        name, digest, parsed.store.small(), tuple(parsed.bad), generated, bad_count=parsed.bad_count
    )


def describe_bad(name: str, parsed: Parsed) -> str:
    """Return one message that counts the bad lines and names the first of them."""
    shown = [f"  line {b.line}: {b.reason}" for b in parsed.bad[:SHOWN_BAD_LINES]]
    if parsed.bad_count > SHOWN_BAD_LINES:
        shown.append(f"  and {parsed.bad_count - SHOWN_BAD_LINES} more")
    noun = "line" if parsed.bad_count == 1 else "lines"
    return "\n".join([f"{name!r} has {parsed.bad_count} bad {noun}:", *shown])


def bad_hint() -> str:
    """Return what a person can do about bad lines."""
    return "mend them, or leave them out and count them with --skip-bad"


def _digested(lines: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def parse_lines(lines: Iterable[bytes], turns: Turns = Turns.ONLY) -> Parsed:
    """Parse JSON Lines; blank lines are passed over, a bad line is counted with its number and reason."""
    numbered = ((number, raw) for number, raw in enumerate(lines, start=1) if raw.strip())
    return collect(numbered, lambda raw, number: to_items(parse_line(raw, number), str(number), turns))


def collect(records: Iterable[tuple[int, T]], parse: Callable[[T, int], Iterable[ScoreItem]]) -> Parsed:
    """Parse numbered records; one that cannot be used, or whose id was there before, is counted as bad."""
    parsed = Parsed()
    for number, record in records:
        try:
            items = list(parse(record, number))
        except BadLineError as error:
            parsed.refuse(number, str(error))
            continue
        for item in items:
            first = parsed.store.add(item, number)
            if first is not None:
                parsed.refuse(number, f"duplicate id {item.id!r}, first on line {first}")
    return parsed


def parse_line(raw: bytes, number: int) -> dict[str, object]:
    """Return the fields of one line.

    Raises:
        ValueError: The line is no JSON object; the message says why, without its text.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_no_duplicates
        )
    except UnicodeDecodeError as error:
        raise BadLineError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadLineError(f"not JSON: {error.msg} at column {error.colno}") from error
    except BadLineError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise BadLineError("not JSON: a number is too long") from error
    except RecursionError as error:
        raise BadLineError("not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise BadLineError(f"not a JSON object but {type(value).__name__}")
    return cast("dict[str, object]", value)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            raise BadLineError(f"the key {key!r} stands twice")
        fields[key] = value
    return fields


def to_items(fields: dict[str, object], default_id: str, turns: Turns = Turns.ONLY) -> list[ScoreItem]:
    """Map the fields of one record to its candidates: one, or one for each turn of a chat that is asked for.

    Args:
        fields: The record.
        default_id: Its id where it has none.
        turns: Which turns of a chat are asked for; with ALL, the turn's number is added to the id.

    Raises:
        ValueError: A field is missing, empty or of the wrong type.
    """
    identity = fields.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise BadLineError("'id' is neither text nor a whole number")
    pair = next((pair for pair in FIELD_PAIRS if pair[0] in fields and pair[1] in fields), None)
    if pair is not None:
        prefix, target = (_text(fields, name) for name in pair)
        return [_item(str(identity), prefix, target, pair[1])]
    if "messages" not in fields:
        names = ", ".join(f"{a}/{b}" for a, b in FIELD_PAIRS)
        raise BadLineError(f"none of the field pairs {names}, and no messages")
    said = _turns(fields["messages"], turns)
    return [
        _item(f"{identity}#{number}" if turns is Turns.ALL else str(identity), user, assistant, "content")
        for number, (user, assistant) in enumerate(said, start=1)
    ]


def _item(identity: str, prefix: str, target: str, name: str) -> ScoreItem:
    if not target.strip():
        raise BadLineError(f"{name!r} is empty")
    return ScoreItem(id=identity, prefix=prefix, target=target)


def _turns(messages: object, turns: Turns) -> list[tuple[str, str]]:
    """Return the user's and the assistant's texts of the turns that are asked for.

    More than one turn cannot be framed by a prefix and a system message, and is not cut unasked.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadLineError("'messages' is not a list of objects")
    roles = [message.get("role") for message in messages]
    if turns is Turns.ONLY and roles == ["system", "user", "assistant"]:
        raise BadLineError("a system message belongs into --system, with --framing chat+system")
    if turns is Turns.ONLY and roles != ["user", "assistant"]:
        raise BadLineError(
            "'messages' is not one turn of user and assistant; --turns takes longer chats apart"
        )
    pairs = [
        (_text(before, "content"), _text(message, "content"))
        for before, message in pairwise(messages)
        if (before.get("role"), message.get("role")) == ("user", "assistant")
    ]
    if not pairs:
        raise BadLineError("'messages' has no assistant's turn after a user's")
    return pairs[-1:] if turns is Turns.LAST else pairs


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadLineError(f"{name!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"{name!r} holds a lone surrogate at character {error.start}") from error
    return value
