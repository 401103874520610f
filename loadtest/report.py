"""One run's result as JSON and as a table."""

import dataclasses
from typing import Any

from lorecall.loadtest.run import METRICS, Measurement
from lorecall.loadtest.scenario import Scenario


def run_body(scenario: Scenario, measurement: Measurement) -> dict[str, Any]:
    """Return one run as a JSON object."""
    return {
        "schema_version": 1,
        "scenario": dataclasses.asdict(scenario),
        "values": measurement.values,
        "errors": list(measurement.errors),
    }


def run_table(measurement: Measurement) -> list[tuple[str, float]]:
    """Return (what, value) of one run, in the tables' order."""
    return [
        (text, measurement.values[metric])
        for metric, (text, _) in METRICS.items()
        if metric in measurement.values
    ]
