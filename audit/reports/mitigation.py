"""The dose-response as one JSON file and one HTML file."""

from dataclasses import asdict
from importlib.metadata import version

from lorecall.adapters.derive.weaken import Kind
from lorecall.audit.judging.rule import threshold
from lorecall.audit.records import Group, SetSource
from lorecall.audit.reports.build import Report
from lorecall.audit.reports.charts import dose_chart
from lorecall.audit.reports.html import render
from lorecall.audit.reports.schemas import check
from lorecall.audit.runs.mitigation import DoseResponse, Point

SCHEMA_VERSION = "1.0"


def mitigation_report(response: DoseResponse) -> Report:
    """Return the result as JSON values, checked against mitigation.schema.json."""
    first, retained = response.points[0].result, response.trial.retained
    sources = {**{str(group): source for group, source in first.sources.items()}}
    sources["retained"] = SetSource(retained.name, retained.digest, retained.bad_count, retained.generated)
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "lorecall", "version": version("lorecall")},
        "started": first.started,
        "adapter": {
            "name": response.parent.path.resolve().name,
            "version": response.parent.version,
            "rank": response.parent.rank,
            "effective_parameters": response.parent.effective_parameters,
        },
        "engine": asdict(first.engine),
        "epsilon": first.epsilon.value,
        "threshold": threshold(first.epsilon.value),
        "confidence": first.confidence,
        "inputs": {name: asdict(source) for name, source in sources.items()},
        "policy": response.trial.policy.as_dict(),
        "base_perplexity": response.base.value,
        "retained_tokens": response.base.tokens,
        "doses": [_point(point, response.base.value) for point in response.points],
        "largest_passing": {str(kind): response.largest_passing(kind) for kind in Kind},
        "exit_code": int(response.exit_code),
    }
    check(report, "mitigation", "the dose-response")
    return report


def _point(point: Point, base_perplexity: float) -> Report:
    summary = point.result.summaries[Group.CANDIDATES]
    controls = point.result.summaries.get(Group.CONTROLS)
    return {
        "kind": str(point.dose.kind),
        "value": point.dose.value,
        "label": point.dose.label,
        "version": point.result.adapter.version,
        "rank": point.result.adapter.rank,
        "effective_parameters": point.result.adapter.effective_parameters,
        "energy": point.derived.energy,
        "snippets": summary.snippets,
        "verdicts": {str(verdict): count for verdict, count in summary.verdicts.items()},
        "tokens": summary.tokens,
        "tokens_over_half": summary.tokens_over_half,
        "delta_loss": summary.delta_loss,
        "recited": asdict(summary.recited),
        "controls": None if controls is None else asdict(controls.recited),
        "perplexity": point.retained.value,
        "perplexity_over_base": point.retained.value / base_perplexity,
        "passed": point.gate.passed,
        "reasons": list(point.gate.reasons),
    }


def render_mitigation(report: Report) -> str:
    """Return the HTML of a dose-response: one chart for each kind, and the table."""
    charts = [
        (
            str(kind),
            dose_chart(
                [
                    (
                        f"{dose['value']:g}",
                        dose["recited"]["hits"] / dose["recited"]["of"] if dose["recited"]["of"] else 0.0,
                        dose["tokens_over_half"] / dose["tokens"] if dose["tokens"] else 0.0,
                        dose["perplexity_over_base"],
                    )
                    for dose in report["doses"]
                    if dose["kind"] == kind
                ],
            ),
        )
        for kind in Kind
        if any(dose["kind"] == kind for dose in report["doses"])
    ]
    return render("mitigation.html", report=report, charts=charts, tool_version=report["tool"]["version"])
