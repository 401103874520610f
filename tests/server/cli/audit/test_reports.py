"""`lorecall audit verify`, `bundle` and `diff` on files."""

from pathlib import Path

from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report, write_json
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
    write_json(seal(report, read_signing_key(private)), file)
    assert call("bundle", file, "--out", zipped)[0] == 0
    for path in (file, zipped):
        code, said = call("verify", path)
        assert (code, "signature not checked" in said, "the report holds" in said) == (0, True, True)
        code, said = call("verify", path, "--key", public)
        assert (code, "signature not checked" in said) == (0, False)
        assert call("verify", path, "--key", other)[0] == 1
    assert call("diff", file, zipped)[0] == 0
    write_json(report, file)
    code, said = call("verify", file, "--key", public)
    assert (code, "the report is not signed" in said) == (1, True)
    file.write_text(
        file.read_text(encoding="utf-8").replace('"passed": false', '"passed": true'), encoding="utf-8"
    )
    for words in (("diff", file, zipped), ("bundle", file, "--out", zipped)):
        assert call(*words)[0] != 0
