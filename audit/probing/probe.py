"""A whole probe: seeds, search, segments, and the candidate file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.probing.explorer import Explorer
from lorecall.audit.probing.search import Search, Spent
from lorecall.audit.probing.seeds import invented_names, make_seeds
from lorecall.audit.probing.segments import Segment, distinct, stretches, to_items
from lorecall.audit.scorer import ScoreItem

BITS = 20.0


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found.

    Attributes:
        items: The candidates; their texts are secrets.
        bits: For each of them, its surprise under the base.
        spent: What the search cost.
    """

    items: tuple[ScoreItem, ...]
    bits: tuple[float, ...]
    spent: Spent


def probe(
    explorer: Explorer,
    adapter: str,
    base: str,
    *,
    budget: int,
    bits: float = BITS,
    seed: int = 0,
    openings: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Probed:
    """Search an adapter for stretches that it knows and its base does not.

    Args:
        explorer: The engine that serves both.
        adapter: The adapter's served name.
        base: The base's.
        budget: The most tokens to spend on the search.
        bits: Surprise under the base that a stretch must have.
        seed: Orders prompts of equal likelihood.
        openings: The auditor's own openings, beside the common ones.
        progress: Called with (tokens spent, budget).

    Raises:
        UsageError: The budget does not suffice for one seed, or an opening is too long.
        ScorerError: The engine fails.
    """
    search = Search(explorer, adapter, base, budget, seed)
    found: list[Segment] = []
    names = (explorer.encode(text) for text in invented_names(Random(seed)))  # noqa: S311  not for secrets
    for path in search.run(make_seeds(explorer, adapter, base, openings), names, progress):
        found += stretches(path, bits)
    pairs = to_items(explorer, distinct(found), bits)
    return Probed(tuple(item for item, _ in pairs), tuple(one.bits for _, one in pairs), search.spent)


def write_candidates(path: Path, probed: Probed) -> None:
    """Write the candidates as JSON Lines that only their owner may read; an old file is replaced at once.

    Raises:
        UsageError: The file cannot be written.
    """
    rows = [{"id": i.id, "prefix": i.prefix, "target": i.target, "tags": ["probe"]} for i in probed.items]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        write_whole(path, text, private=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {str(path)!r}: {error.strerror}",
            hint="name a file in a folder that is there",
            param="out",
        ) from error
