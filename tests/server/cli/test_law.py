"""`lorecall law` prints constants, errors and predictions, or JSON, and refuses what the law cannot say."""

import json
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import ExtrapolationError
from lorecall.audit.law.forms import LawFitError
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.verdicts import Group
from lorecall.server.cli.law import app
from typer.testing import CliRunner

from tests.audit.conftest import as_set, phone
from tests.audit.tiny_scorer import Memory, TinyScorer

ROOT = Path(__file__).parents[3]
POINTS = str(ROOT / "tests" / "data" / "law-points.csv")
SWEEP = str(ROOT / "docs" / "sweeps" / "phonebook-sft.csv")
RUNNER = CliRunner(env={"COLUMNS": "160"})


def test_json_holds_constants_intervals_and_the_rivals_errors() -> None:
    """The JSON form carries every figure of the fit, each constant inside both its intervals."""
    result = RUNNER.invoke(app, ["fit", SWEEP, "--json", "--draws", "100", "--predict", "8,400"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["cells"], report["resampled"]) == (18, "noise")
    assert list(report["parameters"]) == ["log C", "alpha", "beta", "b"]
    for parameter in report["parameters"].values():
        for kind in ("profile", "bootstrap"):
            assert parameter[kind]["low"] < parameter["value"] < parameter[kind]["high"]
    names = [form["form"] for form in report["forms"]]
    assert names == ["law", "log-linear", "power without b", "power of parameters per token"]
    (at,) = report["predictions"]
    assert (
        at["interval"]["low"]
        < at["mean"]["low"]
        < at["delta_loss"]
        < at["cap"]
        == pytest.approx(3.375, abs=1e-3)
    )


def test_the_table_says_how_well_each_form_predicts() -> None:
    """A person reads the constants, R², the cells at the cap, and the errors of the law and its rivals."""
    result = RUNNER.invoke(app, ["fit", POINTS, "--cap", "12.1", "--draws", "100", "--predict", "8,4000"])
    assert result.exit_code == 0, result.output
    assert "on 59 cells, 3 of them saturated and 2 at the cap" in result.stdout
    assert "power of parameters per token" in result.stdout
    assert "a rank left out" in result.stdout
    assert "of a new measurement" in result.stdout


@pytest.mark.parametrize("pair", ["8", "8,x", "1,2,3"])
def test_a_prediction_that_is_no_pair_is_refused(pair: str) -> None:
    """The option's value stands in the error."""
    result = RUNNER.invoke(app, ["fit", POINTS, "--predict", pair])
    assert isinstance(result.exception, UsageError)
    assert repr(pair) in str(result.exception)


def test_a_prediction_outside_the_grid_is_refused() -> None:
    """The command does not extrapolate either."""
    result = RUNNER.invoke(app, ["fit", POINTS, "--draws", "100", "--predict", "128,4000"])
    assert isinstance(result.exception, ExtrapolationError)


def test_a_gain_over_the_given_cap_is_refused() -> None:
    """A cap that cells exceed is no cap."""
    result = RUNNER.invoke(app, ["fit", POINTS, "--cap", "11"])
    assert isinstance(result.exception, UsageError)


def write_report(folder: Path, rank: int, missed: int) -> str:
    """Audit an adapter that holds all but the first tokens of some lines, and return its report's path."""
    items = [phone(index) for index in range(12)]
    texts = tuple(item.prefix + item.target for item in items)
    weak = dict.fromkeys(range(missed), 0.1)
    memory = Memory(texts, 0.97, weak, len(items[0].prefix))
    scorer = TinyScorer({"a": memory}, ranks={"a": rank})
    result = run_audit(scorer, "a", {Group.CANDIDATES: as_set(tuple(items))}, AuditSettings())
    gate = judge_result(result, Policy())
    report = build_report(result, gate, Policy(), Redactor(b"salt", show=False), scorer.token_texts)
    path = folder / f"r{rank}.json"
    path.write_text(report.to_json(), "utf-8")
    return str(path)


def test_recall_is_predicted_from_reports(tmp_path: Path) -> None:
    """Reports without texts are enough; a rank outside them is refused, and so are two ranks."""
    sizes = {2: 9, 4: 8, 8: 6, 16: 3}
    reports = [write_report(tmp_path, rank, missed) for rank, missed in sizes.items()]
    result = RUNNER.invoke(app, ["recall", *reports, "--rank", "6", "--draws", "100", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    shares = [row["tokens"] for row in found["ranks"]]
    assert shares == sorted(shares)
    assert shares[0] < found["predictions"][0]["tokens"] < shares[-1]
    assert [line["id"] for line in found["smallest_ranks"]] == [phone(index).id for index in range(12)]
    table = RUNNER.invoke(app, ["recall", *reports, "--rank", "6", "--draws", "100"])
    assert table.exit_code == 0, table.output
    assert "measured, and predicted from the other ranks" in table.stdout
    outside = RUNNER.invoke(app, ["recall", *reports, "--rank", "32", "--draws", "100"])
    assert isinstance(outside.exception, ExtrapolationError)
    assert isinstance(RUNNER.invoke(app, ["recall", *reports[:2]]).exception, LawFitError)
