"""The base's latest scores, in memory: audits of several adapters, one after the other, ask for the same texts.

A base does not change while a server runs, so what one audit scored holds for the next. Each key has scores of
its own, as it has a prefix cache of its own: speed tells nobody what others asked. A server without a prefix
cache (`--no-enable-prefix-caching`) remembers no scores either: what is asked for again is computed again.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from lorecall.audit.scorer import Sampling
from lorecall.audit.scorers.splits import Split
from lorecall.server.auth.request_context import current

MOST_ROWS = 1_000_000
"""Target tokens that are remembered at most, over all texts: 40 MB of numbers."""

Rows = list[tuple[float, ...]]


@dataclass(slots=True)
class BaseScores:
    """Remembers the rows of scored texts; the least recently used are forgotten first.

    Attributes:
        most: Rows that are kept at most; with 0 none are.
    """

    most: int = MOST_ROWS
    _kept: "dict[bytes, tuple[int, array[float]]]" = field(default_factory=dict)
    _rows: int = 0

    def get(self, key: bytes) -> Rows | None:
        """Return the rows of a text; None if they are not known."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        self._kept[key] = found
        width, numbers = found
        return [tuple(numbers[at : at + width]) for at in range(0, len(numbers), width)]

    def put(self, key: bytes, rows: Sequence[tuple[float, ...]]) -> None:
        """Remember the rows of a text: at least one, all of one width."""
        self._rows += len(rows) - len(self.get(key) or ())
        self._kept[key] = len(rows[0]), array("d", (value for row in rows for value in row))
        while self._rows > self.most:
            width, numbers = self._kept.pop(next(iter(self._kept)))
            self._rows -= len(numbers) // width


def key_of(split: Split, sampling: Sampling | None) -> bytes | None:
    """Return the key of the current caller's text in one split, under a sampling scheme: a digest.

    None outside a request: audits of the service run there for any key, and remember what they ask by themselves.
    """
    context = current.get()
    if context is None:
        return None
    caller = "" if context.key is None else context.key.digest
    asked = (caller, sampling, tuple(split.prefix_ids), tuple(split.target_ids))
    return hashlib.sha256(repr(asked).encode()).digest()
