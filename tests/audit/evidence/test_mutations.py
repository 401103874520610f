"""For every field of a report: changed, and sealed anew without the key, it is caught, or is in a stated list."""

import pathlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lorecall.audit.evidence.entry_checks import check_entry
from lorecall.audit.evidence.verify import check_contents, check_report
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Content, Report
from lorecall.audit.reports.signing import read_public_key, read_signing_key, seal
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.verdicts import Flag, Group, Verdict

from tests.audit.reports.test_signing import make_keys
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]
Path = tuple[str | int, ...]

SIGNATURE_ONLY = {
    # Who was asked, when and with what: nothing else in the report depends on it.
    "tool/version", "started", "seconds", "epsilon_source", "text/salt_id", "settings/seed",
    "adapter/name", "adapter/version", "adapter/rank", "adapter/effective_parameters",
    "engine/engine", "engine/base", "engine/base_digest", "engine/scheme",
    "engine/device", "engine/dtype", "engine/kv_cache_dtype",
    "inputs/candidates/name", "inputs/candidates/digest", "inputs/candidates/bad_lines",
    "inputs/candidates/generated",
    "inputs/controls/name", "inputs/controls/digest", "inputs/controls/bad_lines", "inputs/controls/generated",
    # The texts and their keyed hashes; `--candidates` checks ids and lengths.
    "snippets/*/id", "snippets/*/prefix/hash", "snippets/*/prefix/text", "snippets/*/prefix/characters",
    "snippets/*/target/hash", "snippets/*/target/text", "snippets/*/target/characters",
    "snippets/*/tokens/*/id", "snippets/*/tokens/*/text",
    # Bounds and limits, where the answer is the same under the changed one.
    "gate/policy/allow_unverified", "gate/policy/count_short", "gate/policy/max_membership_fdr",
    "gate/policy/max_near_verbatim", "gate/policy/max_recalled", "gate/policy/max_extractable/count",
    "settings/sampling/left_out", "settings/sampling/temperature", "settings/sampling/top_k", "sequential/batch",
    "settings/sampling/top_p",
    # Numbers of a snippet that leave its verdict as it is.
    "snippets/*/chance", "snippets/*/edit_distance", "snippets/*/min_p_at", "snippets/*/tokens/*/base_p",
    "snippets/*/tokens/*/rank",
}  # fmt: skip
"""What only the signature protects; docs/audit.md says so."""


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value that has no parts, and every list, with its path."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, (*path, name))
    elif isinstance(value, list):
        yield path, value
        for number, one in enumerate(value):
            yield from leaves(one, (*path, number))
    else:
        yield path, value


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 + 0.4 if 0.0 <= value <= 1.0 else value * 1.5 + 1.0
    if isinstance(value, list):
        return value[:-1] if value else ["short"]
    if isinstance(value, str):
        turned = ("1" if value[:1] == "0" else "0") + value[1:]
        return {"certified": "clear", "clear": "certified", "engine": "option"}.get(value, turned)
    return 0.25


def with_change(report: Report, path: Path) -> Report | None:
    """The report with one value changed, sealed anew; None where it fits no schema any more."""
    values: Any = report.values()
    del values["seal"]
    place = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = other(place[path[-1]])
    try:
        return seal(Content.model_validate(values))
    except ValueError:
        return None


def pattern(path: Path) -> str:
    return "/".join("*" if isinstance(step, int) else step for step in path)


def looked_at(path: Path) -> bool:
    """Of the snippets one candidate and one control, of their tokens two: the others are like them."""
    return (
        path[0] != "snippets"
        or len(path) < 2
        or (path[1] in (0, 4) and (len(path) < 4 or path[2] != "tokens" or path[3] in (0, 3)))
    )


def test_what_was_not_decoded_is_caught(engine: TinyScorer, sets: Sets) -> None:
    """Every field that says what was left out, and whether it was drawn as a check."""
    result = run_audit(engine, "other", sets, AuditSettings(checked_share=0.4, seed=1))
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s", show=False))
    assert check_contents(report) == []
    flags = [set(s.flags) & {Flag.NOT_DECODED, Flag.CHECKED} for s in report.snippets]
    assert flags.count({Flag.NOT_DECODED}) > 1 < flags.count({Flag.CHECKED})
    seen = set()
    for path, value in leaves(report.values()):
        named = {"undecoded", "checked_share", "decoded_equal", "decoded_ids_equal"} & set(path)
        if not named and not (path[-1] == "edit_distance" and value is None):
            continue
        changed = with_change(report, path)
        assert changed is None or check_contents(changed), path
        seen.add(path[-1])
    assert seen >= {"left_out", "checked", "found", "at_most", "checked_share", "edit_distance"}


def test_a_memorised_candidate_cannot_be_passed_off_as_not_decoded(engine: TinyScorer, sets: Sets) -> None:
    """Its own probabilities say that the decode mattered."""
    result = run_audit(engine, "leaky", sets, AuditSettings(checked_share=0.0))
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s", show=False))
    hidden = {
        "flags": (Flag.NOT_DECODED,),
        "verdict": Verdict.CLEAR,
        "views": ({"view": "raw", "verdict": "clear", "min_p": report.snippets[0].min_p},),
        **dict.fromkeys(("decoded_equal", "decoded_ids_equal", "edit_distance")),
    }
    forged = report.snippets[0].model_validate({**dict(report.snippets[0]), **hidden})
    why = "its scores do not rule out that decoding matters, and it was not decoded"
    assert why in list(check_entry(report, forged))


def test_every_field_is_caught_or_listed(engine: TinyScorer, sets: Sets, tmp_path: pathlib.Path) -> None:
    """And what is listed is really caught by the signature alone: a shorter list would be possible otherwise."""
    private, public = make_keys(tmp_path)
    key = read_public_key(public)
    some = {group: replace(one, items=one.items[:4]) for group, one in sets.items()}
    missed = set()
    for show in (False, True):
        result = run_audit(engine, "leaky", some, AuditSettings(until_bound=0.5, chunk=2))
        content = build_report(
            result, judge_result(result, Policy()), Policy(), Redactor(b"s", show), engine.token_texts
        )
        report = seal(content, read_signing_key(private))
        assert check_report(report, key).problems == ()
        for path, _ in leaves({name: one for name, one in report.values().items() if name != "seal"}):
            changed = with_change(report, path) if path and looked_at(path) else None
            if changed is None or check_contents(changed):
                continue
            missed.add(pattern(path))
            forged = changed.seal.model_copy(update={"envelope": report.seal.envelope})
            moved = changed.model_copy(update={"seal": forged})
            assert check_report(moved, key).problems == ("the signed statement is about another report",)
            assert check_report(changed, key).problems == ("the report is not signed",)
    assert sorted(missed - SIGNATURE_ONLY) == []
    assert sorted(SIGNATURE_ONLY - missed) == []
