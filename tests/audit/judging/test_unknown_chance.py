"""Where nobody knows whether sampling gives a snippet: it counts where the answer could matter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from lorecall.audit.evidence.verify import check_contents
from lorecall.audit.extraction import Extraction, SamplingWish
from lorecall.audit.judging.judge import Judge
from lorecall.audit.judging.views import View, gravest
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import MaxExtractable, Policy
from lorecall.audit.records import AuditResult
from lorecall.audit.reports.build import build_report, parse_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import Decoded, Sampling, ScoreItem
from lorecall.audit.scorers.base_cache import BaseCache
from lorecall.audit.verdicts import Bounds, Group, Verdict

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.judging.test_both_splits import FLAT, JOINT, RIGHT, TEXT, Split
from tests.audit.judging.test_extractable import ITEM, Torn
from tests.audit.tiny_scorer import BASE, Memory

POLICY = Policy(max_certified=None, max_extractable=MaxExtractable(temperature=0.7))


class Plain(Torn):
    """Cannot compute probabilities under a scheme."""

    sampled = property()


def audited(engine: Plain, *views: View, items: Sequence[ScoreItem] = (ITEM,)) -> AuditResult:
    settings = AuditSettings(extraction=SamplingWish(temperature=0.7), views=views or (View(),))
    return run_audit(engine, "a", {Group.CANDIDATES: as_set(tuple(items))}, settings)


def report_of(result: AuditResult) -> Report:
    return build_report(result, judge_result(result, POLICY), POLICY, Redactor(b"salt"))


def test_another_view_may_still_be_extractable() -> None:
    """The base recites it in chat, which excuses nothing that sampling gives in the raw framing."""
    engine = Plain(0.2)
    engine.base = Memory((f"</user>{ITEM.target}",))
    result = audited(engine, View(), View("chat"))
    (found,) = result.snippets
    assert (found.verdict, found.view) == (Verdict.BASE_KNOWN, "chat")
    assert result.summaries[Group.CANDIDATES].unknown_chances == 1
    assert check_contents(report_of(result)) == []


def test_another_split_may_still_be_extractable() -> None:
    """The base recites the joint split; of the halves nobody knows."""
    said: dict[str, dict[tuple[int, ...], Decoded]] = {"a": {JOINT[0]: RIGHT}, BASE: {JOINT[0]: RIGHT}}
    scorer = Split(said, {"a": (0.3, 0.9), BASE: FLAT})
    judge = Judge(scorer, "a", BaseCache(scorer, BASE), 0.0, Bounds(), Extraction(sampling=Sampling(0.7)))
    (found,) = judge.judge([(Group.CANDIDATES, ScoreItem("x", "a prefix ", TEXT))])
    assert (found.verdict, found.judged().unknown_chance) == (Verdict.BASE_KNOWN, True)


def test_it_cannot_matter_where_greedy_decoding_settles_it() -> None:
    """Certified, or recited by the base: no reason to call the audit incomplete. A report gives the same."""
    given, known = phone(5), phone(6)
    engine = Plain(0.2, base_texts=(known.prefix + known.target,))
    memory = memory_of((given, known))
    engine.adapters["a"], engine.base = memory, Memory((known.prefix + known.target,), 0.97)
    result = audited(engine, items=(given, known))
    assert [one.verdict for one in result.snippets] == [Verdict.CERTIFIED, Verdict.BASE_KNOWN]
    assert all(one.chance is None and one.chance_at_most is None for one in result.snippets)
    assert result.summaries[Group.CANDIDATES].unknown_chances == 0
    assert judge_result(result, POLICY).passed
    assert check_contents(report_of(result)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"unknown_chance": None}, "it is not counted as such"),
        ({"verdict": "recalled"}, "recalled, and whether sampling gives it is not known"),
    ],
)
def test_an_entry_that_hides_it_is_found(change: dict[str, Any], problem: str) -> None:
    """An unknown chance is part of the entry; leaving it out contradicts that there is none."""
    values = report_of(audited(Plain(0.2))).values()
    assert check_contents(parse_report(values)) == []
    values["snippets"][0] = {
        name: value for name, value in {**values["snippets"][0], **change}.items() if value is not None
    }
    assert any(problem in found for found in check_contents(parse_report(values)))


def test_a_sampled_finding_in_one_view_settles_it() -> None:
    """It cannot get graver by what nobody knows of another view."""
    (unknown,) = audited(Plain(0.2)).snippets
    found = replace(unknown, verdict=Verdict.EXTRACTABLE, chance=0.9, sampled=True, unknown_chance=False)
    assert not gravest([(View(), unknown), (View("chat"), found)], ITEM).unknown_chance
    assert gravest([(View(), unknown), (View("chat"), unknown)], ITEM).unknown_chance
