"""`lorecall law` prints constants, errors and predictions, or JSON, and refuses what the law cannot say."""

import json
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import ExtrapolationError
from lorecall.server.cli.law import app
from typer.testing import CliRunner

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
