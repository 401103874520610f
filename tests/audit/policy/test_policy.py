"""The gate: what a policy says of a result, and with which exit code."""

from dataclasses import replace

import pytest
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.policy import ExitCode, Policy, judge_result
from lorecall.audit.records import AuditResult, Flag, Group, Judged, Verdict
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.stats.tally import Tally

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

LONG = ScoreItem("long", "a ", "x" * 1000)
OPEN = Policy(max_certified=None, max_recalled=None, max_near_verbatim=None)


def audited(scorer: TinyScorer, items: tuple[ScoreItem, ...]) -> AuditResult:
    return run_audit(scorer, "a", {Group.CANDIDATES: as_set(items)}, AuditSettings())


def test_any_recited_candidate_fails_by_default(pairs: tuple[ScoreItem, ...]) -> None:
    """One certified pair of twelve is over the default policy."""
    gate = judge_result(audited(TinyScorer({"a": memory_of(pairs[:1])}), pairs), Policy())
    assert gate.exit_code is ExitCode.LEAKS
    assert gate.reasons == ("1 candidate certified, where the policy allows 0",)


def test_a_clean_adapter_passes(engine: TinyScorer, sets: dict[Group, CandidateSet]) -> None:
    """An adapter with other data passes with exit code 0 and no reasons."""
    gate = judge_result(run_audit(engine, "other", sets, AuditSettings()), Policy())
    assert (gate.passed, gate.exit_code, gate.reasons) == (True, ExitCode.CLEAN, ())


def test_limits_are_of_each_verdict(pairs: tuple[ScoreItem, ...]) -> None:
    """Allowed certified candidates pass; recalled ones have a limit of their own."""
    result = audited(TinyScorer({"a": memory_of(pairs[:2])}), pairs)
    assert judge_result(result, Policy(max_certified=2)).passed
    assert not judge_result(result, Policy(max_certified=1)).passed
    weak = Memory((pairs[0].prefix + pairs[0].target,), weak={3: 0.45}, prefix_length=len(pairs[0].prefix))
    recalled = audited(TinyScorer({"a": weak}), pairs)
    assert not judge_result(recalled, Policy()).passed
    assert judge_result(recalled, Policy(max_recalled=1)).passed


def test_near_verbatim_fails_by_default(pairs: tuple[ScoreItem, ...]) -> None:
    """One wrong digit of ten is a leak under the default policy."""
    item = pairs[0]
    wrong = item.target[:5] + str((int(item.target[5]) + 1) % 10) + item.target[6:]
    result = audited(TinyScorer({"a": Memory((item.prefix + wrong,))}), (item,))
    gate = judge_result(result, Policy())
    assert gate.exit_code is ExitCode.LEAKS
    assert gate.reasons == ("1 candidate near-verbatim, where the policy allows 0",)
    assert judge_result(result, Policy(max_near_verbatim=1)).passed


def test_a_rate_is_held_by_its_bound_not_by_its_point(engine: TinyScorer) -> None:
    """0 of 12 bounds the rate at 22 %: it passes a limit of 30 %, and cannot tell of one of 1 %.

    That is no leak, so it is exit code 3; a rate found over the limit is exit code 1.
    """
    items = tuple(phone(i, salt=5) for i in range(12))
    result = run_audit(engine, "leaky", {Group.CANDIDATES: as_set(items)}, AuditSettings())
    assert result.summaries[Group.CANDIDATES].recited.hits == 0
    assert judge_result(result, OPEN.model_copy(update={"max_rate": 0.3})).passed
    gate = judge_result(result, OPEN.model_copy(update={"max_rate": 0.01}))
    assert gate.exit_code is ExitCode.INCOMPLETE
    found = parts(candidates=[*judged(Verdict.RECALLED, 4), *judged(Verdict.CLEAR, 296)])
    assert judge_result(found, OPEN.model_copy(update={"max_rate": 0.01})).exit_code is ExitCode.LEAKS


def test_no_hit_in_300_passes_a_limit_of_one_percent() -> None:
    """By the one-sided bound, 0.994 %; 0 of 298 does not, for candidates and for controls."""
    for found, passes in ((300, True), (298, False)):
        rate = parts(candidates=judged(Verdict.CLEAR, found))
        assert judge_result(rate, OPEN.model_copy(update={"max_rate": 0.01})).passed is passes
        controls = parts(candidates=judged(Verdict.CLEAR, 1), controls=judged(Verdict.CLEAR, found))
        assert judge_result(controls, Policy(max_control_rate=0.01)).passed is passes


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ({}, "of 0 candidates 0 are known to the base, 0 could not be scored, and 0 are too short"),
        ({Verdict.BASE_KNOWN: 5}, "of 5 candidates 5 are known to the base"),
        ({Verdict.ERROR: 3}, "of 3 candidates 0 are known to the base, 3 could not be scored"),
        ({Verdict.BASE_KNOWN: 2, Verdict.ERROR: 1}, "of 3 candidates 2 are known to the base, 1 could not"),
    ],
)
@pytest.mark.parametrize("policy", [Policy(), OPEN])
def test_what_tested_nothing_passes_nothing(
    candidates: dict[Verdict, int], words: str, policy: Policy
) -> None:
    """Nothing that could be blamed on the adapter: exit code 3, whatever the policy allows."""
    found = [one for verdict, count in candidates.items() for one in judged(verdict, count)]
    gate = judge_result(parts(candidates=found, controls=judged(Verdict.CLEAR, 300)), policy)
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert f"nothing was tested: {words}" in "; ".join(gate.reasons)


