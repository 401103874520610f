"""What an audit of many snippets keeps: all counts, the gravest evidence, and memory of its own bound."""

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from lorecall.audit.evidence.verify import check_contents
from lorecall.audit.inputs import item_store
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.reports.build import build_report, parse_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.gravest import Findings, gravity
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ItemScore, ScoreItem
from lorecall.audit.scorers import base_cache
from lorecall.audit.scorers.batches import shuffled
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer

ITEMS = tuple(phone(i) for i in range(40))
LEAKED = ITEMS[30:]
MEGABYTE = 1 << 20


def audit(keep: int | None) -> tuple[TinyScorer, dict[Group, CandidateSet], AuditSettings]:
    sets = {
        Group.CANDIDATES: as_set(ITEMS),
        Group.CONTROLS: as_set(tuple(phone(i, salt=3) for i in range(20))),
    }
    return TinyScorer({"leaky": memory_of(LEAKED)}), sets, AuditSettings(keep=keep)


def test_the_gravest_are_kept_and_all_are_counted() -> None:
    """Of forty candidates the ten that leak stand in the report, in their order; the counts are of forty."""
    scorer, sets, few = audit(10)
    short, whole = (run_audit(scorer, "leaky", sets, settings) for settings in (few, audit(None)[2]))
    assert [s.item for s in short.of(Group.CANDIDATES)] == list(LEAKED)
    assert short.summaries == whole.summaries
    assert [len(short.of(group)) for group in short.sources] == [10, 10]
    assert [len(whole.of(group)) for group in whole.sources] == [40, 20]
    policies = (Policy(), Policy(max_certified=10, max_recalled=10), Policy(max_certified=9, max_recalled=0))
    for policy in policies:
        assert judge_result(short, policy) == judge_result(whole, policy)
    assert judge_result(short, policies[1]).exit_code is ExitCode.CLEAN


def test_a_report_of_the_gravest_holds() -> None:
    """It fits the schema, says how many it leaves out, verifies, and a count that is not so is found."""
    scorer, sets, settings = audit(3)
    result = run_audit(scorer, "leaky", sets, settings)
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"salt"))
    values = report.values()
    assert parse_report(values) == report
    assert values["omitted"] == {"candidates": 37, "controls": 17}
    assert len(report.snippets) == 6
    assert check_contents(report) == []
    values["summary"]["snippets"] = 41
    assert any("summary/snippets" in problem for problem in check_contents(parse_report(values)))


def test_what_is_kept_are_the_first_of_the_gravest() -> None:
    """In any order of arrival, what is left out is no graver than what is kept."""
    scorer, sets, settings = audit(None)
    results = list(run_audit(scorer, "leaky", sets, settings).of(Group.CANDIDATES))
    random.Random(3).shuffle(results)  # noqa: S311  not for secrets
    findings = Findings(12)
    findings.add(results)
    kept = findings.kept()
    ids = {snippet.item.id for snippet in kept}
    left = [result for result in results if result.item.id not in ids]
    assert [r.item.id for r in results if r.item.id in ids] == [r.item.id for r in kept]
    assert len(kept) == 12
    assert min(map(gravity, kept)) >= max(map(gravity, left))


def test_a_shuffle_is_a_permutation_of_the_seed() -> None:
    """Every place once, another order for another seed, and the first few cost no more than themselves."""
    assert sorted(shuffled(500, 1)) == list(range(500))
    assert list(shuffled(500, 1)) == list(shuffled(500, 1)) != list(shuffled(500, 2))
    tracemalloc.start()
    order = shuffled(10_000_000, 0)
    drawn = {next(order) for _ in range(1000)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(drawn) == 1000
    assert peak < MEGABYTE


def test_every_place_comes_first_equally_often() -> None:
    """Over many seeds, each of eight comes first about one time in eight."""
    firsts = [next(shuffled(8, seed)) for seed in range(4000)]
    assert all(400 < firsts.count(place) < 600 for place in range(8))


def test_an_audit_of_a_large_file_takes_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as many snippets, from disk, take no more memory: what is kept and remembered has a bound."""
    monkeypatch.setattr(base_cache, "REMEMBERED", 300)
    monkeypatch.setattr(item_store, "IN_MEMORY", 300)
    peaks = []
    for count in (600, 1800):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f'{{"prefix": "a{i} ", "target": "x"}}\n' for i in range(count)))
        scorer, settings = Forgetful({"leaky": memory_of(())}), AuditSettings(keep=50, chunk=200)
        tracemalloc.start()
        found = load_json_lines(path)
        result = run_audit(scorer, "leaky", {Group.CANDIDATES: found}, settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.summaries[Group.CANDIDATES].snippets == count
        assert len(result.snippets) == 50
    assert peaks[1] < peaks[0] + MEGABYTE / 2


class Forgetful(TinyScorer):
    """The exact engine, without its own record of what it was asked."""

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Exact scores, not noted down."""
        scores = super().score(model, items)
        self.scored.clear()
        return scores
