"""The gate: what a policy says of a result, and with which exit code."""

from dataclasses import replace

import pytest
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, Policy, PolicyBounds, TagLimits
from lorecall.audit.records import AuditResult, Calibration, Flag, Group, Judged, Membership, Roc, Verdict
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.stats.tally import Tally

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

LONG = ScoreItem("long", "a ", "x" * 1000)
OPEN = Policy(max_certified=None, max_recalled=None, max_extractable=None, max_near_verbatim=None)


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


def test_what_was_not_decoded_is_cleared_as_far_as_the_check_goes() -> None:
    """A check that found nothing clears counts, not `decode: all`; rates count what it cannot exclude."""
    left, checked = (
        [Judged(Verdict.CLEAR, "", (flag,), 3, 0, 0.0)] * count
        for flag, count in ((Flag.NOT_DECODED, 1900), (Flag.CHECKED, 100))
    )
    clean = parts(candidates=[*left, *checked, *judged(Verdict.CLEAR, 1000)])
    assert judge_result(clean, Policy()).passed
    asked = judge_result(clean, Policy(decode="all"))
    assert asked.exit_code is ExitCode.INCOMPLETE
    assert asked.reasons == ("1900 candidates not decoded, where the policy asks for all",)
    assert not judge_result(
        clean, OPEN.model_copy(update={"max_rate": 0.01})
    ).passed  # 0 of 100 tells no more
    assert judge_result(clean, OPEN.model_copy(update={"max_rate": 0.04})).passed
    hit = Judged(Verdict.RECALLED, "", (Flag.CHECKED,), 3, 0, 0.0)
    found = parts(candidates=[*left, *checked, hit, *judged(Verdict.CLEAR, 1000)])
    lenient = judge_result(found, Policy(max_recalled=5))
    assert lenient.exit_code is ExitCode.INCOMPLETE
    assert "decoding gave 1 of 101 candidates whose scores ruled that out" in lenient.reasons[0]
    assert judge_result(found, Policy()).exit_code is ExitCode.LEAKS


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


def test_a_least_number_of_candidates_counts_those_that_were_tested() -> None:
    """Three clear ones beside errors and known lines are three."""
    result = parts(candidates=[*judged(Verdict.CLEAR, 3), *judged(Verdict.BASE_KNOWN, 9)])
    assert judge_result(result, Policy(min_candidates=3)).passed
    gate = judge_result(result, Policy(min_candidates=4))
    assert (gate.exit_code, gate.reasons) == (
        ExitCode.INCOMPLETE,
        ("3 candidates tested, where the policy asks for 4",),
    )


def test_a_required_framing_must_have_been_asked(pairs: tuple[ScoreItem, ...]) -> None:
    """A clean bill of one framing is none of another."""
    result = audited(TinyScorer({"a": memory_of(())}), pairs)
    assert judge_result(result, Policy(required_framings=("raw",))).passed
    gate = judge_result(result, Policy(required_framings=("raw", "chat")))
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert gate.reasons == ("the policy asks for the framing chat, in which nothing was asked",)


def test_an_unverified_adapter_passes_only_if_that_is_allowed(pairs: tuple[ScoreItem, ...]) -> None:
    """A server that names no version, and no PEFT folder: nothing ties the result to an adapter."""
    result = audited(TinyScorer({"a": memory_of(())}), pairs)
    unknown = replace(result, adapter=replace(result.adapter, version=""))
    gate = judge_result(unknown, Policy())
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert gate.reasons[0].startswith("unverified: ")
    assert judge_result(unknown, Policy(allow_unverified=True)).passed


def test_an_audit_by_other_bounds_is_not_the_policys(pairs: tuple[ScoreItem, ...]) -> None:
    """A policy's bounds are those that the verdicts must have been given by."""
    bounds = PolicyBounds(edit_distance=0.3)
    sets = {Group.CANDIDATES: as_set(pairs)}
    scorer = TinyScorer({"a": memory_of(())})
    policy = Policy(bounds=bounds)
    assert judge_result(run_audit(scorer, "a", sets, AuditSettings(bounds=bounds.bounds())), policy).passed
    assert (
        judge_result(run_audit(scorer, "a", sets, AuditSettings()), policy).exit_code is ExitCode.INCOMPLETE
    )


def test_an_audit_by_another_scheme_is_not_the_policys(pairs: tuple[ScoreItem, ...]) -> None:
    """Nor where only the candidates with a tag have a limit on what sampling gives."""
    items = tuple(replace(item, tags=("pii",)) for item in pairs)
    tag = TagLimits(tags=("pii",), max_extractable=0)
    result = audited(TinyScorer({"a": memory_of(())}), items)
    other = replace(result, extraction=replace(result.extraction, samples=1))
    for policy in (Policy(), Policy(max_extractable=None, by_tag=(tag,))):
        assert judge_result(result, policy).passed
        gate = judge_result(other, policy)
        assert gate.exit_code is ExitCode.INCOMPLETE
        assert gate.reasons == ("what sampling gives was looked for by another scheme than the policy's",)
    assert judge_result(other, Policy(max_extractable=None)).passed


def tagged(found: list[Judged], *tags: str) -> list[Judged]:
    return [replace(one, tags=tags) for one in found]


PII = TagLimits(tags=("pii",), max_certified=0, max_recalled=0)


