"""Exact intervals on rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.stats.intervals import clopper_pearson


def test_no_hit_in_300_bounds_the_rate_near_one_percent() -> None:
    """Two-sided at 95 %: 1 - 0.025^(1/300); the rule of three is its one-sided neighbour."""
    rate = clopper_pearson(0, 300)
    assert (rate.low, rate.hits) == (0.0, 0)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert clopper_pearson(0, 300, 0.90).high == pytest.approx(3 / 300, rel=0.01)


def test_nothing_tried_says_nothing() -> None:
    """The interval is everything."""
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0.0, 1.0)


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
