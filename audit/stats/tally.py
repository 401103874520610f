"""Counts over one set of snippets, one snippet at a time."""

from collections import Counter

from lorecall.audit.records import RECITED, Flag, Judged, SetSummary, Verdict
from lorecall.audit.stats.intervals import clopper_pearson


class Tally:
    """Counts the snippets of one set, and keeps none of them."""

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._telling: Counter[Verdict] = Counter()
        self._tokens = self._over_half = self._alarms = 0
        self._gained = 0.0

    def add(self, snippet: Judged) -> None:
        """Count one snippet."""
        self._verdicts[snippet.verdict] += 1
        self._telling[snippet.verdict] += Flag.SHORT not in snippet.flags
        self._alarms += bool(snippet.alarm)
        self._tokens += snippet.tokens
        self._over_half += snippet.over_half
        self._gained += (snippet.delta_loss or 0.0) * snippet.tokens

    def summary(self, confidence: float) -> SetSummary:
        """Return the counts so far, with intervals of the confidence given."""
        verdicts = self._verdicts
        total = verdicts.total()
        blamable = total - verdicts[Verdict.ERROR] - verdicts[Verdict.BASE_KNOWN]
        recited = sum(verdicts[v] for v in RECITED)
        return SetSummary(
            snippets=total,
            tokens=self._tokens,
            tokens_over_half=self._over_half,
            verdicts={verdict: verdicts[verdict] for verdict in Verdict},
            telling={verdict: self._telling[verdict] for verdict in Verdict},
            alarms=self._alarms,
            delta_loss=self._gained / self._tokens if self._tokens else None,
            recited=clopper_pearson(recited, blamable, confidence),
            leaked=clopper_pearson(blamable - verdicts[Verdict.CLEAR], blamable, confidence),
        )
