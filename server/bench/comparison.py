"""Our server and stock vLLM under the same load test: their rounds, and the page that compares them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.paired import Row, make_row, take_turns
from lorecall.server.bench.report import machine_line

METHOD = (
    "Both servers ran the scenario once uncounted, then once in each of {rounds} rounds, in alternating order,"
    " while the other one was idle. A ratio is ours / stock within a round; the table gives the medians, and the"
    " geometric mean of the ratios with a 95 % percentile bootstrap interval over the rounds. A server is better"
    " where that interval excludes 1."
)


class Measured(Protocol):
    """What one run of a load test found."""

    @property
    def values(self) -> Mapping[str, float]:
        """Metric to value."""

    @property
    def errors(self) -> Sequence[str]:
        """The distinct errors of requests that failed."""


Metrics = Mapping[str, tuple[str, str]]
"""Metric to its text and to "more" or "less", whichever is better; in the order of the tables."""


@dataclass(slots=True)
class Comparison:
    """Every round of both servers.

    Attributes:
        metrics: What is compared.
        rounds: What each round measured, by "ours" and "stock".
        notes: What ended a comparison early, and errors of single requests.
    """

    metrics: Metrics
    rounds: list[dict[str, Measured]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """One row for each metric that both servers have in every round."""
        return [
            make_row(metric, ours, theirs, less_is_better=better == "less")
            for metric, (_, better) in self.metrics.items()
            if (ours := self._column("ours", metric)) and (theirs := self._column("stock", metric))
        ]

    def _column(self, server: str, metric: str) -> list[float]:
        """Return a metric's value in every round, [] if one round lacks it."""
        found = [one[server].values for one in self.rounds]
        return [values[metric] for values in found] if all(metric in values for values in found) else []


def compare_servers(
    rounds: int, metrics: Metrics, ours: Callable[[], Measured], stock: Callable[[], Measured]
) -> Comparison:
    """Run both once uncounted, then both in each round, in alternating order.

    A run that fails ends the comparison; the rounds before it count, and a note says which server failed.

    Args:
        rounds: Counted rounds.
        metrics: What is compared.
        ours: Runs the scenario on our server; raises a LorecallError where it has no result.
        stock: Runs it on the stock one, likewise.
    """
    found = Comparison(metrics)

    def noted(name: str, run: Callable[[], Measured]) -> Callable[[], Measured]:
        done = 0

        def once() -> Measured:
            nonlocal done
            try:
                measured = run()
            except LorecallError as error:
                when = f"in round {done} of {rounds}" if done else "in the uncounted round"
                found.notes.append(f"{name} ended without a result {when}: {error}")
                raise
            done += 1
            errors = [f"{name}: {error}" for error in measured.errors]
            found.notes += [error for error in errors if error not in found.notes]
            return measured

        return once

    try:
        for measured in take_turns(rounds, {"ours": noted("ours", ours), "stock": noted("stock", stock)}):
            found.rounds.append(measured)
    except LorecallError:
        pass  # the note says what happened
    return found


def write_comparison(
    out: Path, scenario: dict[str, Any], found: Comparison, command: str, machine: dict[str, Any]
) -> Path:
    """Write `NAME.json` and `NAME.md` into `out`; return the page.

    Args:
        out: Directory.
        scenario: The load test's scenario as a JSON object.
        found: What was measured.
        command: How it was started.
        machine: What `report.machine` returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    body = {
        "schema_version": 1,
        "machine": machine,
        "command": command,
        "scenario": scenario,
        "rows": [row.as_json() for row in found.rows],
        "notes": found.notes,
    }
    write_whole(out / f"{scenario['name']}.json", json.dumps(body, indent=2) + "\n")
    page = out / f"{scenario['name']}.md"
    write_whole(page, comparison_page(scenario, found, command, machine))
    return page


def comparison_page(
    scenario: dict[str, Any], found: Comparison, command: str, machine: dict[str, Any]
) -> str:
    """Return a comparison as a Markdown page."""
    adapters, traffic = scenario["adapters"], scenario["traffic"]
    lines = [
        f"# Load test `{scenario['name']}` of {machine['date']}",
        "",
        scenario["description"],
        "",
        (
            f"{machine_line(command, machine)} Both served {adapters['count']} adapters of rank"
            f" {adapters['rank']} with {adapters['slots']} slots and `{' '.join(scenario['engine'])}`;"
            f" {traffic['requests']} requests of {traffic['input_tokens']} tokens in,"
            f" {traffic['output_tokens']} out, {traffic['concurrency']} at a time."
        ),
        "",
        METHOD.format(rounds=len(found.rounds)),
        "",
        "| what | ours | stock vLLM | ratio | 95 % interval | better |",
        "|---|---|---|---|---|---|",
        *(
            "| " + " | ".join((found.metrics[row.metric][0], *row.cells(), row.winner)) + " |"
            for row in found.rows
        ),
    ]
    if not found.rows:
        lines[-2:] = ["No round was completed by both servers."]
    if found.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"
