"""Stretches of a text that would hurt if they came out, and which of two that overlap is kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Tag(StrEnum):
    """What a span is. Of two that overlap the one that stands first here is kept, and takes the other's tag."""

    IBAN = "iban"
    CARD = "card"
    KEY = "key"
    EMAIL = "email"
    NATIONAL_ID = "national-id"
    PHONE = "phone"
    PASSWORD = "password"  # noqa: S105  a tag, no password
    NAME_NUMBER = "name-number"
    ENTROPY = "entropy"


PLACE = {tag: place for place, tag in enumerate(Tag)}


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start` to `end` of a text, and what they are, the first tag being the surest."""

    start: int
    end: int
    tags: tuple[Tag, ...]


def resolve(found: Iterable[tuple[Tag, int, int]]) -> list[Span]:
    """Return spans that do not overlap, in the order of the text.

    Of two that overlap the earlier tag of `Tag` wins, then the longer, then the one that begins first.
    """
    kept: list[tuple[int, int, list[Tag]]] = []
    for tag, start, end in sorted(found, key=lambda one: (PLACE[one[0]], one[1] - one[2], one[1])):
        over = next((one for one in kept if start < one[1] and one[0] < end), None)
        if over is None:
            kept.append((start, end, [tag]))
        elif tag not in over[2]:
            over[2].append(tag)
    return [Span(start, end, tuple(tags)) for start, end, tags in sorted(kept)]
