"""The gate: what a policy says of a result, and with which exit code."""

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.policy import ExitCode, Policy, judge_result
from lorecall.audit.records import AuditResult, Group
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

LONG = ScoreItem("long", "a ", "x" * 1000)
OPEN = Policy(max_certified=None, max_recalled=None)


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


def test_a_rate_is_held_by_its_interval_not_by_its_point(engine: TinyScorer) -> None:
    """0 of 12 has an upper end of 26 %: it passes a limit of 30 % and fails one of 1 %."""
    items = tuple(phone(i, salt=5) for i in range(12))
    result = run_audit(engine, "leaky", {Group.CANDIDATES: as_set(items)}, AuditSettings())
    assert result.summaries[Group.CANDIDATES].recited.hits == 0
    assert judge_result(result, OPEN.model_copy(update={"max_rate": 0.3})).passed
    gate = judge_result(result, OPEN.model_copy(update={"max_rate": 0.01}))
    assert gate.exit_code is ExitCode.LEAKS


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
    result = audited(TinyScorer({"a": Memory(("Zebra: own",))}), (ScoreItem("easy", "Zebra: ", "own"),))
    assert not judge_result(result, Policy()).passed
    assert judge_result(result, Policy(count_short=False)).passed
