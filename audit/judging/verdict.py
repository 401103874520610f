"""Decide the verdict on one snippet from the evidence, in a stated order of precedence: pure functions."""

import math
from dataclasses import dataclass

from lorecall.audit.judging.match import align, gives, is_near
from lorecall.audit.judging.rule import argmax_flags
from lorecall.audit.records import Match, RuleResult
from lorecall.audit.scorer import ItemScore
from lorecall.audit.verdicts import Bounds, Verdict


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict on one snippet is decided from.

    Attributes:
        adapter: The rule on the adapter's scores; None if it could not be scored.
        match: The adapter's greedy decode against the target; None if it was not decoded.
        base_match: The base's greedy decode against the target; None if it cannot recite it.
        base_bits: Surprise of the whole target under the base, in bits.
        run_bits: Most surprise, in bits under the base, of one stretch that the adapter recalls and the base
            does not.
        sampled: Whether sampling through the adapter gives it, at the stated chance in the stated answers.
        base_sampled: Whether sampling through the base does.
    """

    adapter: RuleResult | None
    match: Match | None = None
    base_match: Match | None = None
    base_bits: float = 0.0
    run_bits: float = 0.0
    sampled: bool = False
    base_sampled: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the alarm about the engine if the evidence contradicts itself ("" if it does not)."""

    verdict: Verdict
    alarm: str = ""


def bits(logprobs: tuple[float, ...]) -> float:
    """Return the surprise of a stretch of tokens, in bits."""
    return -math.fsum(logprobs) / math.log(2.0)


def surprising_run_bits(adapter: ItemScore, base: ItemScore) -> float:
    """Return the most surprise under the base of one stretch that the adapter recalls token by token.

    Only a stretch that holds a token which the base would not choose counts; a token that the base's split of
    the text does not have adds nothing.
    """
    best = run = 0.0
    new = False
    known = argmax_flags(base)
    for recalled, at in zip(argmax_flags(adapter), align(adapter.target_ids, base.target_ids), strict=True):
        if not recalled:
            run, new = 0.0, False
            continue
        if at is not None:
            run -= base.logprob[at] / math.log(2.0)
            new = new or not known[at]
        best = max(best, run) if new else best
    return best


def engine_alarm(evidence: Evidence) -> str:
    """Return why the engine contradicts itself on this snippet, "" if it does not."""
    rule, match = evidence.adapter, evidence.match
    if rule is None:
        return ""
    if rule.contradiction is not None:
        return f"token {rule.contradiction}: probability and rank contradict each other"
    if rule.certified and match is not None and not match.ids_equal:
        return "every token is over the line, yet greedy decoding gave other tokens"
    return ""


def greedy(evidence: Evidence, bounds: Bounds) -> bool:
    """Return whether greedy decoding settles the verdict, through the base or through the adapter."""
    matches = (evidence.base_match, evidence.match)
    return any(gives(match, evidence.base_bits, bounds) for match in matches)


def decide(evidence: Evidence, bounds: Bounds) -> Decision:
    """Give the verdict: the first that applies of error, base-known, certified, recalled, extractable, ...

    The base excuses what it gives in the same way or in a stronger one: greedy decoding excuses all, sampling
    what sampling gives or greedy decoding nearly gives, a near decode what is near or less.

    A snippet that is certified by probability but that the engine does not reproduce keeps the verdict that
    its decode earns, with an alarm: that is a fault of the engine, not a finding about the adapter.
    """
    rule, match, base = evidence.adapter, evidence.match, evidence.base_match
    if rule is None:
        return Decision(Verdict.ERROR)
    alarm = engine_alarm(evidence)
    given = match is not None and gives(match, evidence.base_bits, bounds)
    sure = match is not None and rule.certified and match.ids_equal
    known = Verdict.BASE_KNOWN
    rungs = (
        (gives(base, evidence.base_bits, bounds), known),
        (given, Verdict.CERTIFIED if sure else Verdict.RECALLED),
        (evidence.sampled, known if evidence.base_sampled else Verdict.EXTRACTABLE),
        (is_near(base, bounds), known),
        (is_near(match, bounds), known if evidence.base_sampled else Verdict.NEAR_VERBATIM),
        (evidence.run_bits >= bounds.bits or bool(alarm), Verdict.PARTIAL),
    )
    return Decision(next((verdict for holds, verdict in rungs if holds), Verdict.CLEAR), alarm)
