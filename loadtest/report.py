"""Results as JSON and Markdown: scenario, machine, command, every round."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorecall.loadtest.compare import METRICS, Comparison, Row
from lorecall.loadtest.run import Measurement
from lorecall.loadtest.scenario import Scenario

METHOD = (
    "Both servers ran the scenario once uncounted, then once in each of {rounds} rounds, in alternating order,"
    " while the other one was idle. A ratio is ours / stock within a round; the table gives the medians, and the"
    " geometric mean of the ratios with a 95 % percentile bootstrap interval over the rounds. A server is better"
    " where that interval excludes 1."
)


def run_body(scenario: Scenario, measurement: Measurement) -> dict[str, Any]:
    """Return one run as a JSON object."""
    return {
        "schema_version": 1,
        "scenario": dataclasses.asdict(scenario),
        "values": measurement.values,
        "errors": list(measurement.errors),
    }


def run_table(measurement: Measurement) -> list[tuple[str, str]]:
    """Return (what, value) of one run, in the tables' order."""
    return [
        (text, _number(measurement.values[metric]))
        for metric, (text, _) in METRICS.items()
        if metric in measurement.values
    ]


def comparison_body(
    scenario: Scenario, found: Comparison, command: str, machine: dict[str, Any]
) -> dict[str, Any]:
    """Return a comparison as a JSON object."""
    return {
        "schema_version": 1,
        "machine": machine,
        "command": command,
        "scenario": dataclasses.asdict(scenario),
        "rows": [{**dataclasses.asdict(row), "winner": row.winner} for row in found.rows],
        "notes": found.notes,
    }


def comparison_page(scenario: Scenario, found: Comparison, command: str, machine: dict[str, Any]) -> str:
    """Return a comparison as a Markdown page."""
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}"
    lines = [
        f"# Load test `{scenario.name}` of {machine['date']}",
        "",
        scenario.description,
        "",
        (
            f"`{command}` on {hardware}; {versions}. Both served {scenario.adapters.count} adapters of rank"
            f" {scenario.adapters.rank} with {scenario.adapters.slots} slots and `{' '.join(scenario.engine)}`;"
            f" {scenario.traffic.requests} requests of {scenario.traffic.input_tokens} tokens in,"
            f" {scenario.traffic.output_tokens} out, {scenario.traffic.concurrency} at a time."
        ),
        "",
        METHOD.format(rounds=len(found.ours)),
        "",
        "| what | ours | stock vLLM | ratio | 95 % interval | better |",
        "|---|---|---|---|---|---|",
        *(_cells(row) for row in found.rows),
    ]
    if not found.rows:
        lines[-2:] = ["No round was completed by both servers."]
    if found.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def write_comparison(
    out: Path, scenario: Scenario, found: Comparison, command: str, machine: dict[str, Any]
) -> Path:
    """Write `NAME.json` and `NAME.md` into `out`; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    body = comparison_body(scenario, found, command, machine)
    (out / f"{scenario.name}.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    page = out / f"{scenario.name}.md"
    page.write_text(comparison_page(scenario, found, command, machine), encoding="utf-8")
    return page


def _cells(row: Row) -> str:
    if row.ratio is None or row.low is None or row.high is None:
        ratio, interval = "", ""
    else:
        ratio, interval = f"{row.ratio:.3f}", f"{row.low:.3f} to {row.high:.3f}"
    cells = (METRICS[row.metric][0], _middle(row.ours), _middle(row.theirs), ratio, interval, row.winner)
    return "| " + " | ".join(cells) + " |"


def _middle(values: Sequence[float]) -> str:
    return _number(statistics.median(values))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
