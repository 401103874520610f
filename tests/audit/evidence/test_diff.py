"""Two reports side by side."""

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from lorecall.audit.evidence.changes import Change, Diff, render_diff, render_diff_junit
from lorecall.audit.evidence.diff import compare
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.models import json_schema
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Content, Report
from lorecall.audit.reports.signing import seal
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.verdicts import Bounds, Group

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import Memory, TinyScorer

Sets = dict[Group, CandidateSet]


def audit(
    engine: TinyScorer,
    name: str,
    sets: Sets,
    salt: bytes = b"s",
    settings: AuditSettings | None = None,
    *,
    show: bool = False,
) -> Report:
    result = run_audit(engine, name, sets, settings or AuditSettings())
    redactor = Redactor(salt, show)
    return build_report(result, judge_result(result, Policy()), Policy(), redactor, engine.token_texts)


def test_a_leak_that_was_not_there_is_worse(engine: TinyScorer, sets: Sets) -> None:
    """And the way back is better; the same report is neither. Of one file the ids match under any salt."""
    clean, leaky = audit(engine, "other", sets), audit(engine, "leaky", sets, b"another")
    worse, better, same = compare(clean, leaky), compare(leaky, clean), compare(leaky, leaky)
    assert (worse.counts[Change.WORSE], worse.exit_code) == (12, 1)
    assert (better.counts[Change.BETTER], better.counts[Change.WORSE], better.exit_code) == (12, 0, 0)
    assert (same.counts[Change.SAME], same.snippets, same.exit_code) == (12, (), 0)
    assert [(row.before, row.after) for row in worse.snippets[:1]] == [("clear", "certified")]
    assert "the gate passed the first and fails the second" in worse.remarks
    assert Diff.model_validate_json(worse.to_json()) == worse


def test_redacted_snippets_of_two_files_match_by_their_hashes(engine: TinyScorer, sets: Sets) -> None:
    """Under one salt: what is new and leaks counts, what is new and clear does not; under two nothing matches."""
    all_of = sets[Group.CANDIDATES]
    some = CandidateSet("some.jsonl", "c" * 64, tuple(replace(i, id=f"x{i.id}") for i in all_of.items[:8]))
    fewer = {**sets, Group.CANDIDATES: some}
    grown = compare(audit(engine, "leaky", fewer), audit(engine, "leaky", sets))
    assert (grown.counts[Change.NEW], grown.counts[Change.SAME], grown.exit_code) == (4, 8, 1)
    clean = compare(audit(engine, "other", fewer), audit(engine, "other", sets))
    assert (clean.counts[Change.NEW], clean.exit_code) == (4, 0)
    shrunk = compare(audit(engine, "leaky", sets), audit(engine, "leaky", fewer))
    assert (shrunk.counts[Change.GONE], shrunk.exit_code) == (4, 3)
    assert "4 snippets of the first report were not asked" in shrunk.obstacles[0]
    unknown = compare(audit(engine, "leaky", fewer), audit(engine, "leaky", sets, b"another"))
    assert (unknown.exit_code, unknown.snippets) == (3, ())
    assert "LORECALL_REPORT_SALT" in unknown.obstacles[0]


def test_what_the_engine_cannot_tell_any_more_is_worse(engine: TinyScorer, sets: Sets) -> None:
    """An error after a verdict proves nothing, so it is not "no worse"; a verdict after an error is."""
    before = audit(engine, "other", sets)
    engine.max_bytes = 5
    after = audit(engine, "other", sets)
    assert (compare(before, after).counts[Change.WORSE], compare(before, after).exit_code) == (12, 1)
    assert compare(after, before).exit_code == 0
    alarmed = compare(before, with_first(before, alarm="the engine contradicts itself"))
    assert (alarmed.exit_code, alarmed.snippets[0].unsure) == (1, "the engine contradicts itself on it")


def test_other_bounds_and_another_base_are_not_comparable(engine: TinyScorer, sets: Sets) -> None:
    """Each is named."""
    before = audit(engine, "leaky", sets)
    engine.engine = replace(engine.engine, base_digest="c" * 64)
    after = audit(engine, "leaky", sets, settings=AuditSettings(bounds=Bounds(bits=30.0)))
    found = compare(before, after)
    assert found.exit_code == 3
    assert found.obstacles == (
        "the base is another in the second report",
        "the bound bits is another in the second report",
    )


def with_first(report: Report, **values: Any) -> Report:
    """The report with fields of its first snippet replaced; None leaves one out."""
    content = report.values()
    del content["seal"]
    entry = content["snippets"][0] | values
    content["snippets"][0] = {
        name: value for name, value in entry.items() if value is not None or name not in values
    }
    return seal(Content.model_validate(content))


