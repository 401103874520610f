"""The matrix of adapters against candidate sets as one JSON file and one HTML file."""

from dataclasses import asdict
from importlib.metadata import version

from lorecall.audit.reports.build import Report
from lorecall.audit.reports.html import render
from lorecall.audit.reports.schemas import check
from lorecall.audit.runs.matrix import Matrix

SCHEMA_VERSION = "1.0"


def matrix_report(matrix: Matrix) -> Report:
    """Return the matrix as JSON values, checked against matrix.schema.json."""
    first = matrix.first
    cells = matrix.cells
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "lorecall", "version": version("lorecall")},
        "started": first.started,
        "engine": asdict(first.engine),
        "confidence": first.confidence,
        "adapters": list(dict.fromkeys(cell.adapter for cell in cells)),
        "sets": list(dict.fromkeys(cell.candidates for cell in cells)),
        "cells": [asdict(cell) for cell in cells],
        "tests": sum(cell.of for cell in cells),
        "exit_code": int(matrix.exit_code),
    }
    check(report, "matrix", "the matrix")
    return report


def render_matrix(report: Report) -> str:
    """Return the HTML of a matrix: a heat map with what stands off the diagonal named first."""
    cells = {(cell["adapter"], cell["candidates"]): cell for cell in report["cells"]}
    foreign = [cell for cell in report["cells"] if cell["recited"] and not cell["own"]]
    return render(
        "matrix.html", report=report, cells=cells, foreign=foreign, tool_version=report["tool"]["version"]
    )
