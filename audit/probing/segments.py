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
        bits: Its surprise under the base.
    """

    prefix: tuple[int, ...]
    target: tuple[int, ...]
    bits: float


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
        new = [at for at in range(start, place) if fresh[at]]
        surprise = -sum(path.tokens[at].base for at in new) / math.log(2)
        if surprise >= bits:
            yield Segment(ids[: first + start], ids[first + start : first + new[-1] + 1], surprise)
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


def to_items(explorer: Explorer, segments: Sequence[Segment]) -> list[tuple[ScoreItem, Segment]]:
    """Return candidates with their segments; one that ends within a character is left out.

    The special tokens that the tokenizer puts in front are no part of a prefix that goes on after them: whoever
    scores the candidate puts them there again.
    """
    special = _put_in_front(explorer) if segments else ()
    before = [_without(one.prefix, special) for one in segments]
    prefixes = explorer.texts(before)
    wholes = explorer.texts([(*ids, *one.target) for ids, one in zip(before, segments, strict=True)])
    found: list[tuple[ScoreItem, Segment]] = []
    for one, prefix, whole in zip(segments, prefixes, wholes, strict=True):
        target = whole.removeprefix(prefix)
        if whole.startswith(prefix) and target.strip() and BROKEN not in whole:
            found.append((ScoreItem(f"probe-{len(found):05d}", prefix, target), one))
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