def test_another_scheme_or_a_chance_that_is_lost_is_not_comparable(engine: TinyScorer, sets: Sets) -> None:
    """Fewer answers make a smaller chance of the same adapter; a chance that is not known shows nothing."""
    before = audit(engine, "leaky", sets)
    fewer = audit(engine, "leaky", sets, settings=AuditSettings(extraction=SamplingWish(samples=1)))
    assert compare(before, fewer).obstacles == ("the scheme of sampling is another in the second report",)
    lost = compare(before, with_first(before, chance=None))
    assert lost.exit_code == 3
    assert lost.obstacles == ("the chance under sampling of 1 snippets is not known in the second report",)
    assert compare(with_first(before, chance=None), before).exit_code == 0


def test_the_same_words_after_two_histories_are_two_snippets(engine: TinyScorer, sets: Sets) -> None:
    """Matched by hashes, each with its own history."""
    before = audit(engine, "leaky", sets)
    after = with_first(before, history={"hash": "h", "characters": 3})
    content = after.values()
    content["inputs"]["candidates"]["digest"] = "c" * 64
    del content["seal"]
    found = compare(before, seal(Content.model_validate(content)))
    assert (found.counts[Change.NEW], found.counts[Change.GONE]) == (1, 1)


def test_a_new_snippet_that_could_not_be_scored_is_not_comparable(engine: TinyScorer, sets: Sets) -> None:
    """It is neither a leak nor shown to be none."""
    some = replace(sets[Group.CANDIDATES], digest="c" * 64, items=tuple(sets[Group.CANDIDATES].items[:8]))
    before = audit(engine, "other", {**sets, Group.CANDIDATES: some})
    engine.max_bytes = 5
    errors = audit(engine, "other", sets)
    found = compare(before, errors)
    assert "of 4 new snippets nothing can be told" in found.obstacles
    assert found.exit_code == 3


def test_one_file_that_was_cut_in_another_way_is_not_comparable(engine: TinyScorer, sets: Sets) -> None:
    """The same ids of the same file, and other texts: seen by their hashes, or by their lengths."""
    items = tuple(
        replace(item, prefix=item.prefix + item.target[:2], target=item.target[2:])
        for item in sets[Group.CANDIDATES].items
    )
    cut = {**sets, Group.CANDIDATES: replace(sets[Group.CANDIDATES], items=items)}
    before = audit(engine, "other", sets)
    for salt in (b"s", b"another"):
        found = compare(before, audit(engine, "other", cut, salt))
        assert found.obstacles == ("12 snippets of one id have other texts in the second report",)


def test_what_uploaders_sent_is_matched_by_its_own_file(engine: TinyScorer, sets: Sets) -> None:
    """Others under the same ids are new, so a leak among them counts; those of the first are no obstacle."""
    items, clear = sets[Group.CANDIDATES].items, sets[Group.CONTROLS].items
    own = [
        replace(sets[Group.CANDIDATES], digest=digit * 64, items=tuple(
            replace(item, id=f"own/{number}") for number, item in enumerate(some)
        ))
        for digit, some in (("d", clear[:3]), ("e", items[:3]))
    ]  # fmt: skip
    before, after = (
        audit(engine, "leaky", {**sets, Group.OWN_CANDIDATES: one}, s)
        for one, s in zip(own, (b"1", b"2"), strict=True)
    )
    found = compare(before, after)
    assert found.obstacles == ()
    assert "the uploader's own candidates are others" in found.remarks
    assert (found.counts[Change.NEW], found.counts[Change.GONE], found.exit_code) == (3, 3, 1)
    assert compare(before, before).counts[Change.SAME] == 15


def cases(diff: Diff) -> dict[str, dict[str, str]]:
    """{suite: {case: its result}}, and the counts that each suite states are those of its cases."""
    found: dict[str, dict[str, str]] = {}
    for suite in ET.fromstring(render_diff_junit(diff)):  # noqa: S314  our own output
        results = {one.get("name", ""): one[0].tag if len(one) else "passed" for one in suite}
        assert suite.get("tests") == str(len(results))
        for name in ("failure", "error"):
            assert suite.get(f"{name}s") == str(list(results.values()).count(name))
        assert suite.get("skipped") == str(list(results.values()).count("skipped"))
        found[suite.get("name", "")] = results
    return found


def test_what_was_not_decoded_is_said_and_shown_to_be_no_worse_only_by_the_check() -> None:
    """An engine that recites after other words although its scores rule that out: the check finds it."""
    items = tuple(phone(i) for i in range(60))
    known = Memory(tuple(f"{item.prefix}sure, it is {item.target}\n" for item in items))
    engine, sets = TinyScorer({"leaky": known, "clean": memory_of(())}), {Group.CANDIDATES: as_set(items)}
    part = AuditSettings(checked_share=0.2)
    leaky, few = audit(engine, "leaky", sets), audit(engine, "leaky", sets, settings=part)
    clean, clear = audit(engine, "clean", sets), audit(engine, "clean", sets, settings=part)
    said = "not all candidates were decoded: the others are told by their scores alone"
    unsure = compare(leaky, few)
    assert (unsure.exit_code, said in unsure.remarks) == (3, True)
    assert "that the second report did not decode may leak" in unsure.obstacles[0]
    assert (compare(clean, few).exit_code, compare(clean, few).obstacles) == (1, ())
    assert (compare(clean, clear).exit_code, said in compare(clean, clear).remarks) == (0, True)
    assert said not in compare(clean, clean).remarks


