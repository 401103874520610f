"""Which request goes to which adapter."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.loadtest.mix import as_often, draw_models, recency, zipf_shares
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


def test_the_mixes_by_their_names() -> None:
    """Each request another adapter, the first for all, in turn, each as likely, and a few popular ones."""
    names = [f"a{number}" for number in range(20)]
    traffic = replace(TRAFFIC, requests=20)
    assert sorted(draw_models(replace(traffic, mix="distinct"), "base", names)) == sorted(names)
    assert set(draw_models(replace(traffic, mix="identical"), "base", names)) == {"a0"}
    turns = draw_models(replace(traffic, mix="round-robin"), "base", NAMES)
    assert turns == [NAMES[number % 3] for number in range(20)]
    uniform = Counter(draw_models(replace(TRAFFIC, mix="uniform"), "base", NAMES))
    assert all(uniform[name] / TRAFFIC.requests == pytest.approx(1 / 3, abs=0.02) for name in NAMES)
    zipf = Counter(draw_models(replace(TRAFFIC, mix="zipf", zipf=2.0), "base", names))
    assert zipf["a0"] > 3 * zipf["a1"] > 3 * zipf["a2"]


def hits(models: Sequence[str], slots: int) -> list[bool]:
    """Whether a cache of the last `slots` models holds each one when it is asked for, by its definition."""
    found = []
    for number, model in enumerate(models):
        last = [one for one, after in pairwise([*models[:number], ""]) if one != after][::-1]
        found.append(model in list(dict.fromkeys(last))[:slots])
    return found


def test_recency_counts_the_models_in_between() -> None:
    """None for a first request, then how many others were asked for since."""
    assert recency(["a", "a", "b", "a", "c", "b"]) == [None, 0, None, 1, None, 2]


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 4))
def test_few_adapters_are_hit_as_often_as_many(sequence: list[int], slots: int) -> None:
    """The same requests find their adapter in the slots, and the same ones do not; the few take turns."""
    many = [f"a{number}" for number in sequence]
    few = as_often(many, [f"b{number}" for number in range(slots + 2)], slots)
    assert hits(few, slots) == hits(many, slots)
    assert all(name.startswith("b") for name in few)