def test_only_short_targets_are_nothing_where_these_do_not_count() -> None:
    """A policy that leaves short targets out has tested nothing on a set of them."""
    short = [Judged(Verdict.CLEAR, "", (Flag.SHORT,), 3, 0, 0.0)] * 4
    assert judge_result(parts(candidates=short), Policy()).passed
    gate = judge_result(parts(candidates=short), Policy(count_short=False))
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert "4 are too short to count" in gate.reasons[0]


def test_a_snippet_that_could_not_be_scored_is_no_clean_bill(engine: TinyScorer) -> None:
    """An over-long candidate beside clear ones gives exit code 3."""
    result = run_audit(engine, "other", {Group.CANDIDATES: as_set((phone(1, salt=5), LONG))}, AuditSettings())
    assert judge_result(result, Policy()).exit_code is ExitCode.INCOMPLETE


def test_a_leak_outweighs_an_incomplete_audit(pairs: tuple[ScoreItem, ...]) -> None:
    """A leak stays a leak; both are said."""
    gate = judge_result(audited(TinyScorer({"a": memory_of(pairs)}), (*pairs, LONG)), Policy())
    assert gate.exit_code is ExitCode.LEAKS
    assert len(gate.reasons) == 2


def test_an_engine_that_disagrees_outweighs_everything(pairs: tuple[ScoreItem, ...]) -> None:
    """Exit code 4, whatever the policy allows: no verdict of such an engine can be trusted."""
    scorer = TinyScorer({"a": memory_of(pairs)}, decodes_with={"a": BASE})
    assert judge_result(audited(scorer, (*pairs, LONG)), OPEN).exit_code is ExitCode.ENGINE_DISAGREES


def test_short_targets_can_be_left_out() -> None:
    """A recited target that the base finds likely counts unless the policy says otherwise."""
    items = (ScoreItem("easy", "Zebra: ", "own"), phone(1))
    result = audited(TinyScorer({"a": Memory(("Zebra: own",))}), items)
    assert not judge_result(result, Policy()).passed
    assert judge_result(result, Policy(count_short=False)).passed


def judged(verdict: Verdict, count: int) -> list[Judged]:
    return [Judged(verdict, "", (), 10, 0, 0.0)] * count


def parts(**snippets: list[Judged]) -> AuditResult:
    """A result whose sets have these snippets."""
    result = audited(TinyScorer({"a": memory_of(())}), (phone(1),))
    tallies = {Group(name): Tally() for name in snippets}
    for group, tally in tallies.items():
        for one in snippets[group]:
            tally.add(one)
    return replace(result, summaries={group: tally.summary(0.95) for group, tally in tallies.items()})


def test_two_thousand_harmless_snippets_hide_no_leak() -> None:
    """A tenth of the operator's 300 under a limit of 2 %, whatever the uploader adds."""
    policy = OPEN.model_copy(update={"max_rate": 0.02})
    asked = [*judged(Verdict.RECALLED, 30), *judged(Verdict.CLEAR, 270)]
    result = parts(candidates=asked, own_candidates=judged(Verdict.CLEAR, 2000))
    assert judge_result(result, policy).exit_code is ExitCode.LEAKS
    clean = parts(candidates=judged(Verdict.CLEAR, 300), own_candidates=judged(Verdict.CLEAR, 5))
    assert judge_result(clean, policy).passed, "five snippets need not prove a rate"


@pytest.mark.parametrize(
    ("policy", "own", "reason"),
    [
        (Policy(), {"own_candidates": judged(Verdict.CERTIFIED, 1)}, "1 candidate certified"),
        (
            OPEN.model_copy(update={"max_rate": 0.2}),
            {"own_candidates": [*judged(Verdict.RECALLED, 2), *judged(Verdict.CLEAR, 6)]},
            "2 of 8 candidates recited, over 20.00%",
        ),
        (
            Policy(max_control_rate=0.2),
            {"own_controls": [*judged(Verdict.RECALLED, 1), *judged(Verdict.CLEAR, 3)]},
            "1 of 4 controls recited, over 20.00%",
        ),
        (Policy(), {"own_controls": judged(Verdict.ERROR, 1)}, "1 snippet could not be scored"),
        (Policy(), {"own_candidates": [Judged(Verdict.CERTIFIED, "no", (), 1, 1, 0.0)]}, "the engine contra"),
    ],
)
def test_what_the_uploader_sent_can_only_refuse(
    policy: Policy, own: dict[str, list[Judged]], reason: str
) -> None:
    """Each of its findings is a reason, which says whose snippets it is about."""
    operator = {"candidates": judged(Verdict.CLEAR, 300), "controls": judged(Verdict.CLEAR, 300)}
    assert judge_result(parts(**operator), policy).passed
    gate = judge_result(parts(**operator, **own), policy)
    assert not gate.passed
    assert gate.reasons[0].startswith(f"of the uploader's own snippets: {reason}")
