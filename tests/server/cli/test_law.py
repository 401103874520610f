"""`lorecall law fit` prints the constants, or JSON, and refuses what the law cannot say."""

import json
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import ExtrapolationError
from lorecall.server.cli.law import app
from typer.testing import CliRunner

POINTS = str(Path(__file__).parents[2] / "data" / "law-points.csv")
RUNNER = CliRunner()


def test_json_holds_constants_intervals_and_what_was_dropped() -> None:
    """The JSON form carries every figure of the fit, each constant inside its interval."""
    result = RUNNER.invoke(
        app, ["fit", POINTS, "--max-delta", "11.45", "--json", "--draws", "100", "--predict", "8,4000"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["cells"], report["dropped"], report["max_delta"]) == (54, 5, 11.45)
    assert set(report["parameters"]) == {"C", "alpha", "beta", "b"}
    for parameter in report["parameters"].values():
        assert parameter["low"] < parameter["value"] < parameter["high"]
    assert report["predictions"][0]["delta_loss"] == pytest.approx(8.63, abs=0.3)


def test_the_table_says_how_many_cells_were_dropped() -> None:
    """A person reads the constants, R², the dropped cells and the range in which they hold."""
    result = RUNNER.invoke(app, ["fit", POINTS, "--max-delta", "11.45", "--draws", "100"])
    assert result.exit_code == 0, result.output
    assert "0.6966" in result.stdout
    assert "R² 0.9978 on 54 cells; 5 dropped (deltaL > 11.45)" in result.stdout
    assert "rank 1 to 24" in result.stdout


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
