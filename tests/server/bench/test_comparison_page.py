"""The page and the JSON of a comparison say everything that was found."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorecall.loadtest.run import METRICS, Measurement
from lorecall.loadtest.scenario import Adapters, Scenario, Traffic
from lorecall.server.bench.comparison import Comparison, write_comparison

MACHINE: dict[str, Any] = {
    "date": "2026-01-02",
    "cpu": "a CPU",
    "cores": 2,
    "gpu": "",
    "versions": {"vllm": "0.32.0"},
}
SCENARIO = Scenario("mine", "What it is.", Adapters(1), Traffic(1, 1, 1, 1), engine=("--max-model-len", "64"))


def written(tmp_path: Path, found: Comparison) -> tuple[str, dict[str, Any]]:
    """Write a comparison; return its page and its JSON."""
    page = write_comparison(tmp_path, asdict(SCENARIO), found, "lorecall loadtest compare mine", MACHINE)
    return page.read_text(), json.loads((tmp_path / "mine.json").read_text())


def test_a_row_that_stock_wins_is_kept(tmp_path: Path) -> None:
    """The table names stock where it is better, and the JSON has every round."""
    ours = Measurement({"tokens_per_s": 5.0, "failed": 0}, ())
    stock = Measurement({"tokens_per_s": 10.0, "failed": 0}, ())
    found = Comparison(METRICS, [{"ours": ours, "stock": stock}] * 2)
    page, body = written(tmp_path, found)
    assert "| generated tokens per second | 5 | 10 | 0.500 | 0.500 to 0.500 | stock |" in page
    assert "| requests failed | 0 | 0 |  |  |  |" in page
    assert body["rows"][0]["ours"] == [5, 5]
    assert body["rows"][0]["winner"] == "stock"


def test_machine_versions_command_and_arguments_are_there(tmp_path: Path) -> None:
    """A number can be had again from the page alone; notes say what ended early."""
    page, body = written(tmp_path, Comparison(METRICS, notes=["stock died"]))
    for said in (
        "a CPU, 2 cores, no GPU",
        "vllm 0.32.0",
        "lorecall loadtest compare mine",
        "--max-model-len 64",
    ):
        assert said in page
    assert "No round was completed by both servers." in page
    assert "- stock died" in page
    assert (body["machine"], body["notes"]) == (MACHINE, ["stock died"])
