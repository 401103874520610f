"""What stops a run before any request is sent, and to whom the requests go."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lorecall.loadtest import run as runs
from lorecall.loadtest.background import plan
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.run import RunOptions, load_adapters, run
from lorecall.loadtest.scenario import Adapters, Churn, Flood, Scenario, Traffic
from lorecall.loadtest.target import Target
from lorecall.loadtest.traffic import Served

TRAFFIC = Traffic(requests=1, input_tokens=1, output_tokens=1, concurrency=1)


def test_a_server_with_enough_adapters_needs_no_directories(target: Target) -> None:
    """Without directories the traffic goes to what the server serves."""
    assert load_adapters(Scenario("one", "", Adapters(1), TRAFFIC), target, ()) == ["a"]


def test_too_few_adapters_are_named(target: Target) -> None:
    """A scenario is never run on fewer adapters than it says."""
    with pytest.raises(LoadtestError, match=r"asks for 2 adapters, .* serves 1"):
        load_adapters(Scenario("two", "", Adapters(2), TRAFFIC), target, ())


def test_a_directory_that_the_server_does_not_load_is_named(target: Target) -> None:
    """The server's own words are in the error."""
    with pytest.raises(LoadtestError, match=r"does not load /nowhere"):
        load_adapters(Scenario("one", "", Adapters(1), TRAFFIC), target, [Path("/nowhere")])


def test_churn_without_directories_is_refused(target: Target) -> None:
    """There would be nothing to add."""
    scenario = Scenario("churn", "", Adapters(1), TRAFFIC, churn=Churn())
    with pytest.raises(LoadtestError, match="no directory"):
        plan(scenario, target, ["a"], ())


def test_the_traffic_leaves_the_flooded_adapter_out(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured is what the flood does to the others."""
    target.adapters = ["a", "b", "c"]
    asked: list[str] = []

    def send(_traffic: Traffic, models: Sequence[str], *_: Any) -> Served:
        asked.extend(models)
        return Served({}, 0.0, 1.0, ())

    monkeypatch.setattr(runs, "send", send)
    monkeypatch.setattr(runs, "background", lambda *_: nullcontext([]))
    traffic = Traffic(requests=20, input_tokens=1, output_tokens=1, concurrency=1, zipf=0)
    run(Scenario("noisy", "", Adapters(3), traffic, flood=Flood()), target, RunOptions(tmp_path))
    assert set(asked) == {"b", "c"}
