"""What the check says of the snippets that were not decoded: its bounds cover the truth."""

import numpy as np
import pytest
from lorecall.audit.records import Rate, Undecoded
from lorecall.audit.stats.decoding_check import most_recited, rate_of, undecoded
from lorecall.audit.stats.intervals import at_most, clopper_pearson


@pytest.mark.parametrize(("ruled_out", "leaks"), [(2000, 3), (2000, 60), (300, 10), (5000, 50)])
def test_the_bound_holds_with_the_confidence(ruled_out: int, leaks: int) -> None:
    """Over 1,500 draws of 5 % each: more of those left out are recited than stated in at most one of twenty."""
    rng, wrong, runs = np.random.default_rng(leaks), 0, 1500
    for _ in range(runs):
        found = int(rng.binomial(leaks, 0.05))
        checked = found + int(rng.binomial(ruled_out - leaks, 0.05))
        stated = undecoded(ruled_out - checked, checked, found, 0.95)
        assert stated is not None
        wrong += leaks - found > stated.at_most
    assert wrong <= 0.05 * runs


def test_a_rate_of_what_was_not_decoded_too_covers_the_truth() -> None:
    """Of 2,000 candidates 2 % leak; half of those hide among the ruled out, of which 5 % are checked."""
    rng, wrong, runs, rate = np.random.default_rng(3), 0, 400, 0.02
    for _ in range(runs):
        leaks = int(rng.binomial(2000, rate))
        hidden = int(rng.binomial(leaks, 0.5))
        found = int(rng.binomial(hidden, 0.05))
        checked = found + int(rng.binomial(1900 - hidden, 0.05))
        stated = undecoded(1900 - checked, checked, found, 0.95)
        hits = leaks - hidden + found
        one_sided = most_recited(clopper_pearson(hits, 2000, 0.95), stated, 0.95)
        two_sided = rate_of(hits, 2000, 0.95, stated)
        assert two_sided.high >= clopper_pearson(hits, 2000, 0.95).high
        wrong += rate > one_sided
    assert wrong <= 0.05 * runs


def test_nothing_ruled_out_changes_nothing() -> None:
    """Where all were decoded the bounds are Clopper and Pearson's."""
    rate = clopper_pearson(2, 300, 0.95)
    assert undecoded(0, 0, 0, 0.95) is None
    assert most_recited(rate, None, 0.95) == at_most(2, 300, 0.95)
    assert rate_of(2, 300, 0.95, None) == rate


def test_no_check_bounds_nothing() -> None:
    """Without a single check all of those left out may be recited."""
    assert undecoded(40, 0, 0, 0.95) == Undecoded(40, 0, 0, 40)
    assert most_recited(Rate(0, 50, 0.0, 0.1), Undecoded(50, 0, 0, 50), 0.95) == 1.0
