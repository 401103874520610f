"""What an audit of many snippets keeps of them: the counts of all, the evidence of the gravest."""

import heapq
from collections.abc import Iterable

from lorecall.audit.records import PLACES, SnippetResult
from lorecall.audit.stats.tally import Tally


class Findings:
    """One set's snippets: all counted, at most `limit` kept.

    Args:
        limit: Snippets to keep; None for all.
    """

    def __init__(self, limit: int | None) -> None:
        self.tally = Tally()
        self.count = 0
        self._limit = limit
        self._heap: list[tuple[tuple[bool, int, float], int, SnippetResult]] = []

    def add(self, snippets: Iterable[SnippetResult]) -> None:
        """Count snippets, and keep those graver than what is kept already; of two alike, the first."""
        for snippet in snippets:
            self.tally.add(snippet.judged())
            entry = (gravity(snippet), -self.count, snippet)
            self.count += 1
            if self._limit is None or len(self._heap) < self._limit:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)

    def kept(self) -> list[SnippetResult]:
        """Return what is kept, in the order added."""
        return [snippet for _, _, snippet in sorted(self._heap, key=lambda entry: -entry[1])]


def gravity(snippet: SnippetResult) -> tuple[bool, int, float]:
    """Return what is larger for graver snippets: an alarm first, then the verdict, then the least p."""
    return bool(snippet.alarm), -PLACES[snippet.verdict], snippet.rule.min_p if snippet.rule else 0.0
