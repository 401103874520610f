"""`lorecall audit verify`, `bundle` and `diff` on files."""

from pathlib import Path

from lorecall.audit.evidence.changes import Change, Diff, render_diff, render_diff_junit
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.seal import seal
from lorecall.audit.reports.signing import read_signing_key
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.server.cli.main import app
from typer.testing import CliRunner

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.reports.test_signing import make_keys
from tests.audit.tiny_scorer import TinyScorer


def call(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *map(str, words)])
    return done.exit_code, done.output


def test_a_report_is_verified_bundled_and_compared(tmp_path: Path) -> None:
    """With a key the signature counts, without one it is said to be unchecked; a bundle is read as its report."""
    private, public = make_keys(tmp_path)
    other = make_keys(tmp_path, "other")[1]
    pairs = tuple(phone(i) for i in range(4))
    result = run_audit(
        TinyScorer({"leaky": memory_of(pairs)}), "leaky", {Group.CANDIDATES: as_set(pairs)}, AuditSettings()
    )
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    file, zipped = tmp_path / "report.json", tmp_path / "audit.zip"
    file.write_text(seal(report, read_signing_key(private)).to_json(), "utf-8")
    assert call("bundle", file, "--out", zipped)[0] == 0
    for path in (file, zipped):
        code, said = call("verify", path)
        assert (code, "signature not checked" in said, "the report holds" in said) == (0, True, True)
        code, said = call("verify", path, "--key", public)
        assert (code, "signature not checked" in said) == (0, False)
        assert call("verify", path, "--key", other)[0] == 1
    assert call("diff", file, zipped)[0] == 0
    file.write_text(report.to_json(), "utf-8")
    code, said = call("verify", file, "--key", public)
    assert (code, "the report is not signed" in said) == (1, True)
    file.write_text(
        file.read_text(encoding="utf-8").replace('"passed": false', '"passed": true'), encoding="utf-8"
    )
    for words in (("diff", file, zipped), ("bundle", file, "--out", zipped)):
        assert call(*words)[0] != 0


def test_a_comparison_is_written_in_each_format(tmp_path: Path) -> None:
    """JSON, the page and JUnit XML; the exit code is the answer; an unknown format is refused."""
    pairs = tuple(phone(i) for i in range(4))
    engine = TinyScorer({"leaky": memory_of(pairs), "clean": memory_of((phone(9),))})
    for name in ("leaky", "clean"):
        result = run_audit(engine, name, {Group.CANDIDATES: as_set(pairs)}, AuditSettings())
        made = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
        (tmp_path / f"{name}.json").write_text(made.to_json(), "utf-8")
    clean, leaky, out = tmp_path / "clean.json", tmp_path / "leaky.json", tmp_path / "out"
    code, said = call("diff", clean, leaky, "--out", out)
    assert (
        code,
        f"wrote {out / 'diff.xml'}" in said,
        f"worse: {pairs[0].id}: clear, then certified" in said,
    ) == (
        1,
        True,
        True,
    )
    written = Diff.model_validate_json((out / "diff.json").read_text("utf-8"))
    assert written.counts[Change.WORSE] == 4
    assert (out / "diff.xml").read_text("utf-8") == render_diff_junit(written)
    assert (out / "diff.html").read_text("utf-8") == render_diff(written)
    assert call("diff", leaky, clean, "--out", tmp_path / "one", "--format", "junit")[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["diff.xml"]
    assert call("diff", leaky, clean, "--format", "pdf")[0] != 0
