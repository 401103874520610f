"""What stops a run before any request is sent, and to whom the requests go."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lorecall.loadtest import run as runs
from lorecall.loadtest.background import plan
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.run import RunOptions, load_adapters, run, seen_by_adapters
from lorecall.loadtest.scenario import Adapters, Churn, Flood, Scenario, Slo, Traffic
from lorecall.loadtest.target import Target
from lorecall.loadtest.traffic import Sent, Served

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


def test_adapters_within_the_slo_are_those_whose_every_request_is() -> None:
    """One slow request, one slow token or one error puts its adapter outside; the base is no adapter."""
    good, slow = Sent(90.0, 10.0), Sent(110.0, 10.0)
    sent = {
        "a": [good, good],
        "b": [good, slow],
        "c": [Sent(90.0, 11.0)],
        "d": [Sent(None, None)],
        "base": [slow],
    }
    models = [name for name, requests in sent.items() for _ in requests]
    scenario = Scenario("slo", "", Adapters(4), TRAFFIC, slo=Slo(100.0, 10.0))
    requests = [one for requests in sent.values() for one in requests]
    found = seen_by_adapters(scenario, models, "base", requests)
    assert (found["adapters_asked"], found["adapters_within_slo"]) == (4, 1)
    assert found["requests_within_slo"] == pytest.approx(3 / 6)
    assert "adapters_within_slo" not in seen_by_adapters(
        Scenario("none", "", Adapters(4), TRAFFIC), models, "base", requests
    )


def test_a_cold_load_is_what_the_slots_cannot_hold() -> None:
    """First requests, and those after which as many others came as there are slots; failed ones have no time."""
    models = ["a", "a", "b", "c", "a", "base", "c", "c"]
    times = [500.0, 10.0, 600.0, 700.0, 800.0, 1.0, 20.0, None]
    scenario = Scenario("cold", "", Adapters(3, slots=2), TRAFFIC)
    found = seen_by_adapters(scenario, models, "base", [Sent(one, 0.0) for one in times])
    assert found["hit_ttft_p50_ms"] == 15.0
    assert found["cold_ttft_p50_ms"] == 650.0
    assert found["cold_ttft_p99_ms"] == pytest.approx(797.0)


def test_few_adapters_get_the_traffic_of_many(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for by their own names, the base as often, and none is loaded or looked for."""
    asked: list[str] = []

    def send(_traffic: Traffic, models: Sequence[str], *_: Any) -> Served:
        asked.extend(models)
        return Served({}, 0.0, 1.0, ())

    monkeypatch.setattr(runs, "send", send)
    traffic = Traffic(
        requests=40, input_tokens=1, output_tokens=1, concurrency=1, mix="uniform", base_share=0.3
    )
    options = RunOptions(tmp_path, served=["x", "y", "z"], instead_of=[f"many-{n}" for n in range(30)])
    run(Scenario("few", "", Adapters(30, slots=2), traffic), target, options)
    assert set(asked) == {"x", "y", "z", "base"}
    assert 4 <= asked.count("base") <= 20
