"""Which controls may stand for candidates, and what is not said with those that may not."""

from dataclasses import replace

import numpy as np
import pytest
from lorecall.audit.estimates import Calibration
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.controls import Recipe, make_controls
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.records import AuditResult, Judged, SetSource
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.html import render_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.stats.calibration import LEVEL, check_controls
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, memory_of
from tests.audit.tiny_scorer import Memory, TinyScorer

READ, DRAWN = SetSource("c.jsonl", "0"), SetSource("c", "0", 0, "synthesis, seed 0")
SHUFFLED = SetSource("c", "0", 0, "permutation, seed 0")


def tally_of(losses: np.ndarray) -> Tally:
    """Clear snippets of which the base has these losses."""
    tally = Tally()
    for loss in losses:
        tally.add(Judged(Verdict.CLEAR, "", (), 10, 0, 0.1, -9.0, 0.0, base_loss=round(float(loss), 2)))
    return tally


def test_exchangeable_controls_are_refused_no_more_often_than_stated() -> None:
    """500 simulated sets of 49 candidates and 300 controls of one distribution, rounded as reports do."""
    rng = np.random.default_rng(29)
    refused = sum(
        bool(check_controls(tally_of(rng.normal(3, 1, 49)), tally_of(rng.normal(3, 1, 300)), DRAWN).reason)
        for _ in range(500)
    )
    assert refused / 500 <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 500)


def test_controls_of_another_kind_are_refused_where_they_were_drawn_anew() -> None:
    """Two nats harder: generated ones carry no rate; of given ones the report says that they differ."""
    rng = np.random.default_rng(31)
    candidates, controls = tally_of(rng.normal(3, 1, 49)), tally_of(rng.normal(5, 1, 300))
    drawn, read = (check_controls(candidates, controls, source) for source in (DRAWN, READ))
    assert drawn.reason == "the base finds the generated controls unlike the candidates"
    assert (read.reason, read.p_value) == ("", drawn.p_value)
    assert drawn.p_value is not None
    assert drawn.p_value < 1e-6


def test_sets_without_scores_are_not_compared() -> None:
    """No statistic, and no refusal of its own: the gate says that nothing was tested."""
    errors = Tally()
    errors.add(Judged(Verdict.ERROR, "", (), 0, 0, None))
    assert check_controls(errors, tally_of(np.ones(5)), DRAWN) == Calibration(None, None)


def partly(pairs: tuple[ScoreItem, ...]) -> TinyScorer:
    """An adapter that recalls a stretch of the first candidate, which is `partial` beside good controls."""
    return TinyScorer({"a": Memory((pairs[0].prefix + pairs[0].target[:7],))})


def audited(pairs: tuple[ScoreItem, ...], controls: CandidateSet) -> AuditResult:
    return run_audit(
        partly(pairs), "a", {Group.CANDIDATES: as_set(pairs), Group.CONTROLS: controls}, AuditSettings()
    )


def test_permutation_controls_calibrate_nothing(pairs: tuple[ScoreItem, ...]) -> None:
    """Their targets were trained: no p-values, no partial, no rate, no gate by them; and the report says why."""
    result = audited(pairs, make_controls(as_set(pairs), Recipe.PERMUTATION, 12, seed=0))
    assert result.calibration is not None
    assert "were trained" in result.calibration.reason
    assert result.membership is None
    assert result.summaries[Group.CANDIDATES].verdicts[Verdict.PARTIAL] == 0
    assert all(snippet.p_value is None for snippet in result.snippets)
    for policy in (Policy(max_control_rate=0.5), Policy(min_controls=1), Policy(max_partial=0)):
        gate = judge_result(result, policy)
        assert gate.exit_code is ExitCode.INCOMPLETE
        assert "no rate may rest on these controls" in gate.reasons[0]
    assert judge_result(result, Policy()).passed
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    assert report.multiplicity.false_alarms_at_most is None
    assert "were trained, with other prefixes: this bounds no rate" in render_report(report)


def test_controls_drawn_anew_in_one_distribution_do(pairs: tuple[ScoreItem, ...]) -> None:
    """Digits for digits: the same result gives `partial`, p-values and a rate."""
    result = audited(pairs, make_controls(as_set(pairs), Recipe.SYNTHESIS, 300, seed=0))
    assert result.calibration is not None
    assert result.calibration.reason == ""
    assert result.summaries[Group.CANDIDATES].verdicts[Verdict.PARTIAL] == 1
    assert judge_result(result, Policy(max_control_rate=0.01)).passed


def test_controls_that_the_base_finds_harder_are_not_compared(pairs: tuple[ScoreItem, ...]) -> None:
    """Candidates of plain words against controls of random letters: what stands out says nothing."""
    words = tuple(ScoreItem(f"w{i}", f"line {i}: ", f"the quick brown fox {i}") for i in range(30))
    drawn = tuple(ScoreItem(f"s{i}", f"line {i}: ", f"xqj zvkkw qpxzj wvq {i}") for i in range(60))
    controls = replace(as_set(drawn), generated="synthesis, seed 0")
    scorer = TinyScorer({"a": memory_of(pairs)}, base_texts=[item.target for item in words])
    result = run_audit(
        scorer, "a", {Group.CANDIDATES: as_set(words), Group.CONTROLS: controls}, AuditSettings()
    )
    assert result.calibration is not None
    assert "unlike the candidates" in result.calibration.reason
    assert result.membership is None


@pytest.mark.parametrize(("source", "permuted", "synthetic"), [(READ, 0, 0), (DRAWN, 0, 1), (SHUFFLED, 1, 0)])
def test_a_source_knows_its_recipe(source: SetSource, permuted: int, synthetic: int) -> None:
    """By what `make_controls` writes."""
    assert (source.permuted, source.synthetic) == (permuted, synthetic)
    items = as_set(tuple(ScoreItem(str(i), f"p{i}", f"t{i} {i * 7}") for i in range(9)))
    made = {recipe: make_controls(items, recipe, 3, 0).source for recipe in Recipe}
    assert (made[Recipe.PERMUTATION].permuted, made[Recipe.SYNTHESIS].synthetic) == (True, True)
