"""Scenario files: the shipped ones can be read, and a wrong one is refused by what is wrong in it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lorecall.loadtest.errors import ScenarioError
from lorecall.loadtest.scenario import load_scenario, parse_scenario, shipped

GOOD: dict[str, Any] = {
    "name": "mine",
    "description": "a  folded\ntext",
    "adapters": {"count": 2},
    "traffic": {"requests": 4, "input_tokens": 8, "output_tokens": 8, "concurrency": 2},
}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_can_be_read_by_its_name(name: str) -> None:
    """Each fits the schema and is called what its file is called."""
    assert load_scenario(name).name == name


def test_the_shipped_scenarios_are_those_of_the_mission() -> None:
    """Zipf over more adapters than slots, churn, an audit in the background, and a neighbour who takes all."""
    names = ("zipf", "churn", "background-audit", "noisy-neighbour", "catalogue")
    zipf, churn, audit, noisy, many = (load_scenario(name) for name in names)
    assert zipf.adapters.count > zipf.adapters.slots
    assert zipf.traffic.zipf > 0
    assert churn.churn is not None
    assert audit.audit is not None
    assert noisy.flood is not None
    assert noisy.adapters.count > noisy.adapters.slots
    assert many.catalogue is not None
    assert many.adapters.count == 2000
    assert many.catalogue.beside > many.adapters.slots


def test_what_is_left_out_has_its_default() -> None:
    """A short file is enough; without churn and audit nothing goes on beside the traffic."""
    scenario = parse_scenario(GOOD)
    assert (scenario.churn, scenario.audit, scenario.rounds, scenario.engine) == (None, None, 5, ())
    assert (scenario.traffic.rate, scenario.traffic.base_share) == (None, 0.0)
    assert scenario.description == "a folded text"


def test_a_file_is_read_before_a_shipped_name(tmp_path: Path) -> None:
    """A path that exists is what is meant."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "churn": {"pause_s": 2}}))
    scenario = load_scenario(path)
    assert scenario.churn is not None
    assert scenario.churn.pause_s == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"traffic": {**GOOD["traffic"], "requests": 0}}, "traffic.requests"),
        ({"traffic": {**GOOD["traffic"], "mix": "skewed"}}, "traffic.mix"),
        ({"traffic": {**GOOD["traffic"], "mix": "distinct"}}, "4 distinct requests need as many adapters"),
        ({"slo": {"ttft_ms": 100}}, "slo: 'tpot_ms'"),
        ({"traffic": {**GOOD["traffic"], "base_share": 1.5}}, "traffic.base_share"),
        ({"traffic": {"requests": 1}}, "input_tokens"),
        ({"adapters": {"count": "two"}}, "adapters.count"),
        ({"audit": {"texts": 0}}, "audit.texts"),
        ({"flood": {"burst_s": 0}}, "flood.burst_s"),
        ({"flood": {}, "adapters": {"count": 1}}, "adapters.count"),
        ({"rounds": 1}, "rounds"),
    ],
)
def test_a_wrong_scenario_is_refused_by_its_place(change: dict[str, Any], named: str) -> None:
    """The error names the key that is wrong."""
    with pytest.raises(ScenarioError, match=named):
        parse_scenario({**GOOD, **change})


def test_what_is_no_scenario_file_is_refused(tmp_path: Path) -> None:
    """A missing file names the shipped ones; a file that is no YAML says so; a list is not a scenario."""
    with pytest.raises(ScenarioError) as missing:
        load_scenario("nowhere")
    assert "zipf" in missing.value.hint
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ScenarioError, match=r"broken\.yaml is no YAML"):
        load_scenario(broken)
    broken.write_text("- a")
    with pytest.raises(ScenarioError, match="the top"):
        load_scenario(broken)
