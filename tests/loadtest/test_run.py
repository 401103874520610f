"""What stops a run before any request is sent."""

from pathlib import Path

import pytest
from lorecall.loadtest.background import plan
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.run import load_adapters
from lorecall.loadtest.scenario import Adapters, Churn, Scenario, Traffic
from lorecall.loadtest.target import Target

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
