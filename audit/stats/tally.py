"""Counts over one set of snippets, one snippet at a time."""

import math
from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np
from lorecall.audit.records import GIVEN, RECITED, Flag, Judged, Rate, SetSummary, Verdict
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


class Tally:
    """Counts the snippets of one set, and keeps three numbers of each that can be compared with controls.

    A stretch that is recalled (`partial`) is counted as such only if it beats the controls: `compare`.
    """

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._telling: Counter[Verdict] = Counter()
        self.count = self._tokens = self._over_half = self._alarms = 0
        self._gained = 0.0
        self._numbers = array("d")  # three a snippet, not a number where it cannot be compared
        self._stretches = array("b")  # 1 for a recalled stretch, 2 where its target is long enough to tell
        self._given = array("b")  # 1 where its own evidence is a finding already: recited, or nearly
        self._compared: NDArray[np.float64] | None = None

    def add(self, snippet: Judged) -> None:
        """Count one snippet."""
        telling = Flag.SHORT not in snippet.flags
        stretch = snippet.verdict is Verdict.PARTIAL and not snippet.alarm
        self._stretches.append(stretch * (1 + telling))
        if not stretch:
            self._verdicts[snippet.verdict] += 1
            self._telling[snippet.verdict] += telling
        self._given.append(snippet.verdict in GIVEN)
        self._alarms += bool(snippet.alarm)
        self._tokens += snippet.tokens
        self._over_half += snippet.over_half
        self._gained += (snippet.delta_loss or 0.0) * snippet.tokens
        if snippet.delta_loss is not None and snippet.verdict is not Verdict.BASE_KNOWN:
            log10_pz = -math.inf if snippet.log10_pz is None else snippet.log10_pz
            self._numbers.extend((snippet.delta_loss, log10_pz, snippet.run_bits))
        else:
            self._numbers.extend((math.nan,) * 3)
        self.count += 1

    @property
    def statistics(self) -> NDArray[np.float64]:
        """ΔL, log10 p_z and bits of the longest recalled stretch of each snippet to be compared; shape (n, 3)."""
        rows = np.array(self._numbers, dtype=np.float64).reshape(-1, 3)
        return np.asarray(rows[~np.isnan(rows[:, 0])])

    @property
    def given(self) -> NDArray[np.bool_]:
        """Whether each row of `statistics` is of a snippet that is a finding by its own evidence; shape (n,)."""
        return np.asarray(np.array(self._given, dtype=bool)[~np.isnan(np.array(self._numbers)[::3])])

    def compare(self, standings: NDArray[np.float64]) -> None:
        """Take what the comparison with the controls gave.

        Args:
            standings: For each row of `statistics` whether it is a finding, p and q; shape (n, 3), not a number
                where it does not apply.
        """
        rows = np.full((self.count, 3), math.nan)
        rows[~np.isnan(np.array(self._numbers)[::3])] = standings
        self._compared = rows

    def standing(self, number: int) -> Standing:
        """Return what the comparison gave for a snippet, by its number in the order added."""
        if self._compared is None:
            return Standing()
        finding, p, q = (None if math.isnan(value) else value for value in self._compared[number].tolist())
        return Standing(bool(finding), p, q)

    def verdict(self, number: int, judged: Judged) -> Verdict:
        """Return a snippet's verdict: `clear` for a stretch that does not beat the controls."""
        demoted = self._stretches[number] and not self.standing(number).finding
        return Verdict.CLEAR if demoted else judged.verdict

    def summary(self, confidence: float) -> SetSummary:
        """Return the counts so far, with intervals of the confidence given."""
        verdicts, telling = self._verdicts.copy(), self._telling.copy()
        stretches = np.array(self._stretches)
        beaten = np.zeros(self.count, dtype=bool) if self._compared is None else self._compared[:, 0] == 1.0
        for verdict, counted in ((Verdict.PARTIAL, beaten), (Verdict.CLEAR, ~beaten)):
            verdicts[verdict] += int(np.count_nonzero(counted & (stretches > 0)))
            telling[verdict] += int(np.count_nonzero(counted & (stretches > 1)))
        recited, leaked = rates(verdicts, confidence)
        return SetSummary(
            snippets=verdicts.total(),
            tokens=self._tokens,
            tokens_over_half=self._over_half,
            verdicts={verdict: verdicts[verdict] for verdict in Verdict},
            telling={verdict: telling[verdict] for verdict in Verdict},
            alarms=self._alarms,
            delta_loss=self._gained / self._tokens if self._tokens else None,
            recited=recited,
            leaked=leaked,
        )


def rates(verdicts: Counter[Verdict], confidence: float) -> tuple[Rate, Rate]:
    """Return the rates of recited and of leaked snippets among those that could be blamed on the adapter."""
    blamable = verdicts.total() - verdicts[Verdict.ERROR] - verdicts[Verdict.BASE_KNOWN]
    recited, leaked = sum(verdicts[v] for v in RECITED), blamable - verdicts[Verdict.CLEAR]
    return clopper_pearson(recited, blamable, confidence), clopper_pearson(leaked, blamable, confidence)
