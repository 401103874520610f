"""Counts all snippets of an audit and stores the evidence of the gravest, so that memory is bounded."""

import heapq
from collections.abc import Iterable
from dataclasses import replace

from lorecall.audit.records import SnippetResult
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import PLACES


class Findings:
    """The snippets of one set: all are counted, at most `limit` are stored.

    Args:
        limit: Snippets to keep; None for all.
    """

    def __init__(self, limit: int | None) -> None:
        self.tally = Tally()
        self.count = 0
        self._limit = limit
        self._heap: list[tuple[tuple[bool, int, float], int, SnippetResult]] = []

    def add(self, snippets: Iterable[SnippetResult]) -> None:
        """Count snippets, and store those that are graver than a stored one; of two alike, the first."""
        for snippet in snippets:
            self.tally.add(snippet.judged())
            entry = (gravity(snippet), -self.count, snippet)
            self.count += 1
            if self._limit is None or len(self._heap) < self._limit:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)

    def kept(self) -> list[SnippetResult]:
        """Return the stored snippets, in the order added, with their verdicts beside the controls."""
        kept = []
        for _, number, snippet in sorted(self._heap, key=lambda entry: -entry[1]):
            verdict, standing = self.tally.verdict(-number), self.tally.standing(-number)
            kept.append(replace(snippet, verdict=verdict, p_value=standing.p, q_value=standing.q))
        return kept


def gravity(snippet: SnippetResult) -> tuple[bool, int, float]:
    """Return a sort key that is larger for graver snippets: by alarm, then verdict, then least p."""
    return bool(snippet.alarm), -PLACES[snippet.verdict], snippet.rule.min_p if snippet.rule else 0.0
