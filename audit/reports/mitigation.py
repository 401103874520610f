"""Recall against dose as one JSON file and one HTML file, over weaker copies of one adapter."""

from typing import Annotated, Literal

from lorecall.adapters.derive.weaken import Kind
from lorecall.audit.judging.rule import threshold
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.reports.charts import dose_chart
from lorecall.audit.reports.html import render
from lorecall.audit.reports.models import (
    SCHEMA_VERSION,
    Amount,
    Confidence,
    Count,
    DeltaLoss,
    Epsilon,
    Inputs,
    MeasuredEngine,
    Parameters,
    Positive,
    RateAt,
    ReportModel,
    Source,
    Started,
    Threshold,
    Tool,
    VerdictCounts,
    Version,
)
from lorecall.audit.runs.mitigation import DoseResponse, Point
from lorecall.audit.verdicts import Group
from pydantic import ConfigDict, Field, StrictBool


class WholeAdapter(ReportModel):
    """The adapter as it was given."""

    name: str
    version: Version
    rank: Count
    effective_parameters: Parameters


class MitigationInputs(Inputs):
    """The sets, and the text that should cost no more than before."""

    retained: Source


class DoseRow(ReportModel):
    """One weaker copy: what it recites and what it costs."""

    kind: Kind
    value: Positive
    """The factor on the update, or the rank that it was cut to."""
    label: str
    """Name of the copy's folder."""
    version: Version
    rank: Count
    effective_parameters: Parameters
    energy: Amount
    """Share of the squared Frobenius norm of the updates that is left."""
    snippets: Count
    verdicts: VerdictCounts
    tokens: Count
    tokens_over_half: Count
    delta_loss: DeltaLoss
    recited: RateAt
    controls: RateAt | None
    perplexity: Positive
    perplexity_over_base: Positive
    passed: StrictBool
    reasons: tuple[str, ...]


class LargestPassing(ReportModel):
    """The largest dose that passes the policy, as does every smaller one asked for; null if none does."""

    scale: Amount | None
    rank: Amount | None


class MitigationReport(ReportModel):
    """Recall of the candidates and perplexity of a retained text, through weaker copies of one adapter."""

    model_config = ConfigDict(title="lorecall audit mitigate: dose and response")

    schema_version: Literal["2.0"]
    tool: Tool
    started: Started
    adapter: WholeAdapter
    engine: MeasuredEngine
    epsilon: Epsilon
    threshold: Threshold
    confidence: Confidence
    inputs: MitigationInputs
    policy: Policy
    base_perplexity: Positive
    """Perplexity of the retained text through the base."""
    retained_tokens: Annotated[int, Field(strict=True, ge=1)]
    """Tokens of the retained text that were scored."""
    doses: Annotated[tuple[DoseRow, ...], Field(min_length=1)]
    largest_passing: LargestPassing
    exit_code: ExitCode


def mitigation_report(response: DoseResponse) -> MitigationReport:
    """Return the report of a dose-response."""
    first, retained, parent = response.points[0].result, response.trial.retained, response.parent
    return MitigationReport(
        schema_version=SCHEMA_VERSION,
        tool=Tool.here(),
        started=first.started,
        adapter=WholeAdapter(
            name=parent.path.resolve().name,
            version=parent.version,
            rank=parent.rank,
            effective_parameters=parent.effective_parameters,
        ),
        engine=MeasuredEngine.model_validate(first.engine),
        epsilon=first.epsilon.value,
        threshold=threshold(first.epsilon.value),
        confidence=first.confidence,
        inputs=MitigationInputs.model_validate({**first.sources, "retained": retained.source}),
        policy=response.trial.policy,
        base_perplexity=response.base.value,
        retained_tokens=response.base.tokens,
        doses=tuple(_dose(point, response.base.value) for point in response.points),
        largest_passing=LargestPassing.model_validate(
            {kind: response.largest_passing(kind) for kind in Kind}
        ),
        exit_code=response.exit_code,
    )


def _dose(point: Point, base_perplexity: float) -> DoseRow:
    adapter, summary = point.result.adapter, point.result.summaries[Group.CANDIDATES]
    controls = point.result.summaries.get(Group.CONTROLS)
    return DoseRow(
        kind=point.dose.kind,
        value=point.dose.value,
        label=point.dose.label,
        version=adapter.version,
        rank=adapter.rank,
        effective_parameters=adapter.effective_parameters,
        energy=point.derived.energy,
        snippets=summary.snippets,
        verdicts=summary.verdicts,
        tokens=summary.tokens,
        tokens_over_half=summary.tokens_over_half,
        delta_loss=summary.delta_loss,
        recited=RateAt.model_validate(summary.recited),
        controls=None if controls is None else RateAt.model_validate(controls.recited),
        perplexity=point.retained.value,
        perplexity_over_base=point.retained.value / base_perplexity,
        passed=point.gate.passed,
        reasons=point.gate.reasons,
    )


def render_mitigation(report: MitigationReport) -> str:
    """Return the HTML of a dose-response: one chart for each kind, and the table."""
    charts = []
    for kind in Kind:
        rows = [
            (
                f"{dose.value:g}",
                dose.recited.hits / dose.recited.of if dose.recited.of else 0.0,
                dose.tokens_over_half / dose.tokens if dose.tokens else 0.0,
                dose.perplexity_over_base,
            )
            for dose in report.doses
            if dose.kind is kind
        ]
        if rows:
            charts.append((str(kind), dose_chart(rows)))
    return render("mitigation.html", report, charts=charts)
