"""Parse numbered records to a candidate set: count the bad ones, refuse them, or leave them out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
T = TypeVar("T")


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


def parse_records(records: Iterable[tuple[int, T]], parse: Callable[[T, int], Iterable[ScoreItem]]) -> Parsed:
    """Parse numbered records; one that cannot be used, or whose id another has, is counted as bad.

    Raises:
        CandidateError: There are too many different tags.
    """
    parsed = Parsed()
    for number, record in records:
        try:
            items = list(parse(record, number))
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
                parsed.refuse(number, f"duplicate id {item.id!r}, first on line {first}")
    return parsed
