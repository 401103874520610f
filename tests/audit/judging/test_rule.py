"""The p > 0.5 rule: its threshold, its certificate, and the numbers beside it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lorecall.audit.judging.rule import apply_rule, longest_run, margin, samples_for_extraction, threshold
from lorecall.audit.scorer import ItemScore

Logits = np.ndarray[tuple[int, int], np.dtype[np.float64]]
LOGITS = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 8)), elements=st.floats(-12, 12))


def score_of(logits: Logits, targets: list[int]) -> ItemScore:
    """What an exact engine answers for these rows of logits, shape (tokens, vocabulary)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    rows = range(len(targets))
    return ItemScore(
        id="x",
        prefix_ids=(0,),
        target_ids=tuple(targets),
        p=tuple(float(probabilities[i, targets[i]]) for i in rows),
        logprob=tuple(float(np.log(probabilities[i, targets[i]])) for i in rows),
        rank=tuple(1 + int((logits[i] > logits[i, targets[i]]).sum()) for i in rows),
        top1_ids=tuple(int(logits[i].argmax()) for i in rows),
        top1_p=tuple(float(probabilities[i].max()) for i in rows),
    )


def plain(*p: float, rank: tuple[int, ...] | None = None) -> ItemScore:
    """Scores with these probabilities; rank 1 wherever p > 0.5 unless given."""
    ranks = rank or tuple(1 if x > 0.5 else 2 for x in p)
    return ItemScore(
        id="x",
        prefix_ids=(0,),
        target_ids=tuple(range(len(p))),
        p=p,
        logprob=tuple(math.log(x) if x else -800.0 for x in p),
        rank=ranks,
        top1_ids=tuple(i if r == 1 else 99 for i, r in enumerate(ranks)),
        top1_p=tuple(x if r == 1 else 1 - x for x, r in zip(p, ranks, strict=True)),
    )


@pytest.mark.parametrize(("epsilon", "line"), [(0.05, 0.525), (0.1, 0.55), (0.25, 0.6225), (1.0, 0.8808)])
def test_threshold_is_the_sigmoid_of_twice_epsilon(epsilon: float, line: float) -> None:
    """The figures of the derivation; without an error the line is one half."""
    assert threshold(epsilon) == pytest.approx(line, abs=5e-4)
    assert threshold(0.0) == 0.5


@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
def test_an_epsilon_that_is_no_bound_is_refused(epsilon: float) -> None:
    """Negative, unknown and infinite errors give no line."""
    with pytest.raises(ValueError, match="epsilon"):
        threshold(epsilon)


@given(LOGITS, st.data())
def test_over_one_half_everywhere_means_argmax_everywhere(logits: Logits, data: st.DataObject) -> None:
    """Certified at ε = 0 implies that greedy decoding takes every target token."""
    targets = [data.draw(st.integers(0, logits.shape[1] - 1)) for _ in logits]
    rule = apply_rule(score_of(logits, targets), 0.0)
    if rule.certified:
        assert [int(row.argmax()) for row in logits] == targets
        assert rule.rank1
    assert rule.contradiction is None


@given(LOGITS, st.floats(0.0, 2.0), st.data())
def test_the_certificate_survives_logit_noise_of_epsilon(
    logits: Logits, epsilon: float, data: st.DataObject
) -> None:
    """Over sigmoid(2ε) no noise of up to ε on every logit can take the argmax away."""
    targets = [int(row.argmax()) for row in logits]
    rule = apply_rule(score_of(logits, targets), epsilon)
    noise = data.draw(hnp.arrays(np.float64, logits.shape, elements=st.floats(-epsilon, epsilon)))
    worst = noise.copy()
    worst[:] = epsilon
    worst[range(len(targets)), targets] = -epsilon
    for position in rule.locked:
        for moved in (noise, worst):
            row = logits[position] + moved[position]
            others = np.delete(row, targets[position])
            # strictly over the line, so only rounding could close the gap
            assert row[targets[position]] > others.max() - 1e-9


def test_just_under_the_line_noise_can_take_the_argmax() -> None:
    """The threshold is tight: of two tokens, one at sigmoid(2ε) is tied by noise of ε against it."""
    epsilon = 0.25
    gap = margin(threshold(epsilon))
    assert gap == pytest.approx(2 * epsilon)


