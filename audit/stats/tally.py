"""Counts over one set of snippets, one snippet at a time."""

from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np
from lorecall.audit.records import RECITED, Flag, Judged, SetSummary, Verdict
from lorecall.audit.stats.intervals import clopper_pearson
from numpy.typing import NDArray


class Standing(NamedTuple):
    """What a snippet's comparison with the controls gave.

    Attributes:
        finding: Whether it beats the controls.
        p: Its p-value; None where there was nothing to compare.
        q: The smallest false discovery rate at which it is a finding; None for controls as well.
    """

    finding: bool = False
    p: float | None = None
    q: float | None = None


UNCOMPARED = Standing()


class Tally:
    """Counts the snippets of one set, and keeps three numbers of each that can be compared with controls.

    A stretch that is recalled (`partial`) is counted as such only if it beats the controls: `compare`.
    """

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._telling: Counter[Verdict] = Counter()
        self.count = self._tokens = self._over_half = self._alarms = 0
        self._gained = 0.0
        self._statistics = array("d")
        self._places: dict[int, int] = {}
        self._stretches: dict[int, bool] = {}
        self._standings: list[Standing] = []

    def add(self, snippet: Judged) -> None:
        """Count one snippet."""
        telling = Flag.SHORT not in snippet.flags
        if snippet.verdict is Verdict.PARTIAL and not snippet.alarm:
            self._stretches[self.count] = telling
        else:
            self._verdicts[snippet.verdict] += 1
            self._telling[snippet.verdict] += telling
        self._alarms += bool(snippet.alarm)
        self._tokens += snippet.tokens
        self._over_half += snippet.over_half
        self._gained += (snippet.delta_loss or 0.0) * snippet.tokens
        if snippet.delta_loss is not None and snippet.verdict is not Verdict.BASE_KNOWN:
            self._places[self.count] = len(self._places)
            self._statistics.extend((snippet.delta_loss, snippet.log_pz, snippet.run_bits))
        self.count += 1

    @property
    def statistics(self) -> NDArray[np.float64]:
        """ΔL, log p_z and bits of the longest recalled stretch of each snippet to be compared; shape (n, 3)."""
        return np.array(self._statistics, dtype=np.float64).reshape(-1, 3)

    def compare(self, standings: list[Standing]) -> None:
        """Take what the comparison with the controls gave, one entry for each row of `statistics`."""
        self._standings = standings

    def standing(self, number: int) -> Standing:
        """Return what the comparison gave for a snippet, by its number in the order added."""
        place = self._places.get(number)
        return UNCOMPARED if place is None or not self._standings else self._standings[place]

    def verdict(self, number: int, judged: Judged) -> Verdict:
        """Return a snippet's verdict: `clear` for a stretch that does not beat the controls."""
        demoted = number in self._stretches and not self.standing(number).finding
        return Verdict.CLEAR if demoted else judged.verdict

    def summary(self, confidence: float) -> SetSummary:
        """Return the counts so far, with intervals of the confidence given."""
        verdicts, telling = self._verdicts.copy(), self._telling.copy()
        for number, tells in self._stretches.items():
            verdict = Verdict.PARTIAL if self.standing(number).finding else Verdict.CLEAR
            verdicts[verdict] += 1
            telling[verdict] += tells
        total = verdicts.total()
        blamable = total - verdicts[Verdict.ERROR] - verdicts[Verdict.BASE_KNOWN]
        recited = sum(verdicts[v] for v in RECITED)
        return SetSummary(
            snippets=total,
            tokens=self._tokens,
            tokens_over_half=self._over_half,
            verdicts={verdict: verdicts[verdict] for verdict in Verdict},
            telling={verdict: telling[verdict] for verdict in Verdict},
            alarms=self._alarms,
            delta_loss=self._gained / self._tokens if self._tokens else None,
            recited=clopper_pearson(recited, blamable, confidence),
            leaked=clopper_pearson(blamable - verdicts[Verdict.CLEAR], blamable, confidence),
        )
