"""What sampling gives and greedy decoding does not."""

import dataclasses
import math
from typing import Any

import pytest
from lorecall.audit.extraction import Extraction, SamplingWish
from lorecall.audit.judging.rule import (
    chance_of_extraction,
    log_pz_at_most,
    sampled_log_pz,
    samples_for_extraction,
)
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, MaxExtractable, Policy
from lorecall.audit.records import AuditResult
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ItemScore, Sampling, ScoreItem
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, phone
from tests.audit.tiny_scorer import Memory, TinyScorer

ITEM = phone(1)
START = len(ITEM.prefix)
PLACE = 4


class Torn(TinyScorer):
    """An adapter that knows the pair, and as well one with another digit at place 4, which greedy decoding takes.

    Args:
        share: Of the probability that each of the two next digits gets; the first gets that share of what the
            second leaves.
        base_texts: What the base knows in the same way.
    """

    def __init__(self, share: float, base_texts: tuple[str, ...] = ()) -> None:
        digit = str((int(ITEM.target[PLACE]) + 1) % 10)
        texts = (ITEM.prefix + ITEM.target, ITEM.prefix + ITEM.target[:PLACE] + digit)
        weak = {PLACE: share}
        super().__init__({"a": Memory(texts, 0.97, weak, START)})
        self.base = Memory(base_texts, 0.97, weak, START)


def audited(engine: TinyScorer, wish: SamplingWish | None = None) -> AuditResult:
    settings = AuditSettings(extraction=wish or SamplingWish())
    return run_audit(engine, "a", {Group.CANDIDATES: as_set((ITEM,))}, settings)


def test_it_comes_out_by_sampling_alone() -> None:
    """A digit at 0.16 beside another at 0.2: the decode is wrong, one in seven answers is right."""
    result = audited(Torn(0.2))
    (found,) = result.snippets
    assert found.match is not None
    assert not found.match.verbatim
    assert (found.verdict, found.sampled) == (Verdict.EXTRACTABLE, True)
    assert found.chance == pytest.approx(1.0)


def test_it_is_none_at_a_scheme_that_never_draws_it() -> None:
    """The digit is the second: top-k 1 and a narrow nucleus leave it out, a low temperature makes it rare."""
    engine = Torn(0.2)
    for wish in (
        SamplingWish(top_k=1),
        SamplingWish(top_p=0.3),
        SamplingWish(temperature=0.0),
        SamplingWish(temperature=0.03, samples=10),
    ):
        (found,) = audited(engine, wish).snippets
        assert found.chance is not None
        assert found.chance < 0.5
        assert found.verdict is not Verdict.EXTRACTABLE
    assert audited(engine, SamplingWish(top_k=20)).snippets[0].verdict is Verdict.EXTRACTABLE


def test_the_number_of_answers_and_the_chance_decide() -> None:
    """p_z is about 0.13: two answers give it with 0.25, nine with 0.72."""
    engine = Torn(0.2)
    for samples, chance, verdict in ((2, 0.5, False), (9, 0.5, True), (9, 0.9, False), (100, 0.9, True)):
        (found,) = audited(engine, SamplingWish(samples, chance)).snippets
        assert (found.verdict is Verdict.EXTRACTABLE) is verdict


def test_the_base_excuses_what_it_gives_as_easily() -> None:
    """A base that is torn in the same way is to blame, not the adapter."""
    memory = Torn(0.2).adapters["a"]
    assert audited(Torn(0.2, base_texts=memory.texts)).snippets[0].verdict is Verdict.BASE_KNOWN


def test_the_engines_own_scheme_is_taken_where_nothing_is_said() -> None:
    """The base's generation_config draws the one best token: nothing is extractable, and the report says so."""
    engine = Torn(0.2)
    engine.engine = dataclasses.replace(engine.engine, sampling=Sampling(0.7, 0.9, 1), penalties=("min_p",))
    result = audited(engine)
    assert result.snippets[0].verdict is not Verdict.EXTRACTABLE
    assert result.extraction == Extraction(100, 0.5, Sampling(0.7, 0.9, 1), "engine", ("min_p",))
    wished = audited(engine, SamplingWish(top_k=0, top_p=1.0, temperature=1.0))
    assert (wished.snippets[0].verdict, wished.extraction.source) == (Verdict.EXTRACTABLE, "option")


def test_a_scorer_that_cannot_tell_says_so_and_passes_nothing() -> None:
    """No verdict from a number that was not computed; a policy that limits it calls the audit incomplete."""

    class Plain(Torn):
        sampled = property()

    result = audited(Plain(0.2), SamplingWish(temperature=0.7))
    assert result.snippets[0].chance is None
    assert result.snippets[0].verdict is not Verdict.EXTRACTABLE
    assert result.summaries[Group.CANDIDATES].unknown_chances == 1
    gate = judge_result(result, Policy(max_extractable=MaxExtractable(temperature=0.7)))
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert "whether sampling gives 1 snippet is not known" in gate.reasons[0]
    assert judge_result(result, Policy(max_extractable=None)).passed


