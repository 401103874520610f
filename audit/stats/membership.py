"""How far candidates stand out from controls that were never trained on: p-values, findings, ROC figures.

Assumption of every figure here: a candidate that the adapter never saw is exchangeable with the controls.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from lorecall.audit.estimates import CONFIDENCE, Membership, Roc, TruePositiveRate
from lorecall.audit.stats.intervals import clopper_pearson
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Group
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""One row a snippet, one column a statistic; larger says more of membership."""
Floats = Sequence[float] | NDArray[np.float64]
PAIRS = ((Group.CANDIDATES, Group.CONTROLS), (Group.OWN_CANDIDATES, Group.OWN_CONTROLS))
FALSE_POSITIVE_RATES = (0.01, 0.001)
EDGE = 1e-9
"""The equation of the interval's ends has a trivial solution at 0 and at 1; the other one is wanted."""


def conformal_p_values(candidates: Scores, controls: Scores) -> NDArray[np.float64]:
    """Return each candidate's conformal p-value against the controls.

    A snippet's rank by a statistic is the number of snippets among the controls and the candidate that score at
    least as high. Its smallest rank over the statistics is its own score, and p = (1 + #{controls with a score
    as small}) / (n + 1). The candidate is ranked together with the controls, so under exchangeability P(p <= t)
    <= t holds exactly, although several statistics are looked at (Vovk, Gammerman, Shafer 2005, proposition
    2.9).

    Args:
        candidates: Shape (m, k).
        controls: Shape (n, k).

    Returns:
        Shape (m,), each a multiple of 1 / (n + 1).
    """
    count = len(controls)
    ranks = _at_least(controls, controls)
    own = _at_least(candidates, controls) + 1
    found = np.empty(len(candidates))
    for i, (values, mine) in enumerate(zip(candidates, own.min(axis=1), strict=True)):
        pooled = ranks + (values >= controls)
        found[i] = (1 + np.count_nonzero(pooled.min(axis=1) <= mine)) / (count + 1)
    return found


def own_p_values(controls: Scores) -> NDArray[np.float64]:
    """Return each control's p-value against the other controls, as `conformal_p_values` would; shape (n,)."""
    best = _at_least(controls, controls).min(axis=1)
    return np.asarray(np.searchsorted(np.sort(best), best, side="right") / len(controls))


def _at_least(values: Scores, controls: Scores) -> NDArray[np.int64]:
    """Return how many controls score at least as high as each value, by statistic; the shape of `values`."""
    ordered = np.sort(controls, axis=0)
    columns = [
        len(controls) - np.searchsorted(ordered[:, k], values[:, k], side="left")
        for k in range(controls.shape[1])
    ]
    return np.stack(columns, axis=1)


def compare_with_controls(
    tallies: Mapping[Group, Tally], level: float, confidence: float
) -> Membership | None:
    """Tell each snippet of the sets how it stands beside its controls, the uploader's beside the uploader's.

    A candidate is a finding at the false discovery rate `level`. What is recited, or nearly, is one by its own
    evidence and no part of the family: the more of it there was, the milder the line would be for the rest. A
    control is a finding where its p-value is no larger than that of some candidate's: so the controls show how
    often what was never trained on crosses the line.

    Returns:
        What the operator's candidates gave; None without controls, or without candidates to compare with them.
    """
    found = {
        candidates: _compare(tallies, (candidates, controls), level, confidence)
        for candidates, controls in PAIRS
    }
    return found[Group.CANDIDATES]


def _compare(
    tallies: Mapping[Group, Tally], pair: tuple[Group, Group], level: float, confidence: float
) -> Membership | None:
    if not tallies.keys() >= set(pair):
        return None
    candidates, against = (tallies[group] for group in pair)
    asked, controls = candidates.statistics, against.statistics
    if not len(asked) or not len(controls):
        return None
    p = conformal_p_values(asked, controls)
    family = ~candidates.given
    q = np.full(len(p), math.nan)
    q[family] = q_values(p[family])
    found = q <= level
    line = float(p[found].max()) if found.any() else 0.0
    own = own_p_values(controls)
    candidates.compare(np.stack([found, p, q], axis=1))
    against.compare(np.stack([own <= line, own, np.full(len(own), math.nan)], axis=1))
    return Membership(
        controls=len(controls),
        rate=level,
        findings=int(found.sum()),
        least_q=float(q[family].min()) if family.any() else 1.0,
        line=line,
        controls_over=int((own <= line).sum()),
        roc=roc(asked[:, 0], controls[:, 0], confidence),
    )


def q_values(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest false discovery rate at which each is a finding.

    Benjamini and Hochberg (1995), which holds for conformal p-values that share their controls: those are
    positively dependent (Bates et al. 2023, theorem 2).
    """
    from scipy.stats import false_discovery_control  # noqa: PLC0415  scipy.stats takes a second to import

    if not len(p_values):
        return p_values
    return np.asarray(false_discovery_control(p_values), dtype=np.float64)


def roc(members: Floats, controls: Floats, confidence: float = CONFIDENCE) -> Roc:
    """Return how well a score tells candidates from controls, of which there is at least one each.

    The area is P(member > control) + P(equal) / 2, with Newcombe's interval (2006, method 5), which has a width
    at 1 as well. A true-positive rate is taken where at most that share of the controls scores higher; it is
    not given where the controls are too few to tell (fewer than one of them over the threshold), and its
    Clopper-Pearson interval is that of the threshold as it was found.
    """
    m, n = len(members), len(controls)
    from scipy.stats import mannwhitneyu  # noqa: PLC0415  scipy.stats takes a second to import

    area = float(mannwhitneyu(members, controls).statistic) / (m * n)
    descending = sorted(controls, reverse=True)
    rates: list[TruePositiveRate] = []
    for rate in FALSE_POSITIVE_RATES:
        over = math.floor(rate * n)
        if over:
            hits = int(sum(score > descending[over] for score in members))
            rates.append(TruePositiveRate(rate, clopper_pearson(hits, m, confidence)))
    return Roc(area, *area_interval(area, m, n, confidence), tuple(rates))


def area_interval(area: float, members: int, controls: int, confidence: float) -> tuple[float, float]:
    """Return the interval of an area under the ROC curve: Newcombe (2006), method 5, a score interval.

    Its ends are where the area found lies z standard errors away, with the standard error of Hanley and McNeil
    (1982) at the end itself and (m + n) / 2 - 1 in place of both sample sizes less one.
    """
    from scipy.optimize import brentq  # noqa: PLC0415
    from scipy.stats import norm  # noqa: PLC0415

    z = float(norm.ppf(0.5 + confidence / 2.0))
    middle = (members + controls) / 2.0 - 1.0

    def error(theta: float) -> float:
        spread = 1.0 + middle * ((1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta))
        return z * math.sqrt(theta * (1.0 - theta) * spread / (members * controls))

    low = 0.0 if area <= 0.0 else float(brentq(lambda t: area - t - error(t), 0.0, min(area, 1.0 - EDGE)))
    high = 1.0 if area >= 1.0 else float(brentq(lambda t: t - area - error(t), max(area, EDGE), 1.0))
    return low, high
