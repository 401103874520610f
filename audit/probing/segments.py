"""From the paths of a search to candidates: the stretches that the adapter knows and the base does not."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from lorecall.audit.probing.explorer import Explorer
from lorecall.audit.probing.search import Path
from lorecall.audit.scorer import ScoreItem

BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a path.

    Attributes:
        prefix: Token ids before it.
        target: Its token ids; the adapter gives each more than ½.
        surprises: Of each of them under the base, in bits; 0 where it says nothing new.
    """

    prefix: tuple[int, ...]
    target: tuple[int, ...]
    surprises: tuple[float, ...]

    @property
    def bits(self) -> float:
        """The surprise of the whole target under the base."""
        return sum(self.surprises)


def stretches(path: Path, bits: float) -> Iterator[Segment]:
    """Yield the maximal stretches whose tokens all have p > ½ under the adapter, of at least `bits` surprise.

    A decode that runs in a circle is sure of itself and says nothing new: tokens that repeat a trigram of their
    path add no bits, and are cut off a stretch's end.
    """
    ids, first, fresh = path.ids, len(path.seed), path.fresh()
    start = 0
    for place in range(len(path.tokens) + 1):
        if place < len(path.tokens) and path.tokens[place].adapter > math.log(0.5):
            continue
        end = max((at + 1 for at in range(start, place) if fresh[at]), default=start)
        surprises = tuple(-path.tokens[at].base / math.log(2) * fresh[at] for at in range(start, end))
        if sum(surprises) >= bits:
            yield Segment(ids[: first + start], ids[first + start : first + end], surprises)
        start = place + 1


def distinct(segments: Iterable[Segment]) -> list[Segment]:
    """Return the segments whose target stands in no other's; of equal ones the first, the longest first."""
    kept: list[Segment] = []
    known: set[tuple[int, ...]] = set()
    for one in sorted(segments, key=lambda s: -len(s.target)):
        if one.target not in known:
            kept.append(one)
            length = len(one.target)
            known.update(
                one.target[start:end] for start in range(length) for end in range(start + 1, length + 1)
            )
    return kept


def to_items(explorer: Explorer, segments: Sequence[Segment], bits: float) -> list[tuple[ScoreItem, Segment]]:
    """Return candidates with their segments.

    A target is cut before the first token that makes no whole character, and left out if fewer than `bits`
    remain: what an adapter says after a memory may be no text, and must not take the memory with it.

    The special tokens that the tokenizer puts in front are no part of a prefix that goes on after them: whoever
    scores the candidate puts them there again.
    """
    special = _put_in_front(explorer) if segments else ()
    before = [_without(one.prefix, special) for one in segments]
    prefixes = explorer.texts(before)
    wholes = explorer.texts([(*ids, *one.target) for ids, one in zip(before, segments, strict=True)])
    found: list[tuple[ScoreItem, Segment]] = []
    for one, ids, prefix, text in zip(segments, before, prefixes, wholes, strict=True):
        whole, kept = text, one
        while BROKEN in whole and kept.target:
            kept = Segment(kept.prefix, kept.target[:-1], kept.surprises[:-1])
            (whole,) = explorer.texts([(*ids, *kept.target)])
        target = whole.removeprefix(prefix)
        if whole.startswith(prefix) and target.strip() and BROKEN not in whole and kept.bits >= bits:
            found.append((ScoreItem(f"probe-{len(found):05d}", prefix, target), kept))
    return found


def _put_in_front(explorer: Explorer) -> tuple[int, ...]:
    """Return the tokens that every text begins with: what two texts of one letter have in common."""
    first, second = explorer.encode("a"), explorer.encode("b")
    return tuple(
        one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )


def _without(ids: tuple[int, ...], special: tuple[int, ...]) -> tuple[int, ...]:
    count = len(special)
    return ids[count:] if ids[:count] == special and len(ids) > count else ids