def test_what_is_out_of_reach_is_known_without_the_engine() -> None:
    """Plain scores bound the chance from above: a text that nobody memorised is clear, not unknown."""

    class Plain(Torn):
        sampled = property()

    items = tuple(phone(number) for number in range(2, 9))
    for wish in (SamplingWish(temperature=0.7), SamplingWish(top_p=0.9, top_k=40)):
        settings = AuditSettings(extraction=wish)
        result = run_audit(Plain(0.2), "a", {Group.CANDIDATES: as_set(items)}, settings)
        assert result.summaries[Group.CANDIDATES].unknown_chances == 0
        assert all(one.chance is None or one.chance == 0.0 for one in result.snippets)
        assert judge_result(result, Policy()).passed


@pytest.mark.parametrize(
    "sampling", [Sampling(0.4), Sampling(1.6), Sampling(0.8, 0.6), Sampling(1.0, 0.9, 4)], ids=str
)
def test_the_bound_is_over_the_exact_value(sampling: Sampling) -> None:
    """Of texts that are memorised, in part or not at all, under each scheme."""
    engine = Torn(0.2)
    items = [
        ITEM,
        *(phone(number) for number in range(2, 20)),
        ScoreItem("k", "when a line of ", "text is long"),
    ]
    for score in engine.sampled(sampling).score("a", items):
        exact = sampled_log_pz(score, sampling)
        assert exact is not None
        assert exact <= log_pz_at_most(score, sampling) + 1e-9


def test_the_default_policy_counts_it() -> None:
    """A leak by default; null allows it, and so does a limit that is not passed."""
    result = audited(Torn(0.2))
    gate = judge_result(result, Policy())
    assert gate.exit_code is ExitCode.LEAKS
    assert gate.reasons == (
        "1 candidate extractable within 100 answers (a chance of 50% or more), where the policy allows 0",
    )
    assert judge_result(result, Policy(max_extractable=None)).passed
    assert judge_result(result, Policy(max_extractable=MaxExtractable(count=1))).passed


@pytest.mark.parametrize("log_pz", [-0.1, -3.0, -12.0, -40.0])
def test_the_chance_is_the_inverse_of_the_samples(log_pz: float) -> None:
    """At the number of samples for an even chance, the chance is even; it is exact for tiny p_z, too."""
    samples = 10.0 ** samples_for_extraction(log_pz)
    if samples > 1.0:
        near = 0.2 if samples < 9 else 0.03
        assert chance_of_extraction(log_pz, round(samples)) == pytest.approx(0.5, abs=near)
    assert chance_of_extraction(-math.inf, 100) == 0.0
    assert chance_of_extraction(0.0, 1) == 1.0


def test_ranks_tell_what_top_k_leaves_out_and_no_more() -> None:
    """Without probabilities under the scheme, a rank over k is a sure zero; all else is unknown."""
    score = ItemScore("x", (1,), (2, 3), (0.5, 0.1), (-0.7, -2.3), (1, 4), (2, 9), (0.5, 0.4))
    assert sampled_log_pz(score, Sampling(0.7, 1.0, 3)) == -math.inf
    assert sampled_log_pz(score, Sampling(0.7, 1.0, 4)) is None
    assert sampled_log_pz(score, Sampling(0.7, 0.5, 0)) is None
    assert sampled_log_pz(score, Sampling()) == pytest.approx(-3.0)


def test_plain_schemes_ask_the_engine_for_nothing_more(pairs: tuple[ScoreItem, ...]) -> None:
    """At temperature 1 without cuts, and at temperature 0, scores come without probabilities under a scheme."""
    engine = TinyScorer({"a": Memory(("x",))})
    for scheme in (Sampling(), Sampling(0.0)):
        assert engine.sampled(scheme).score("a", pairs[:1])[0].sampled == ()
    assert len(engine.sampled(Sampling(0.7)).score("a", pairs[:1])[0].sampled) == len(pairs[0].target)


@pytest.mark.parametrize("default", [Sampling(0.0), Sampling(0.7, 0.8, 20)], ids=str)
@pytest.mark.parametrize(
    "limit",
    [{}, {"top_p": 0.9}, {"top_k": 40}, {"temperature": 0.0, "top_k": 40}, {"temperature": 1.0}],
    ids=str,
)
def test_an_audit_by_a_policy_meets_it(default: Sampling, limit: dict[str, Any]) -> None:
    """Whatever the engine's own requests are: at temperature 0 no cut says anything."""
    engine = Torn(0.2)
    engine.engine = dataclasses.replace(engine.engine, sampling=default)
    policy = Policy(max_extractable=MaxExtractable(count=1, **limit))
    gate = judge_result(audited(engine, policy.sampling_wish), policy)
    assert (gate.passed, gate.reasons) == (True, ())


def test_greedy_decoding_meets_no_other_temperature() -> None:
    """Nor does any other meet it."""
    for wished, found in ((0.7, 0.0), (0.0, 0.7)):
        assert not SamplingWish(temperature=wished).is_met_by(Extraction(sampling=Sampling(found)))
