"""Capacity against recall as one JSON file and one HTML file, over several deployed adapters."""

from collections.abc import Sequence
from typing import Annotated, Literal

from lorecall.audit.judging.rule import threshold
from lorecall.audit.reports.charts import staircase
from lorecall.audit.reports.html import render
from lorecall.audit.reports.models import (
    SCHEMA_VERSION,
    Count,
    DeltaLoss,
    Epsilon,
    Inputs,
    MeasuredEngine,
    Parameters,
    RateAt,
    ReportModel,
    Share,
    Started,
    Threshold,
    Tool,
    Version,
)
from lorecall.audit.runs.ranks import LineStep, RanksResult
from pydantic import ConfigDict, Field


class RankedAdapter(ReportModel):
    """What one adapter of one rank holds of the candidates."""

    adapter: str
    rank: Count
    effective_parameters: Parameters
    tokens: Count
    tokens_over_half: Count
    """Target tokens with p > 0.5."""
    snippets: Count
    """Candidates, the failed ones included."""
    certified: Count
    recalled: Count
    """Recalled by decoding only."""
    base_known: Count
    delta_loss: DeltaLoss
    version: Version
    controls: RateAt | None


class LineToken(ReportModel):
    """One target token of the line."""

    id: Count
    text: str
    p: Share
    rank: Annotated[int, Field(strict=True, ge=1)]


class LineOfModel(ReportModel):
    """The line's target tokens through one model."""

    label: str
    """The adapter's name, or "base"."""
    rank: Count
    """0 for the base."""
    over_half: Count
    tokens: tuple[LineToken, ...]


class RanksReport(ReportModel):
    """Several deployed adapters on the same candidates."""

    model_config = ConfigDict(title="lorecall audit ranks: capacity against recall")

    schema_version: Literal["2.0"]
    tool: Tool
    started: Started
    engine: MeasuredEngine
    epsilon: Epsilon
    threshold: Threshold
    inputs: Inputs
    adapters: Annotated[tuple[RankedAdapter, ...], Field(min_length=1)]
    line: tuple[LineOfModel, ...]


def ranks_report(ranks: RanksResult) -> RanksReport:
    """Return the report of a comparison over the ranks."""
    first = ranks.results[0]
    return RanksReport(
        schema_version=SCHEMA_VERSION,
        tool=Tool.here(),
        started=first.started,
        engine=MeasuredEngine.model_validate(first.engine),
        epsilon=first.epsilon.value,
        threshold=threshold(first.epsilon.value),
        inputs=Inputs.model_validate(first.sources),
        adapters=tuple(RankedAdapter.model_validate(row) for row in ranks.rows),
        line=tuple(_line(step, ranks.line_texts) for step in ranks.line),
    )


def _line(step: LineStep, texts: Sequence[str]) -> LineOfModel:
    score = step.score
    columns = zip(score.target_ids, texts, score.p, score.rank, strict=True)
    tokens = tuple(LineToken(id=token, text=text, p=p, rank=rank) for token, text, p, rank in columns)
    return LineOfModel(label=step.label, rank=step.rank, over_half=step.over_half, tokens=tokens)


def render_ranks(report: RanksReport) -> str:
    """Return the HTML of a comparison over the ranks."""
    rows = [
        (
            f"r = {row.rank}",
            f"{row.effective_parameters:,} parameters",
            row.tokens_over_half / row.tokens if row.tokens else 0.0,
            (row.certified + row.recalled) / row.snippets,
        )
        for row in report.adapters
    ]
    return render("ranks.html", report, chart=staircase(rows))