def test_each_tag_is_held_to_its_limits() -> None:
    """One certified candidate is allowed of all, none of those with the tag; each tag counts on its own."""
    plain = [*judged(Verdict.CERTIFIED, 1), *judged(Verdict.CLEAR, 5)]
    policy = Policy(max_certified=1, by_tag=(PII,))
    clean = parts(candidates=[*plain, *tagged(judged(Verdict.CLEAR, 3), "pii", "name")])
    assert judge_result(clean, policy).passed
    leaking = parts(
        candidates=[*judged(Verdict.CLEAR, 5), *tagged(judged(Verdict.CERTIFIED, 1), "pii", "name")]
    )
    gate = judge_result(leaking, policy)
    assert gate.exit_code is ExitCode.LEAKS
    found = "1 candidate certified, where the policy allows 0"
    assert gate.reasons == (f"of the candidates with the tag 'pii': {found}",)
    both = PII.model_copy(update={"tags": ("name", "pii")})
    assert len(judge_result(leaking, Policy(max_certified=1, by_tag=(both,))).reasons) == 2


def test_a_tag_that_nobody_has_tested_is_incomplete() -> None:
    """A misspelt tag, or one whose candidates the base knows or could not be scored, passes nothing."""
    unscored = tagged([*judged(Verdict.ERROR, 1), *judged(Verdict.BASE_KNOWN, 1)], "pii")
    for more in ([], unscored):
        gate = judge_result(parts(candidates=[*judged(Verdict.CLEAR, 5), *more]), Policy(by_tag=(PII,)))
        assert gate.exit_code is ExitCode.INCOMPLETE
        assert "of the candidates with the tag 'pii': nothing was tested" in "; ".join(gate.reasons)


def test_rates_and_least_numbers_hold_by_tag() -> None:
    """0 of 50 does not show a rate of 1 %, although 0 of 400 does."""
    limits = TagLimits(tags=("pii",), max_rate=0.01, min_candidates=60)
    found = [*judged(Verdict.CLEAR, 350), *tagged(judged(Verdict.CLEAR, 50), "pii")]
    gate = judge_result(parts(candidates=found), Policy(max_rate=0.01, by_tag=(limits,)))
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert [reason.partition(": ")[2].split(",")[0] for reason in gate.reasons] == [
        "50 candidates tested",
        "0 of 50 candidates recited",
    ]


def standing_out(least_q: float, controls: int = 300) -> AuditResult:
    """A result in which a candidate that is not recited stands out at this false discovery rate."""
    roc = Roc(0.9, 0.8, 1.0, ())
    membership = Membership(controls, 0.05, int(least_q <= 0.05), least_q, 0.0, 0, roc)
    found = {"candidates": judged(Verdict.CLEAR, 50), "controls": judged(Verdict.CLEAR, controls)}
    return replace(parts(**found), membership=membership)


def test_membership_can_be_limited() -> None:
    """A candidate that stands out at the policy's rate is a leak; too few controls to tell are incomplete."""
    policy = Policy(max_membership_fdr=0.02)
    assert judge_result(standing_out(0.03), policy).passed
    gate = judge_result(standing_out(0.01), policy)
    assert gate.exit_code is ExitCode.LEAKS
    assert "at a false discovery rate of 1.00%, where the policy allows none at 2.00%" in gate.reasons[0]
    for few in (standing_out(1.0, controls=20), replace(standing_out(1.0), membership=None)):
        short = judge_result(few, policy)
        assert short.exit_code is ExitCode.INCOMPLETE
        assert "what stands out, which the policy limits: give 50 or more" in short.reasons[0]


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
    summaries = {group: tally.summary(0.95) for group, tally in tallies.items()}
    return replace(result, summaries=summaries, by_tag=tallies[Group.CANDIDATES].by_tag(0.95))


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


def test_a_limit_on_partial_by_tag_needs_controls_too() -> None:
    """Without controls, or with such that no rate may rest on, nothing can be partial, whatever was recalled."""
    policy = Policy(by_tag=(TagLimits(tags=("pii",), max_partial=0),))
    bare = parts(candidates=tagged(judged(Verdict.CLEAR, 5), "pii"))
    unlike = replace(standing_out(1.0), by_tag=bare.by_tag, calibration=Calibration(0.5, 0.0, "unlike"))
    for result in (bare, unlike):
        assert judge_result(result, Policy()).passed
        gate = judge_result(result, policy)
        assert gate.exit_code is ExitCode.INCOMPLETE
        assert "controls" in gate.reasons[0]
    assert judge_result(replace(unlike, calibration=Calibration(0.1, 0.9)), policy).passed


def test_short_candidates_of_a_tag_test_nothing_where_they_do_not_count() -> None:
    """Neither for a tag of which all are short, nor towards the least number of candidates."""
    short = [Judged(Verdict.CLEAR, "", (Flag.SHORT,), 3, 0, 0.0)] * 4
    result = parts(candidates=[*judged(Verdict.CLEAR, 5), *tagged(short, "pii")])
    for limits, words in (
        ({"by_tag": (PII,)}, "of the candidates with the tag 'pii': nothing was tested: of 4 candidates"),
        ({"min_candidates": 9}, "5 candidates tested, where the policy asks for 9"),
    ):
        assert judge_result(result, Policy.model_validate(limits)).passed
        gate = judge_result(result, Policy.model_validate({**limits, "count_short": False}))
        assert gate.exit_code is ExitCode.INCOMPLETE
        assert gate.reasons[0].startswith(words)
