"""Sketches of spans by MinHash, by which near-duplicates are found among any number of them."""

import hashlib
import re
from functools import lru_cache
from typing import Any

import numpy as np
from lorecall.audit.discovery.finder import load

BANDS, ROWS_IN_BAND = 8, 16
"""Spans share a band with probability 1 - (1 - s^16)^8: 0.99 at a Jaccard similarity s of 0.95, 0.03 at 0.7."""
DIGITS = 6
"""Numbers are near-duplicates only if they end with the same digits: the next number is another one."""
SHINGLE = 3
APART = re.compile(r"[\W_]+")


def folded(text: str) -> str:
    """Return a span without what its copies may differ in: case, blanks, hyphens and other punctuation."""
    return APART.sub("", text).casefold() or text


def key_of(text: str) -> int:
    """Return 63 bits of the hash of a folded span: copies have the same."""
    return int.from_bytes(hashlib.blake2b(folded(text).encode(), digest_size=8).digest()) >> 1


def shingles(text: str) -> list[str]:
    """Return the runs of three characters of a folded span."""
    text = folded(text)
    return [text[place : place + SHINGLE] for place in range(max(1, len(text) - SHINGLE + 1))]


class Sketcher:
    """Makes sketches; equal spans are sketched once while they are remembered.

    Raises:
        UsageError: The extra `discover` is not installed.
    """

    def __init__(self) -> None:
        self._minhash: Any = load("datasketch").MinHash
        self._model = self._minhash(num_perm=BANDS * ROWS_IN_BAND, seed=1)
        self.bands = lru_cache(maxsize=100_000)(self._bands)

    def _bands(self, text: str) -> tuple[int, ...]:
        """Return one hash a band of 63 bits: near-duplicates share at least one of them."""
        sketch = self._model.copy()
        sketch.update_batch([one.encode() for one in shingles(text)])
        values = np.asarray(sketch.hashvalues, dtype=np.uint64).reshape(BANDS, ROWS_IN_BAND)
        digits = "".join(filter(str.isdigit, text))
        end = digits[-DIGITS:].encode() if len(digits) >= DIGITS else b""
        digests = (hashlib.blake2b(band.tobytes() + end, digest_size=8).digest() for band in values)
        return tuple(int.from_bytes(one) >> 1 for one in digests)
