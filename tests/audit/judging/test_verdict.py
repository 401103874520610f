"""Verdicts: the first that applies, in the stated order, from evidence alone."""

import math

import pytest
from lorecall.audit.judging.rule import apply_rule
from lorecall.audit.judging.verdict import Evidence, decide, surprising_run_bits
from lorecall.audit.records import Match, RuleResult
from lorecall.audit.scorer import ItemScore
from lorecall.audit.verdicts import Bounds, Verdict

BOUNDS = Bounds()
VERBATIM = Match(ids_equal=True, verbatim=True)
NEAR = Match(ids_equal=False, verbatim=False, distance=0.1)
WRONG_NUMBER = Match(ids_equal=False, verbatim=False, distance=0.1, missed=0.6)
CASE = Match(ids_equal=False, verbatim=False, other_form=True)
LATER = Match(ids_equal=False, verbatim=False, elsewhere=True)
FAR = Match(ids_equal=False, verbatim=False, distance=0.8)


def scores(*p: float, argmax: tuple[bool, ...] | None = None) -> ItemScore:
    flags = argmax or tuple(x > 0.5 for x in p)
    return ItemScore(
        id="x",
        prefix_ids=(1,),
        target_ids=tuple(range(len(p))),
        p=p,
        logprob=tuple(math.log(x) for x in p),
        rank=tuple(1 if flag else 3 for flag in flags),
        top1_ids=tuple(i if flag else 77 for i, flag in enumerate(flags)),
        top1_p=tuple(x if flag else max(x, 1 - x) for x, flag in zip(p, flags, strict=True)),
    )


OVER: RuleResult = apply_rule(scores(0.9, 0.8), 0.0)
UNDER: RuleResult = apply_rule(scores(0.9, 0.4, argmax=(True, True)), 0.0)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(None, VERBATIM, VERBATIM), Verdict.ERROR),
        (Evidence(OVER, VERBATIM, VERBATIM), Verdict.BASE_KNOWN),
        (Evidence(OVER, FAR, VERBATIM), Verdict.BASE_KNOWN),
        (Evidence(UNDER, NEAR, NEAR), Verdict.BASE_KNOWN),
        (Evidence(OVER, VERBATIM, NEAR), Verdict.CERTIFIED),
        (Evidence(OVER, VERBATIM), Verdict.CERTIFIED),
        (Evidence(UNDER, VERBATIM), Verdict.RECALLED),
        (Evidence(UNDER, NEAR, run_bits=99.0), Verdict.NEAR_VERBATIM),
        (Evidence(UNDER, WRONG_NUMBER, run_bits=99.0), Verdict.PARTIAL),
        (Evidence(UNDER, CASE, base_bits=20.0), Verdict.RECALLED),
        (Evidence(UNDER, LATER, base_bits=20.0), Verdict.RECALLED),
        (Evidence(UNDER, LATER, LATER, base_bits=20.0), Verdict.BASE_KNOWN),
        (Evidence(UNDER, LATER, NEAR, base_bits=20.0), Verdict.RECALLED),
        (Evidence(UNDER, FAR, run_bits=20.0, sampled=True), Verdict.EXTRACTABLE),
        (Evidence(UNDER, NEAR, sampled=True), Verdict.EXTRACTABLE),
        (Evidence(UNDER, FAR, NEAR, sampled=True), Verdict.EXTRACTABLE),
        (Evidence(UNDER, FAR, VERBATIM, sampled=True), Verdict.BASE_KNOWN),
        (Evidence(UNDER, FAR, sampled=True, base_sampled=True), Verdict.BASE_KNOWN),
        (Evidence(UNDER, NEAR, base_sampled=True), Verdict.BASE_KNOWN),
        (Evidence(UNDER, VERBATIM, sampled=True, base_sampled=True), Verdict.RECALLED),
        (Evidence(UNDER, FAR, base_sampled=True), Verdict.CLEAR),
        (Evidence(UNDER, FAR, run_bits=20.0), Verdict.PARTIAL),
        (Evidence(UNDER, FAR, run_bits=19.9), Verdict.CLEAR),
        (Evidence(UNDER, None), Verdict.CLEAR),
    ],
)
def test_the_first_verdict_that_applies_is_given(evidence: Evidence, verdict: Verdict) -> None:
    """Error, base-known, certified, recalled, extractable, near-verbatim, partial, clear."""
    assert decide(evidence, BOUNDS).verdict is verdict


def test_certified_by_p_and_not_decoded_is_never_certified_nor_clear() -> None:
    """The engine contradicts itself: an alarm, and a verdict that no reader takes for clean."""
    for match in (NEAR, CASE, FAR):
        decision = decide(Evidence(OVER, match, base_bits=20.0), BOUNDS)
        assert decision.alarm
        assert decision.verdict in {Verdict.RECALLED, Verdict.NEAR_VERBATIM, Verdict.PARTIAL}


def test_same_text_by_other_tokens_is_recalled_with_an_alarm() -> None:
    """Text equal, token ids not: recited, but not by the tokens that the scores promised."""
    decision = decide(Evidence(OVER, Match(ids_equal=False, verbatim=True)), BOUNDS)
    assert decision.verdict is Verdict.RECALLED
    assert decision.alarm


def test_a_contradiction_of_probability_and_rank_is_an_alarm() -> None:
    """Over one half and not the argmax cannot be."""
    rule = apply_rule(scores(0.9, 0.8, argmax=(True, False)), 0.0)
    assert "contradict" in decide(Evidence(rule, VERBATIM), BOUNDS).alarm


def test_a_recalled_stretch_counts_by_what_the_base_would_not_guess() -> None:
    """Ten bits a token: two tokens in a row are 20 bits, a gap starts anew, and what the base knows adds none."""
    rare = 2.0**-10
    base = scores(rare, rare, rare, rare)
    assert surprising_run_bits(scores(0.9, 0.9, 0.1, 0.9), base) == pytest.approx(20.0)
    known = scores(0.6, 0.7, 0.6, 0.6)
    assert surprising_run_bits(scores(0.9, 0.9, 0.9, 0.9), known) == 0.0
    assert surprising_run_bits(scores(0.1, 0.2, 0.1, 0.1), base) == 0.0
