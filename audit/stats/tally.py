"""Counts over one set of snippets, one snippet at a time."""

import math
from array import array
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from lorecall.audit.records import GIVEN, RECITED, Flag, Judged, Rate, SetSummary, Undecoded, Verdict
from lorecall.audit.stats.decoding_check import rate_of, undecoded
from numpy.typing import NDArray

VERDICTS = tuple(Verdict)
CODES = {verdict: code for code, verdict in enumerate(VERDICTS)}
LEFT_OUT, CHECKED, FOUND = 1, 2, 3
"""Of a snippet whose decode was ruled out: not decoded; decoded as a check; and decoding gave it."""


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
    """Keeps of each snippet of one set what is counted, in a few bytes: verdict, tokens, statistics and tags.

    A stretch that is recalled (`partial`) is counted as such only if it beats the controls: `compare`.
    """

    def __init__(self) -> None:
        self._codes = array("b")
        self._telling = array("b")
        self._alarms = array("b")
        self._unknown = array("b")  # 1 where the chance of sampling is not known
        self._ruled_out = array("b")  # 0, LEFT_OUT, CHECKED or FOUND
        self._tokens = array("q")
        self._over_half = array("q")
        self._numbers = array("d")  # four a snippet, not a number where it was not scored
        self._tags: dict[str, array[int]] = {}
        self._not_asked: dict[str, array[int]] = {}
        self._compared: NDArray[np.float64] | None = None

    def add(self, snippet: Judged) -> None:
        """Count one snippet."""
        for known, names in ((self._tags, snippet.tags), (self._not_asked, snippet.not_asked)):
            for name in dict.fromkeys(names):
                known.setdefault(name, array("Q")).append(self.count)
        self._codes.append(CODES[snippet.verdict])
        self._telling.append(Flag.SHORT not in snippet.flags)
        self._alarms.append(bool(snippet.alarm))
        self._unknown.append(snippet.unknown_chance)
        self._ruled_out.append(_ruled_out(snippet))
        self._tokens.append(snippet.tokens)
        self._over_half.append(snippet.over_half)
        values = (snippet.delta_loss, snippet.log10_pz, snippet.run_bits, snippet.base_loss)
        if snippet.delta_loss is None:
            values = (math.nan,) * 4
        self._numbers.extend(-math.inf if value is None else value for value in values)

    @property
    def count(self) -> int:
        """How many snippets were added."""
        return len(self._codes)

    @property
    def _rows(self) -> NDArray[np.float64]:
        return np.array(self._numbers, dtype=np.float64).reshape(-1, 4)

    @property
    def _asked(self) -> NDArray[np.bool_]:
        """Whether each snippet can be compared: scored, and not known to the base; shape (count,)."""
        scored = ~np.isnan(self._rows[:, 0])
        return np.asarray(scored & (np.array(self._codes) != CODES[Verdict.BASE_KNOWN]))

    @property
    def statistics(self) -> NDArray[np.float64]:
        """ΔL, log10 p_z and bits of the longest recalled stretch of each snippet to be compared; shape (n, 3)."""
        return np.asarray(self._rows[self._asked, :3])

    @property
    def base_losses(self) -> NDArray[np.float64]:
        """The base's loss on each snippet to be compared, in nats a token; shape (n,)."""
        return np.asarray(self._rows[self._asked, 3])

    @property
    def given(self) -> NDArray[np.bool_]:
        """Whether each row of `statistics` is of a snippet that is a finding by its own evidence; shape (n,)."""
        return np.isin(np.array(self._codes)[self._asked], [CODES[verdict] for verdict in GIVEN])

    def compare(self, standings: NDArray[np.float64]) -> None:
        """Take what the comparison with the controls gave.

        Args:
            standings: For each row of `statistics` whether it is a finding, p and q; shape (n, 3), not a number
                where it does not apply.
        """
        rows = np.full((self.count, 3), math.nan)
        rows[self._asked] = standings
        self._compared = rows

    def standing(self, number: int) -> Standing:
        """Return what the comparison gave for a snippet, by its number in the order added."""
        if self._compared is None:
            return Standing()
        finding, p, q = (None if math.isnan(value) else value for value in self._compared[number].tolist())
        return Standing(bool(finding), p, q)

    def verdict(self, number: int) -> Verdict:
        """Return a snippet's verdict, by its number: `clear` for a stretch that does not beat the controls."""
        verdict = VERDICTS[self._codes[number]]
        stretch = verdict is Verdict.PARTIAL and not self._alarms[number]
        return Verdict.CLEAR if stretch and not self.standing(number).finding else verdict

    def summary(self, confidence: float) -> SetSummary:
        """Return the counts so far, with intervals of the confidence given."""
        return self._summary(np.arange(self.count), confidence)

    def by_tag(self, confidence: float) -> dict[str, SetSummary]:
        """Return the counts of the snippets with each tag; one with several tags counts for each."""
        return {tag: self._summary(np.array(self._tags[tag]), confidence) for tag in sorted(self._tags)}

    def _summary(self, rows: NDArray[np.integer], confidence: float) -> SetSummary:
        codes = np.array(self._codes)
        beaten = np.zeros(self.count, bool) if self._compared is None else self._compared[:, 0] == 1.0
        codes[(codes == CODES[Verdict.PARTIAL]) & (np.array(self._alarms) == 0) & ~beaten] = CODES[
            Verdict.CLEAR
        ]
        codes, telling = codes[rows], np.array(self._telling)[rows] == 1
        verdicts, told = (
            dict(zip(VERDICTS, np.bincount(found, minlength=len(VERDICTS)).tolist(), strict=True))
            for found in (codes, codes[telling])
        )
        tokens = np.array(self._tokens)[rows]
        gained = float(np.nansum(self._rows[rows, 0] * tokens))
        ruled_out = np.bincount(np.array(self._ruled_out, dtype=np.intp)[rows], minlength=FOUND + 1)
        left_out, checked, found = ruled_out[LEFT_OUT:].tolist()
        unsure = undecoded(left_out, checked + found, found, confidence)
        recited, leaked = rates(verdicts, confidence, unsure)
        return SetSummary(
            snippets=len(rows),
            tokens=int(tokens.sum()),
            tokens_over_half=int(np.array(self._over_half)[rows].sum()),
            verdicts=verdicts,
            telling=told,
            alarms=int(np.array(self._alarms)[rows].sum()),
            delta_loss=gained / int(tokens.sum()) if tokens.sum() else None,
            recited=recited,
            leaked=leaked,
            unknown_chances=int(np.array(self._unknown)[rows].sum()),
            not_asked={
                view: count
                for view, places in self._not_asked.items()
                if (count := int(np.isin(np.array(places), rows).sum()))
            },
            undecoded=unsure,
        )


def _ruled_out(snippet: Judged) -> int:
    if Flag.CHECKED in snippet.flags:
        return FOUND if snippet.verdict in (*RECITED, Verdict.NEAR_VERBATIM) else CHECKED
    return LEFT_OUT if Flag.NOT_DECODED in snippet.flags else 0


def rates(
    verdicts: Mapping[Verdict, int], confidence: float, ruled_out: Undecoded | None = None
) -> tuple[Rate, Rate]:
    """Return the rates of recited and of leaked snippets among those that could be blamed on the adapter."""
    blamable = sum(verdicts.values()) - verdicts[Verdict.ERROR] - verdicts[Verdict.BASE_KNOWN]
    recited, leaked = sum(verdicts[v] for v in RECITED), blamable - verdicts[Verdict.CLEAR]
    return (
        rate_of(recited, blamable, confidence, ruled_out),
        rate_of(leaked, blamable, confidence, ruled_out),
    )
