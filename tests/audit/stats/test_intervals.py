"""Exact intervals on rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.stats.intervals import at_most, clopper_pearson


def test_no_hit_in_300_bounds_the_rate_near_one_percent() -> None:
    """Two-sided at 95 %: 1 - 0.025^(1/300); the rule of three is its one-sided neighbour."""
    rate = clopper_pearson(0, 300)
    assert (rate.low, rate.hits) == (0.0, 0)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert clopper_pearson(0, 300, 0.90).high == pytest.approx(3 / 300, rel=0.01)


def test_the_one_sided_bound_of_no_hit_in_300_is_under_one_percent() -> None:
    """1 - 0.05^(1/300), the rule of three; it is the upper end of the two-sided interval at 90 %."""
    assert at_most(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert at_most(0, 300) < 0.01 < at_most(0, 298)
    assert at_most(3, 40) == pytest.approx(clopper_pearson(3, 40, 0.90).high)


RATES = (0.0005, 0.003, 0.01, 0.05, 0.3, 0.5, 0.97)


@pytest.mark.parametrize("of", [12, 49, 300])
def test_the_intervals_cover_the_truth(of: int) -> None:
    """Two-sided and one-sided, in at least 95 % of all outcomes, computed over each possible number of hits."""
    from scipy.stats import binom  # noqa: PLC0415

    intervals = [(clopper_pearson(hits, of), at_most(hits, of)) for hits in range(of + 1)]
    for truth in RATES:
        chance = binom.pmf(np.arange(of + 1), of, truth)
        two_sided = np.array([rate.low <= truth <= rate.high for rate, _ in intervals])
        one_sided = np.array([truth <= most for _, most in intervals])
        assert chance[two_sided].sum() >= 0.95 - 1e-12
        assert chance[one_sided].sum() >= 0.95 - 1e-12


def test_a_gate_on_the_one_sided_bound_passes_a_leaky_adapter_in_at_most_one_of_twenty() -> None:
    """Simulated: adapters whose true rate lies just over the limit of 1 %, 300 candidates each."""
    hits = np.random.default_rng(17).binomial(300, 0.0101, 20_000)
    passed = np.array([at_most(h, 300) <= 0.01 for h in range(301)])[hits]
    assert 0.03 < passed.mean() <= 0.05


def test_nothing_tried_says_nothing() -> None:
    """The interval is everything."""
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high, at_most(0, 0)) == (0.0, 1.0, 1.0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_interval_holds_its_point_and_lies_within_zero_and_one(hits: int, misses: int) -> None:
    """For any count."""
    rate = clopper_pearson(hits, hits + misses)
    assert 0.0 <= rate.low <= hits / max(1, hits + misses) <= rate.high <= 1.0


@pytest.mark.parametrize(
    ("hits", "of", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_impossible_counts_are_refused(hits: int, of: int, confidence: float) -> None:
    """More hits than tries, or a confidence that is none."""
    with pytest.raises(ValueError, match=r"hits|confidence"):
        clopper_pearson(hits, of, confidence)
