"""Whether controls can stand for candidates that were never trained on, and what they then tell."""

from collections.abc import Mapping, Sequence

import numpy as np
from lorecall.audit.estimates import Calibration, Membership
from lorecall.audit.records import SetSource
from lorecall.audit.stats.membership import compare_with_controls
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Group
from numpy.typing import NDArray

LEVEL = 0.01
"""Share of exchangeable sets of controls that are taken for others."""


def calibrate(
    tallies: Mapping[Group, Tally], sources: Mapping[Group, SetSource], level: float, confidence: float
) -> tuple[Calibration | None, Membership | None]:
    """Check the controls, and compare the candidates with them where a rate may rest on them.

    Args:
        tallies: The counted sets.
        sources: Where each is from.
        level: False discovery rate of the comparison.
        confidence: Of its intervals.

    Returns:
        What the check of the operator's controls gave, None without controls; and what
        `compare_with_controls` gave, None where no rate may rest on them.
    """
    if Group.CONTROLS not in tallies:
        return None, compare_with_controls(tallies, level, confidence)
    found = check_controls(tallies[Group.CANDIDATES], tallies[Group.CONTROLS], sources[Group.CONTROLS])
    compared = {
        group: one for group, one in tallies.items() if group is not Group.CONTROLS or not found.reason
    }
    return found, compare_with_controls(compared, level, confidence)


def check_controls(candidates: Tally, controls: Tally, source: SetSource) -> Calibration:
    """Compare the base's loss on candidates and controls; the base has seen neither.

    Exchangeable sets have the same distribution of it (Kolmogorov, Smirnov: two samples). Controls that were
    drawn anew are refused where it differs; of given ones the owner says what they are, and the report says
    that they differ.
    """
    statistic, p_value = compare_samples(candidates.base_losses, controls.base_losses) or (None, None)
    reason = ""
    if source.permuted:
        reason = "the targets of permutation controls were trained, with other prefixes"
    elif source.synthetic and p_value is not None and p_value < LEVEL:
        reason = "the base finds the generated controls unlike the candidates"
    return Calibration(statistic, p_value, reason)


def compare_samples(
    one: Sequence[float] | NDArray[np.float64], other: Sequence[float] | NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the two-sample Kolmogorov-Smirnov statistic and its p-value; None where a sample is empty."""
    if not len(one) or not len(other):
        return None
    from scipy.stats import ks_2samp  # noqa: PLC0415  scipy.stats takes a second to import

    test = ks_2samp(one, other)
    return float(test.statistic), float(test.pvalue)