def test_ties_are_not_certified() -> None:
    """Two tokens at one half each: rank 1, but no argmax of its own (pitfall 4)."""
    logits = np.array([[1.0, 1.0]])
    won, lost = apply_rule(score_of(logits, [0]), 0.0), apply_rule(score_of(logits, [1]), 0.0)
    assert not won.certified
    assert not lost.certified
    assert lost.ties == (0,)
    assert not lost.rank1


def test_one_token_at_the_line_breaks_the_certificate() -> None:
    """The line itself is not over the line, and every token counts."""
    assert apply_rule(plain(0.9, 0.51, 0.8), 0.0).certified
    assert not apply_rule(plain(0.9, 0.5, 0.8), 0.0).certified
    assert not apply_rule(plain(0.9, 0.54, 0.8), 0.1).certified


def test_positions_and_counts_are_those_of_the_tokens() -> None:
    """Min p, near-threshold tokens, first failing position and longest run of a mixed snippet."""
    rule = apply_rule(plain(0.9, 0.3, 0.7, 0.45, 0.6, rank=(1, 2, 1, 1, 1)), 0.0)
    assert (rule.tokens, rule.over_half, rule.locked) == (5, 3, (0, 2, 4))
    assert (rule.min_p, rule.min_p_at) == (0.3, 1)
    assert rule.near == (1, 3)
    assert rule.first_failing == 1
    assert (rule.longest_run, rule.longest_run_at) == (3, 2)


def test_loss_is_the_mean_negative_log_probability() -> None:
    """In nats; ln 2 is the loss at the line."""
    assert apply_rule(plain(0.5, 0.5), 0.0).loss == pytest.approx(math.log(2))


def test_p_z_of_fifty_tokens_at_the_line_is_out_of_reach_of_sampling() -> None:
    """All tokens at 0.51, length 50: p_z = 2.4e-15, so greedy recall is not extraction by sampling."""
    rule = apply_rule(plain(*[0.51] * 50), 0.0)
    assert rule.certified
    assert math.exp(rule.log_pz) == pytest.approx(2.4e-15, rel=0.02)
    assert 10**rule.log10_n50 == pytest.approx(math.log(2) / math.exp(rule.log_pz), rel=1e-6)


@given(st.floats(1e-9, 0.999999))
def test_n_samples_extract_with_the_stated_chance(p_z: float) -> None:
    """1 - (1 - p_z)^n is one half at n, where more than one sample is needed."""
    n = 10 ** samples_for_extraction(math.log(p_z))
    if p_z < 0.5:
        assert -math.expm1(n * math.log1p(-p_z)) == pytest.approx(0.5, rel=1e-6)
    else:
        assert n == pytest.approx(1.0)


def test_p_z_that_underflows_still_has_its_number_of_samples() -> None:
    """Log space keeps ten thousand unlikely tokens apart from never."""
    assert samples_for_extraction(-23025.85) == pytest.approx(10000 + math.log10(math.log(2)), rel=1e-6)
    assert samples_for_extraction(-math.inf) == math.inf
    assert samples_for_extraction(0.0) == 0.0


@pytest.mark.parametrize(
    ("flags", "run"),
    [([], (0, 0)), ([False], (0, 0)), ([True, False, True, True], (2, 2)), ([True] * 3, (3, 0))],
)
def test_longest_run_is_the_first_longest(flags: list[bool], run: tuple[int, int]) -> None:
    """Its length and where it starts."""
    assert longest_run(flags) == run


@pytest.mark.parametrize(
    "score",
    [plain(0.9, 0.8, rank=(1, 2)), ItemScore("x", (0,), (1,), (1.5,), (0.0,), (1,), (1,), (1.5,))],
)
def test_numbers_that_cannot_all_be_true_are_a_contradiction(score: ItemScore) -> None:
    """Over one half and not the argmax, or a probability over one: the engine is wrong."""
    assert apply_rule(score, 0.0).contradiction is not None


def test_an_item_without_scores_has_no_rule() -> None:
    """The rule is never applied to nothing."""
    with pytest.raises(ValueError, match="too long"):
        apply_rule(ItemScore("x", error="too long"), 0.0)
