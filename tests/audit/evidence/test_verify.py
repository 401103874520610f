"""Whether a report still holds."""

from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.evidence.verify import check_contents, check_input, check_report, rescore
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report, parse_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Content, Report
from lorecall.audit.reports.signing import check_seal, seal
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set, memory_of
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]


@pytest.fixture
def report(engine: TinyScorer, sets: Sets) -> Report:
    result = run_audit(engine, "leaky", sets, AuditSettings())
    return build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))


def changed(report: Report, *path: str | int, to: Any) -> Report:
    """The report with one value changed and the seal made anew, as a forger without a key would do."""
    values = report.values()
    place: Any = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    del values["seal"]
    return seal(Content.model_validate(values))


def test_a_report_as_written_holds(report: Report) -> None:
    """No problem in a report of an exact engine."""
    assert check_contents(report) == []


def test_any_change_breaks_the_seal(report: Report) -> None:
    """One verdict turned, and the digest is another."""
    values = report.values()
    values["snippets"][0]["verdict"] = "clear"
    assert check_seal(parse_report(values)) == ["the report was changed after it was written"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("summary", "tokens_over_half"), 1, "summary/tokens_over_half"),
        (("summary", "verdicts", "certified"), 0, "summary/verdicts"),
        (("controls",), None, "no summary of them"),
        (("threshold",), 0.6, "threshold"),
        (("snippets", 0, "min_p"), 0.1, "min_p"),
        (("snippets", 0, "verdict"), "clear", "although it was recited"),
        (("snippets", 0, "decoded_equal"), False, "gave its tokens, and not its text"),
        (
            ("snippets", 0, "decoded_ids_equal"),
            False,
            "certified, with a token under the line or another decode",
        ),
        (("snippets", 0, "tokens", 0, "rank"), 10, "locked is not"),
        (("snippets", 0, "locked"), [], "certified_by_p"),
        (("snippets", 0, "delta_loss"), 0.5, "delta_loss is not"),
        (("snippets", 0, "q_value"), 0.5, "q_value is not what the controls give"),
        (("membership",), None, "membership is not what its snippets give"),
        (("membership", "roc", "area"), 0.5, "membership/roc"),
        (("controls", "recited", "high"), 0.01, "controls/recited"),
        (("summary", "delta_loss"), 0.1, "summary/delta_loss"),
        (("multiplicity", "tests"), 1, "multiplicity/tests"),
        (("gate", "passed"), True, "gate/passed is not what its policy gives"),
        (("gate", "reasons"), [], "gate/reasons is not what its policy gives"),
        (("gate", "policy", "max_certified"), 12, "gate/passed is not what its policy gives"),
        (("gate", "policy", "max_certified"), "many", "no policy of this release"),
        (("no_controls",), 3, "gate/reasons"),
        (("snippets", 0, "tokens"), [], "without tokens"),
    ],
)
def test_arithmetic_that_does_not_add_up_is_found(
    report: Report, path: tuple[str | int, ...], value: Any, problem: str
) -> None:
    """Even under a seal made anew."""
    assert any(problem in found for found in check_contents(changed(report, *path, to=value)))


def test_what_could_not_be_computed_again_is_said(engine: TinyScorer, sets: Sets) -> None:
    """Without a key, and of a report of the gravest snippets only; what can be checked there still is."""
    result = run_audit(engine, "leaky", sets, AuditSettings(keep=4))
    rules = Policy(count_short=False)
    report = build_report(result, judge_result(result, rules), rules, Redactor(b"s"))
    checked = check_report(report)
    assert checked.problems == ()
    said = "; ".join(checked.unchecked)
    for words in (
        "signature not checked",
        "summary: 8 snippets were left out",
        "controls: 16",
        "membership",
        "gate",
    ):
        assert words in said
    for path, value, problem in (
        (("summary", "snippets"), 13, "summary/snippets"),
        (("summary", "verdicts", "certified"), 3, "summary/verdicts"),
        (("controls", "leaked", "hits"), 1, "controls/leaked/hits"),
        (("snippets", 0, "id"), "p7-1", "twice"),
    ):
        assert any(problem in found for found in check_contents(changed(report, *path, to=value)))


def test_the_inputs_are_known_by_their_digest(report: Report, sets: Sets) -> None:
    """The audited file passes, another does not."""
    assert check_input(report, Group.CANDIDATES, sets[Group.CANDIDATES]) == []
    other = CandidateSet("pairs.jsonl", "b" * 64, ())
    assert "not the file" in check_input(report, Group.CANDIDATES, other)[0]
    alone = report.model_copy(update={"inputs": report.inputs.model_copy(update={"controls": None})})
    assert check_input(alone, Group.CONTROLS, other)


def test_a_sample_scored_again_is_the_same(
    report: Report, engine: TinyScorer, pairs: tuple[ScoreItem, ...]
) -> None:
    """On an exact engine nothing moves."""
    again = rescore(report, engine, pairs, 5, seed=0)
    assert (again.sample, again.differing, again.largest_move) == (5, (), 0.0)


def test_scores_that_moved_are_found(report: Report, pairs: tuple[ScoreItem, ...]) -> None:
    """The same version that answers otherwise than it did: every sampled snippet differs."""
    other = TinyScorer({"leaky": memory_of(pairs, strength=0.9)})
    assert len(rescore(report, other, pairs, 5, seed=0).differing) == 5


def test_moves_within_the_reports_epsilon_are_allowed(pairs: tuple[ScoreItem, ...]) -> None:
    """A report with an ε of one half allows log-odds to move by two."""
    sets = {Group.CANDIDATES: as_set(pairs)}
    result = run_audit(TinyScorer({"leaky": memory_of(pairs)}), "leaky", sets, AuditSettings(epsilon=0.5))
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    again = rescore(report, TinyScorer({"leaky": memory_of(pairs, strength=0.9)}), pairs, 12, seed=0)
    assert again.differing == ()
    assert 1.0 < again.largest_move < again.tolerance


def test_what_cannot_be_scored_again_is_a_usage_error(
    report: Report, engine: TinyScorer, pairs: tuple[ScoreItem, ...]
) -> None:
    """Another version or chat template of the adapter, or a file without the report's snippets."""
    with pytest.raises(UsageError, match="no snippet"):
        rescore(report, engine, [], 5, seed=0)
    other = changed(report, "adapter", "version", to="f" * 64)
    with pytest.raises(UsageError, match="not what was audited"):
        rescore(other, engine, pairs, 5, seed=0)
    templated = changed(report, "adapter", "chat_template", to="f" * 64)
    with pytest.raises(UsageError, match="the chat template of 'leaky' is not what was audited"):
        rescore(templated, engine, pairs, 5, seed=0)


@pytest.mark.parametrize(
    "path", [("snippets", 0, "history"), ("settings", "system"), ("settings", "template")]
)
def test_a_text_that_is_shown_where_none_is_does_not_verify(
    report: Report, path: tuple[str | int, ...]
) -> None:
    """Of the history and of the settings, as of the prefix and the target."""
    text = {"hash": "h", "characters": 6}
    assert not any("is not shown" in one for one in check_contents(changed(report, *path, to=text)))
    found = check_contents(changed(report, *path, to=text | {"text": "secret"}))
    assert any(f"{path[-1]} is not shown as the report says" in one for one in found)
