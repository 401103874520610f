"""What an audit estimates: rates with their intervals, and how candidates stand beside controls."""

from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """Hits in tries, with an exact interval.

    Attributes:
        hits: How many.
        of: In how many.
        low: Lower end of the two-sided interval.
        high: Upper end of the two-sided interval.
        confidence: Its confidence.
    """

    hits: int
    of: int
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class TruePositiveRate:
    """How many candidates a score finds at a false-positive rate.

    Attributes:
        false_positive_rate: The share of the controls that may score higher than the threshold.
        rate: The candidates over it.
    """

    false_positive_rate: float
    rate: Rate


@dataclass(frozen=True, slots=True)
class Roc:
    """How well a score tells candidates from controls.

    Attributes:
        area: The area under the ROC curve, in [0, 1]; a half is chance.
        low: Lower end of its interval.
        high: Upper end.
        rates: True-positive rates at the false-positive rates that the controls are enough for.
    """

    area: float
    low: float
    high: float
    rates: tuple[TruePositiveRate, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """How the candidates stand out from the controls.

    Attributes:
        controls: Controls that they were compared with.
        rate: The false discovery rate at which a candidate is a finding.
        findings: Candidates that are, of those that are not recited or nearly so.
        least_q: The smallest false discovery rate at which one of them is a finding; 1 if there is none.
        line: The largest p-value of a finding; 0 if there is none.
        controls_over: Controls whose p-value against the others is no larger than that.
        roc: How well ΔL tells candidates from controls.
    """

    controls: int
    rate: float
    findings: int
    least_q: float
    line: float
    controls_over: int
    roc: Roc


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the controls can stand for candidates that were never trained on.

    Attributes:
        statistic: Largest distance between the distributions of the base's loss on candidates and on controls
            (two-sample Kolmogorov-Smirnov); None where one of the two sets has no scores.
        p_value: Its p-value.
        reason: Why no rate may rest on the controls, "" if one may.
    """

    statistic: float | None
    p_value: float | None
    reason: str = ""


Decision = Literal["below", "above", "open"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a sequential audit is, and what it knows.

    Attributes:
        bound: The rate to decide about; None where only an interval is asked for.
        confidence: At which the interval holds at all times at once.
        of: Candidates in the set.
        taken: Candidates taken so far.
        hits: Recited ones among them.
        low: Lower end of the interval of the whole set's rate; errors count as not recited.
        high: Its upper end; errors count as recited.
        errors: Those taken that could not be scored.
        batch: Candidates taken between two looks at the result; the last batch may be smaller.
    """

    bound: float | None
    confidence: float
    of: int
    taken: int
    hits: int
    low: float
    high: float
    errors: int = 0
    batch: int | None = None

    @property
    def decision(self) -> Decision:
        """Return "below", "above" or "open"."""
        return decide(self.low, self.high, self.bound)

    @property
    def decided(self) -> bool:
        """Whether the rate is known to lie on one side of the bound."""
        return self.decision != "open"


def decide(low: float, high: float, bound: float | None) -> Decision:
    """Return on which side of a bound an interval lies."""
    if bound is None:
        return "open"
    if high <= bound:
        return "below"
    return "above" if low > bound else "open"