def test_another_device_or_template_is_said(engine: TinyScorer, sets: Sets) -> None:
    """They may move scores, and keep nothing from being compared."""
    unstated = audit(engine, "leaky", sets)
    engine.engine = replace(engine.engine, kv_cache_dtype="bfloat16")
    before = audit(engine, "leaky", sets)
    engine.engine = replace(engine.engine, kv_cache_dtype="fp8")
    found = compare(before, audit(engine, "leaky", sets))
    assert (found.exit_code, "the engine's device or dtypes are others" in found.remarks) == (0, True)
    assert "the engine's device or dtypes are others" not in compare(unstated, before).remarks
    content = before.values() | {"adapter": before.adapter.values() | {"chat_template": "d" * 64}}
    del content["seal"]
    found = compare(before, seal(Content.model_validate(content)))
    assert "the adapter's chat template is another" in found.remarks


def test_ci_shows_each_snippet_that_changed(engine: TinyScorer, sets: Sets) -> None:
    """Worse ones and new leaks fail; better ones, and new and clear ones pass; an obstacle is an error."""
    clean, leaky = audit(engine, "other", sets), audit(engine, "leaky", sets)
    worse = cases(compare(clean, leaky))
    assert worse["leaky diff"] == {"comparable": "passed", "no worse": "failure"}
    assert set(worse["leaky candidates"].values()) == {"failure"}
    assert len(worse["leaky candidates"]) == 12
    better = cases(compare(leaky, clean))
    assert better["other diff"] == {"comparable": "passed", "no worse": "passed"}
    assert set(better["other candidates"].values()) == {"passed"}
    assert cases(compare(leaky, leaky)) == {"leaky diff": {"comparable": "passed", "no worse": "passed"}}
    some = replace(sets[Group.CANDIDATES], digest="c" * 64, items=tuple(sets[Group.CANDIDATES].items[:8]))
    fewer = {**sets, Group.CANDIDATES: some}
    grown = cases(compare(audit(engine, "leaky", fewer), leaky))
    assert list(grown["leaky candidates"].values()) == ["failure"] * 4
    clear = cases(compare(audit(engine, "other", fewer), clean))
    assert list(clear["other candidates"].values()) == ["passed"] * 4
    shrunk = cases(compare(leaky, audit(engine, "leaky", fewer)))
    assert shrunk["leaky diff"]["comparable"] == "error"
    assert list(shrunk["leaky candidates"].values()) == ["skipped"] * 4


def test_the_comparison_fits_its_schema(engine: TinyScorer, sets: Sets) -> None:
    """As written, with every kind of change in it; and no field beside those."""
    diff = compare(audit(engine, "other", sets), audit(engine, "leaky", sets))
    validator = jsonschema.Draft202012Validator(json_schema(Diff))
    values = json.loads(diff.to_json())
    validator.validate(values)
    assert values["exit_code"] == 1
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**values, "more": 1})


def test_a_comparison_shows_a_text_only_where_both_reports_do(engine: TinyScorer, sets: Sets) -> None:
    """One side that is redacted keeps the text out of the JSON, the page and the XML."""
    target = sets[Group.CANDIDATES].items[0].target
    hidden, shown = audit(engine, "other", sets), audit(engine, "leaky", sets, show=True)
    both = compare(audit(engine, "other", sets, show=True), shown)
    assert target in both.to_json()
    assert target in render_diff(both)
    for diff in (compare(hidden, shown), compare(shown, hidden)):
        assert target not in diff.to_json() + render_diff(diff) + render_diff_junit(diff)


def test_the_page_of_a_comparison_says_what_changed(engine: TinyScorer, sets: Sets) -> None:
    """One file of the reports' look: the answer, both audits, a row for each snippet that changed."""
    page = render_diff(compare(audit(engine, "other", sets), audit(engine, "leaky", sets)))
    assert "12 snippets are worse than before" in page
    assert page.count('<tbody data-verdict="worse"') == 12
    assert "src=" not in page
    same = audit(engine, "leaky", sets)
    assert "<tbody" not in render_diff(compare(same, same))
    engine.engine = replace(engine.engine, base_digest="c" * 64)
    other = render_diff(compare(same, audit(engine, "leaky", sets)))
    assert "Not comparable: the base is another in the second report" in other
