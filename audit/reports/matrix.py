"""The matrix of adapters against candidate sets as one JSON file and one HTML file."""

from typing import Annotated, Literal

from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.reports.html import render
from lorecall.audit.reports.models import (
    SCHEMA_VERSION,
    Confidence,
    Count,
    MeasuredEngine,
    ReportModel,
    Share,
    Started,
    Tool,
    Version,
)
from lorecall.audit.reports.report import SamplingScheme
from lorecall.audit.runs.matrix import Matrix
from pydantic import ConfigDict, Field, StrictBool


class MatrixCell(ReportModel):
    """What one adapter recites of one set."""

    adapter: str
    version: Version
    candidates: str
    """The set's file name."""
    own: StrictBool
    """Whether the adapter may know the set."""
    recited: Count
    """Certified and recalled snippets."""
    of: Count
    """Snippets that can be blamed on the adapter: neither errors nor known to the base."""
    low: Share
    """Lower end of the rate's exact interval."""
    high: Share
    """Upper end of the rate's exact interval."""
    extractable: Count
    """Snippets that sampling gives, and greedy decoding does not."""
    near_verbatim: Count
    """Snippets that decoding gives up to small edits. A matrix has no controls, so nothing in it is partial."""
    errors: Count
    """Snippets that could not be scored."""
    unknown_chances: Count
    """Snippets that may be extractable: this scorer cannot tell how likely sampling gives them."""
    alarms: Count
    """Snippets on which the engine contradicts itself."""

    @property
    def found(self) -> int:
        """How many snippets an answer gives, greedy or sampled, word for word or nearly."""
        return self.recited + self.extractable + self.near_verbatim


class MatrixReport(ReportModel):
    """Every adapter against every candidate set."""

    model_config = ConfigDict(title="lorecall audit matrix: who recites whose data")

    schema_version: Literal["2.0"]
    tool: Tool
    started: Started
    engine: MeasuredEngine
    confidence: Confidence
    sampling: SamplingScheme
    adapters: Annotated[tuple[str, ...], Field(min_length=1)]
    sets: Annotated[tuple[str, ...], Field(min_length=1)]
    cells: Annotated[tuple[MatrixCell, ...], Field(min_length=1)]
    tests: Count
    """Snippet-adapter pairs tested at once: no interval is corrected for their number."""
    exit_code: ExitCode


def matrix_report(matrix: Matrix) -> MatrixReport:
    """Return the report of a matrix."""
    first, cells = matrix.first, matrix.cells
    return MatrixReport(
        schema_version=SCHEMA_VERSION,
        tool=Tool.here(),
        started=first.started,
        engine=MeasuredEngine.model_validate(first.engine),
        confidence=first.confidence,
        sampling=SamplingScheme.of(first.extraction),
        adapters=tuple(dict.fromkeys(cell.adapter for cell in cells)),
        sets=tuple(dict.fromkeys(cell.candidates for cell in cells)),
        cells=tuple(MatrixCell.model_validate(cell) for cell in cells),
        tests=sum(cell.of for cell in cells),
        exit_code=matrix.exit_code,
    )


def render_matrix(report: MatrixReport) -> str:
    """Return the HTML of a matrix: a heat map; what is recited off the diagonal is named first."""
    cells = {(cell.adapter, cell.candidates): cell for cell in report.cells}
    foreign = [cell for cell in report.cells if cell.found and not cell.own]
    return render("matrix.html", report, cells=cells, foreign=foreign)
