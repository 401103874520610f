"""Parse numbered records to a candidate set: count the bad ones, refuse them, or leave them out."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import BadLine, BadLineError, CandidateSet
from lorecall.audit.inputs.item_store import ItemStore
from lorecall.audit.scorer import ScoreItem

SHOWN_BAD_LINES = 10
KEPT_BAD_LINES = 1000
MOST_TAGS = 64
"""Different tags of a set: reports have a row for each."""
HINT = "mend them, or leave them out and count them with --skip-bad"
ID_LENGTH = 512
TEXT_LENGTH = 1 << 20
"""Characters of a snippet: to make tokens of a longer one, only to refuse it, would hold up every request."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bound:
    """What one set may hold where a stranger sends it: a small file can hold a very large table.

    Attributes:
        snippets: The most snippets.
        characters: The most characters of all prefixes and targets together.
    """

    snippets: int
    characters: int


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open a candidate file for reading.

    Raises:
        CandidateError: It is missing, is not a file, or cannot be read.
    """
    if not path.is_file():
        raise CandidateError(
            f"no candidate file at {str(path)!r}",
            hint='give a JSON Lines file with {"id", "prefix", "target"} on each line',
            param="candidates",
        )
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CandidateError(
            f"{path.name!r} cannot be read: {error.strerror or type(error).__name__}", param="candidates"
        ) from error


@dataclass(slots=True)
class Parsed:
    """The items read so far, on disk; the first bad lines; and how many bad lines there are."""

    store: ItemStore = field(default_factory=ItemStore)
    bad: list[BadLine] = field(default_factory=list)
    bad_count: int = 0
    tags: set[str] = field(default_factory=set)

    def refuse(self, line: int, reason: str) -> None:
        """Count a bad line, and keep the first of them."""
        self.bad_count += 1
        if len(self.bad) < KEPT_BAD_LINES:
            self.bad.append(BadLine(line, reason))


def make_set(name: str, digest: str, parsed: Parsed, *, skip_bad: bool, generated: str = "") -> CandidateSet:
    """Return the items read as a set.

    Raises:
        CandidateError: It holds no candidate, or a bad line that is not to be skipped.
    """
    if parsed.bad_count and not skip_bad:
        raise CandidateError(_describe_bad(name, parsed), hint=HINT, param="candidates")
    if not parsed.store:
        raise CandidateError(
            f"{name!r} holds no candidate ({parsed.bad_count} bad lines)",
            hint="one JSON object with a prefix and a target on each line",
            param="candidates",
        )
    return CandidateSet(
        name, digest, parsed.store.small(), tuple(parsed.bad), generated, bad_count=parsed.bad_count
    )


def _describe_bad(name: str, parsed: Parsed) -> str:
    """Return one message that counts the bad lines and names the first of them."""
    shown = [f"  line {b.line}: {b.reason}" for b in parsed.bad[:SHOWN_BAD_LINES]]
    if parsed.bad_count > SHOWN_BAD_LINES:
        shown.append(f"  and {parsed.bad_count - SHOWN_BAD_LINES} more")
    noun = "line" if parsed.bad_count == 1 else "lines"
    return "\n".join([f"{name!r} has {parsed.bad_count} bad {noun}:", *shown])


def parse_records(
    records: Iterable[tuple[int, T]],
    parse: Callable[[T, int], Iterable[ScoreItem]],
    bound: Bound | None = None,
) -> Parsed:
    """Parse numbered records; one that cannot be used, or whose id another has, is counted as bad.

    Raises:
        CandidateError: They hold more than the bound, or too many different tags.
    """
    parsed, characters = Parsed(), 0
    for number, record in records:
        try:
            items = [_checked(item) for item in parse(record, number)]
        except BadLineError as error:
            parsed.refuse(number, str(error))
            continue
        parsed.tags.update(tag for item in items for tag in item.tags)
        if len(parsed.tags) > MOST_TAGS:
            raise CandidateError(
                f"more than {MOST_TAGS} different tags up to line {number}",
                hint="a tag names a kind of candidates, such as pii; it is no text and no id",
                param="candidates",
            )
        for item in items:
            first = parsed.store.add(item, number)
            if first is not None:
                parsed.refuse(number, f"has the same id as line {first}")
            characters += sum(map(len, item.texts))
        if bound is not None and (len(parsed.store) > bound.snippets or characters > bound.characters):
            raise CandidateError(
                f"more than {bound.snippets} snippets, or {bound.characters} characters of text",
                hint="give them in parts; the server's LORECALL_AUDIT_MAX_SNIPPETS bounds what is sent, and "
                "LORECALL_AUDIT_MAX_REFERENCED_SNIPPETS what is named by address",
                param="candidates",
            )
    return parsed


def _checked(item: ScoreItem) -> ScoreItem:
    """Return an item that every audit takes.

    Raises:
        BadLineError: Its id cannot be shown, or its text is longer than any engine takes.
    """
    if len(item.id) > ID_LENGTH or not item.id.isprintable():
        raise BadLineError(f"'id' has more than {ID_LENGTH} characters, or one that cannot be printed")
    if sum(map(len, item.texts)) > TEXT_LENGTH:
        raise BadLineError(f"its texts have more than {TEXT_LENGTH} characters")
    return item
