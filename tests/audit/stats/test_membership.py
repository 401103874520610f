"""Candidates against controls: error rates hold in simulations with fixed seeds, and members are found."""

import numpy as np
import pytest
from lorecall.audit.stats.membership import area_interval, conformal_p_values, q_values, roc
from numpy.typing import NDArray

SIMULATIONS = 400


def draw(rng: np.random.Generator, count: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Three correlated statistics of some snippets; members are shifted."""
    common = rng.standard_normal((count, 1))
    return 0.7 * common + 0.7 * rng.standard_normal((count, 3)) + shift


def test_p_values_by_hand() -> None:
    """One statistic: (1 + controls at least as high) / (n + 1)."""
    controls = np.array([[1.0], [2.0], [3.0], [4.0]])
    candidates = np.array([[5.0], [3.0], [0.0]])
    assert conformal_p_values(candidates, controls) == pytest.approx([0.2, 0.6, 1.0])


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_a_stranger_gets_a_small_p_value_no_more_often_than_it_says(level: float) -> None:
    """Three statistics are looked at, with ties as of a clear snippet's 0 bits, and P(p <= t) <= t still."""
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(SIMULATIONS):
        drawn = np.maximum(draw(rng, 60), 0.0)
        shares.append(np.mean(conformal_p_values(drawn[:20], drawn[20:]) <= level))
    assert np.mean(shares) <= level + 3 * np.std(shares) / np.sqrt(SIMULATIONS)


@pytest.mark.parametrize("members", [0, 10])
def test_the_false_discovery_rate_holds(members: int) -> None:
    """The mean share of strangers among the findings is at most q times the strangers' share, here 10 %."""
    rng = np.random.default_rng(11)
    shares = []
    for _ in range(SIMULATIONS):
        controls, strangers = draw(rng, 320), draw(rng, 40)
        candidates = np.concatenate([draw(rng, members, shift=5.0), strangers])
        found = q_values(conformal_p_values(candidates, controls)) <= 0.1
        shares.append(found[members:].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(SIMULATIONS)


def test_members_are_found() -> None:
    """Ten of fifty that stand far out are findings, and at most a tenth of the findings are strangers."""
    rng = np.random.default_rng(3)
    candidates = np.concatenate([draw(rng, 10, shift=6.0), draw(rng, 40)])
    found = q_values(conformal_p_values(candidates, draw(rng, 320))) <= 0.05
    assert found[:10].all()
    assert found[10:].sum() <= 1


def test_without_candidates_there_are_no_findings() -> None:
    """An empty set is no error."""
    nothing = conformal_p_values(np.empty((0, 3)), np.zeros((5, 3)))
    assert q_values(nothing).shape == (0,)


def test_the_curve_by_hand() -> None:
    """Nine of ten pairs in order; a rate is given only where the controls can tell."""
    found = roc([3.0, 1.5], [0.0, 1.0, 2.0, 0.5, 0.2])
    assert found.area == pytest.approx(0.9)
    assert found.low < 0.9 < found.high
    assert found.rates == ()


def test_true_positive_rates_are_at_the_threshold_of_the_controls() -> None:
    """Of 1,000 controls, ten may lie above it at 1 %, one at 0.1 %."""
    found = roc([995.5, 989.5, 998.5, 5.0], [float(i) for i in range(1000)])
    assert [(at.false_positive_rate, at.rate.hits) for at in found.rates] == [(0.01, 3), (0.001, 1)]


@pytest.mark.parametrize("controls", [100, 320, 1000])
def test_a_stranger_crosses_the_line_as_often_as_stated(controls: int) -> None:
    """Where k of n controls lie over the line, a further stranger does so with probability (k + 1) / (n + 1)."""
    rng = np.random.default_rng(13)
    found = [roc(rng.standard_normal(50), rng.standard_normal(controls)) for _ in range(SIMULATIONS)]
    for place, at in enumerate(found[0].rates):
        shares = [one.rates[place].rate.hits / 50 for one in found]
        stated = (np.floor(at.false_positive_rate * controls) + 1) / (controls + 1)
        assert abs(np.mean(shares) - stated) <= 3 * np.std(shares) / np.sqrt(SIMULATIONS)


def test_the_interval_of_a_perfect_score_has_a_width() -> None:
    """49 candidates all over 320 controls: not proof of 1."""
    low, high = area_interval(1.0, 49, 320, 0.95)
    assert high == 1.0
    assert 0.9 < low < 1.0


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_the_area_covers_it(shift: float) -> None:
    """The true area, Φ(shift / √2), lies in at least 93 % of 95 % intervals."""
    from scipy.stats import norm  # noqa: PLC0415

    truth = float(norm.cdf(shift / np.sqrt(2.0)))
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(SIMULATIONS):
        found = roc(rng.standard_normal(40) + shift, rng.standard_normal(80))
        covered += found.low <= truth <= found.high
    assert covered / SIMULATIONS >= 0.93
