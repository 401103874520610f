"""Rank candidates: what is memorised first comes first.

An adapter learns by heart what the base does not know, what it saw often, and what is like nothing else. So a
candidate's score is the product of three numbers: the base's surprise, the number of its near-duplicates, and its
rarity.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lorecall.audit.discovery.parts import BAND_NAMES, Parts
from lorecall.audit.discovery.sketches import shingles
from lorecall.audit.discovery.spans import PLACE, Tag
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BUCKETS = 1 << 18


@dataclass(slots=True)
class Ranking:
    """Candidates in the order of their rank; all arrays have one entry a candidate.

    Attributes:
        places: Where each lies among the parts' candidates.
        clusters: Numbers that near-duplicates share.
        duplicates: Spans of the data that equal it or nearly do, itself included.
        rarity: Bits a run of three characters, as `_rarity` counts them.
        surprise: Mean -log₂ of the base's probability of a target token; NaN where it was not asked for.
        score: The product. Where the surprise is unknown the median of the known ones stands for it, or 1.
        spans: Different spans in the data.
    """

    places: Any
    clusters: Any
    duplicates: Any
    rarity: Any
    surprise: Any
    score: Any
    spans: int

    def with_surprise(self, surprise: Any) -> "Ranking":
        """Return the ranking with what the base said; NaN where it was not asked."""
        known = surprise[np.isfinite(surprise)]
        usual = float(np.median(known)) if len(known) else 1.0
        score = np.where(np.isfinite(surprise), surprise, usual) * self.duplicates * self.rarity
        order = np.argsort(-score, kind="stable")
        return Ranking(
            places=self.places[order],
            clusters=self.clusters[order],
            duplicates=self.duplicates[order],
            rarity=self.rarity[order],
            surprise=surprise[order],
            score=score[order],
            spans=self.spans,
        )


def rank(parts: Parts, occurrences: int) -> Ranking:
    """Rank by near-duplicates and rarity, without a base.

    Args:
        parts: All candidates.
        occurrences: Places of each distinct span that become candidates: the first ones.
    """
    whole = parts.column("shortened") == 0
    _, first, inverse = np.unique(parts.column("key"), return_index=True, return_inverse=True)
    copies = np.bincount(inverse, weights=whole, minlength=len(first))
    clusters = _clusters(parts, first)
    duplicates = np.bincount(clusters, weights=copies)[clusters] if len(first) else copies
    rarity = _rarity(parts, first)
    places = np.flatnonzero(_ordinals(inverse, whole) < occurrences)
    kinds = inverse[places]
    found = Ranking(places, clusters[kinds], duplicates[kinds], rarity[kinds], None, None, len(first))
    return found.with_surprise(np.full(len(places), np.nan))


def _ordinals(inverse: Any, whole: Any) -> Any:
    """Return which occurrence of its span each candidate is, from 0; a shorter one has that of its whole."""
    ordinals = np.empty(len(inverse), dtype=np.int64)
    at = np.flatnonzero(whole)
    order = np.argsort(inverse[at], kind="stable")
    grouped = inverse[at][order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(grouped) else at
    lengths = np.diff(np.r_[starts, len(grouped)])
    ordinals[at[order]] = np.arange(len(grouped)) - np.repeat(starts, lengths)
    return ordinals[np.maximum.accumulate(np.where(whole, np.arange(len(whole)), 0))]


def _clusters(parts: Parts, first: Any) -> Any:
    """Return the number of the cluster of each distinct span: those that share a band of a sketch are one."""
    count = len(first)
    own = np.arange(count)
    labels = own
    for band in BAND_NAMES:
        values = parts.column(band)[first]
        order = np.argsort(values, kind="stable")
        equal = values[order][1:] == values[order][:-1]
        heads = np.r_[own, order[:-1][equal]]
        # A label's own number stands for all spans that have it: spans that share it get one edge each to it.
        representative = np.full(count, 0)
        representative[labels[::-1]] = own[::-1]
        tails = np.r_[representative[labels], order[1:][equal]]
        graph = coo_array((np.ones(len(heads), dtype=np.int8), (heads, tails)), shape=(count, count))
        _, labels = connected_components(graph, directed=False)
    return labels


def _rarity(parts: Parts, first: Any) -> Any:
    """Return, for each distinct span, the mean -log₂ of the share that its runs of three characters have.

    The share is among those of all distinct spans of its tag, so that copies do not make a span common.
    """
    number = np.full(sum(parts.state.parts), -1, dtype=np.int64)
    number[first] = np.arange(len(first))
    seen = np.zeros((len(Tag), BUCKETS), dtype=np.int64)
    for _, tag, buckets in _distinct(parts, number):
        np.add.at(seen[tag], buckets, 1)
    totals = seen.sum(axis=1) + 1
    rarity = np.zeros(len(first))
    for place, tag, buckets in _distinct(parts, number):
        rarity[place] = -np.log2(seen[tag][buckets] / totals[tag]).mean()
    return rarity


def _distinct(parts: Parts, number: Any) -> Iterator[tuple[int, int, list[int]]]:
    """Yield (number, tag, hashed runs of three characters) of each distinct span."""
    for own, row in zip(number, parts.rows(("target", "tags")), strict=True):
        if own >= 0:
            buckets = [_bucket(one) for one in shingles(row["target"])]
            yield int(own), PLACE[Tag(row["tags"][0])], buckets


def _bucket(shingle: str) -> int:
    """Return a hash that is the same in every process."""
    value = 0
    for character in shingle:
        value = (value * 2_654_435_761 + ord(character)) % (1 << 32)
    return value >> 14
