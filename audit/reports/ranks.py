"""Capacity against recall as one JSON file and one HTML file, over several deployed adapters."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from lorecall.audit.judging.rule import threshold
from lorecall.audit.records import AuditResult, Group
from lorecall.audit.reports.build import Report
from lorecall.audit.reports.charts import staircase
from lorecall.audit.reports.html import render
from lorecall.audit.reports.schemas import check
from lorecall.audit.runs.ranks import LineStep, RanksResult

SCHEMA_VERSION = "1.0"


def ranks_report(ranks: RanksResult) -> Report:
    """Return the result as JSON values, checked against ranks.schema.json."""
    first = ranks.results[0]
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "lorecall", "version": version("lorecall")},
        "started": first.started,
        "engine": asdict(first.engine),
        "epsilon": first.epsilon.value,
        "threshold": threshold(first.epsilon.value),
        "inputs": {str(group): asdict(source) for group, source in first.sources.items()},
        "adapters": [
            {**asdict(row), "version": versions[row.adapter], "controls": controls[row.adapter]}
            for versions, controls in [_by_name(ranks.results)]
            for row in ranks.rows
        ],
        "line": [
            {
                "label": step.label,
                "rank": step.rank,
                "over_half": step.over_half,
                "tokens": _line_tokens(step, ranks.line_texts),
            }
            for step in ranks.line
        ],
    }
    check(report, "ranks", "the comparison")
    return report


def _by_name(results: Sequence[AuditResult]) -> tuple[dict[str, str], dict[str, dict[str, object] | None]]:
    versions = {result.adapter.name: result.adapter.version for result in results}
    controls = {
        result.adapter.name: asdict(result.summaries[Group.CONTROLS].recited)
        if Group.CONTROLS in result.summaries
        else None
        for result in results
    }
    return versions, controls


def _line_tokens(step: LineStep, texts: Sequence[str]) -> list[Report]:
    score = step.score
    return [
        {"id": token, "text": text, "p": p, "rank": rank}
        for token, text, p, rank in zip(score.target_ids, texts, score.p, score.rank, strict=True)
    ]


def render_ranks(report: Report) -> str:
    """Return the HTML of a report over the ranks."""
    rows = [
        (
            f"r = {row['rank']}",
            f"{row['effective_parameters']:,} parameters",
            row["tokens_over_half"] / row["tokens"] if row["tokens"] else 0.0,
            (row["certified"] + row["recalled"]) / row["snippets"],
        )
        for row in report["adapters"]
    ]
    return render("ranks.html", report=report, tool_version=report["tool"]["version"], chart=staircase(rows))
