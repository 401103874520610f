"""A bundle of one report: the same bytes each time, held against its report, and hostile ones refused."""

import json
import zipfile
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.evidence import bundle
from lorecall.audit.evidence.bundle import is_bundle, read_bundle, scope, write_bundle
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.models import Tool
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.seal import seal
from lorecall.audit.reports.signing import read_signing_key
from lorecall.audit.runs.single import AuditSettings, run_audit

from tests.audit.reports.test_signing import make_keys
from tests.audit.tiny_scorer import TinyScorer


@pytest.fixture
def report(engine: TinyScorer, sets: dict[Group, CandidateSet], tmp_path: Path) -> Report:
    result = run_audit(engine, "leaky", sets, AuditSettings())
    content = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    return seal(content, read_signing_key(make_keys(tmp_path)[0]))


def test_one_report_gives_one_bundle(report: Report, tmp_path: Path) -> None:
    """Byte for byte; read back it is the report, the envelope lies beside it as a file of its own."""
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    for path in (first, second):
        write_bundle(report, path)
    assert first.read_bytes() == second.read_bytes()
    assert is_bundle(first)
    assert read_bundle(first) == (report, [], [])
    with zipfile.ZipFile(first) as archive:
        assert report.seal.envelope is not None
        assert json.loads(archive.read("attestation.dsse.json")) == report.seal.envelope.values()
        subjects = json.loads(archive.read("manifest.json"))["subjects"]
        assert [one["name"] for one in subjects] == [
            "adapter:leaky",
            "base:tiny-base",
            "candidates:pairs.jsonl",
        ]
        assert b"says nothing of texts that were not asked for" in archive.read("scope.txt")


def rewritten(path: Path, **changes: bytes | None) -> None:
    """The zip with members replaced or left out."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**kept, **changes}.items():
            if content is not None:
                archive.writestr(name, content)


def test_what_does_not_follow_from_the_report_is_named(report: Report, tmp_path: Path) -> None:
    """A milder page, another policy, or a scope left out."""
    path = tmp_path / "a.zip"
    write_bundle(report, path)
    rewritten(path, **{"report.html": b"clean", "policy.json": b"{}", "scope.txt": None})
    assert read_bundle(path)[1] == [
        "the bundle lacks scope.txt",
        "the bundle's policy.json is not what follows from the report",
        "the bundle's report.html is not what follows from the report",
    ]


def test_pages_of_another_release_are_said_to_be_unchecked(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes other pages of a report; the policy is the report's whatever the release."""
    path = tmp_path / "a.zip"
    write_bundle(report, path)
    other = Tool(name="lorecall", version="9")
    monkeypatch.setattr(Tool, "here", lambda: other)
    monkeypatch.setattr(bundle, "render_report", lambda _report: "another page")
    _, problems, unchecked = read_bundle(path)
    assert problems == []
    assert len(unchecked) == 2
    rewritten(path, **{"policy.json": b"{}"})
    assert read_bundle(path)[1] == ["the bundle's policy.json is not what follows from the report"]


@pytest.mark.parametrize("name", ["../report.json", "/etc/passwd", "more.txt", "report.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_no_bundle_has_is_refused(report: Report, tmp_path: Path, name: str) -> None:
    """Out of the folder, unknown, or one twice: readers differ in which they take."""
    path = tmp_path / "a.zip"
    write_bundle(report, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, report.to_json())
    with pytest.raises(UsageError, match="none has, or one twice"):
        read_bundle(path)


def test_a_bomb_and_a_damaged_file_are_refused(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it unpacks to is counted while it is read."""
    path = tmp_path / "a.zip"
    write_bundle(report, path)
    whole = path.read_bytes()
    monkeypatch.setattr(bundle, "MAX_BYTES", 1 << 20)
    rewritten(path, **{"report.html": bytes(2 << 20)})
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UsageError, match="unpacks to more than"):
        read_bundle(path)
    path.write_bytes(whole[:200] + b"\0" * 50 + whole[250:])
    with pytest.raises(UsageError, match="is no bundle"):
        read_bundle(path)


def test_the_scope_says_what_of_sampling_was_looked_for_and_what_was_not_asked(
    report: Report, engine: TinyScorer, sets: dict[Group, CandidateSet]
) -> None:
    """The scheme as the report states it, a sequential test's part, and views that could not be asked."""
    said = " ".join(scope(report).split())
    assert "one of 100 sampled answers gives with a chance of 50% or more was looked for" in said
    assert "asked for" not in said.replace("texts that were not asked for", "")
    rules = Policy(max_certified=None, max_recalled=None, max_extractable=None, max_near_verbatim=None)
    stopped = run_audit(engine, "leaky", sets, AuditSettings(until_bound=0.1))
    part = build_report(stopped, judge_result(stopped, rules), rules, Redactor(b"s"))
    assert part.sequential is not None
    assert f"{part.sequential.taken} of 12 candidates were asked for, drawn at random" in scope(part)
    unasked = report.model_copy(
        update={
            "settings": report.settings.model_copy(update={"sampling": None}),
            "summary": report.summary.model_copy(update={"not_asked": {"prefix-5": 3}}),
        }
    )
    assert "3 of them could not be asked as prefix-5." in scope(unasked)
    assert "What sampling at a temperature gives was not looked for." in scope(unasked)
