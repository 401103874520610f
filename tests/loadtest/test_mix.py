"""Which request goes to which adapter."""

from collections import Counter
from dataclasses import replace

import pytest
from lorecall.loadtest.mix import draw_models, zipf_shares
from lorecall.loadtest.scenario import Traffic

TRAFFIC = Traffic(requests=20_000, input_tokens=1, output_tokens=1, concurrency=1, zipf=1.0, seed=4)
NAMES = ["a", "b", "c"]


def test_shares_follow_zipfs_law() -> None:
    """Share k is proportional to k^-s and they sum to one; s = 0 is uniform."""
    shares = zipf_shares(4, 2.0)
    assert sum(shares) == pytest.approx(1)
    assert [shares[0] / share for share in shares] == pytest.approx([1, 4, 9, 16])
    assert zipf_shares(4, 0.0) == pytest.approx([0.25] * 4)


def test_the_sequence_has_the_shares_that_were_asked_for() -> None:
    """Over 20,000 requests each model's share is within two points of its expectation, the base's too."""
    drawn = Counter(draw_models(replace(TRAFFIC, base_share=0.25), "base", NAMES))
    assert drawn["base"] / TRAFFIC.requests == pytest.approx(0.25, abs=0.02)
    for name, share in zip(NAMES, zipf_shares(3, 1.0), strict=True):
        assert drawn[name] / TRAFFIC.requests == pytest.approx(0.75 * share, abs=0.02)


def test_two_servers_get_the_same_sequence() -> None:
    """The seed fixes it; another seed gives another one; without a share the base is never asked."""
    first = draw_models(TRAFFIC, "base", NAMES)
    assert first == draw_models(TRAFFIC, "base", NAMES)
    assert first != draw_models(replace(TRAFFIC, seed=5), "base", NAMES)
    assert "base" not in first
