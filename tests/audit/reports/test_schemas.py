"""The models' JSON Schemas: valid themselves, closed, and met by what is written."""

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.evidence.changes import Diff
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.records import Group
from lorecall.audit.reports.matrix import MatrixReport, matrix_report
from lorecall.audit.reports.mitigation import MitigationReport
from lorecall.audit.reports.models import ReportModel, json_schema, parse
from lorecall.audit.reports.ranks import RanksReport, ranks_report
from lorecall.audit.reports.report import Report
from lorecall.audit.runs.matrix import run_matrix
from lorecall.audit.runs.ranks import run_ranks
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ScoreItem

from tests.audit.conftest import as_set
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]
KINDS: dict[str, type[ReportModel]] = {
    "report": Report,
    "matrix": MatrixReport,
    "ranks": RanksReport,
    "mitigation": MitigationReport,
    "diff": Diff,
}


def matrix_of(engine: TinyScorer, sets: Sets) -> MatrixReport:
    found = [sets[Group.CANDIDATES], as_set((ScoreItem("long", "a ", "x" * 1000),), "long.jsonl")]
    own = {("leaky", found[0].name)}
    return matrix_report(run_matrix(engine, ["leaky", "other"], found, own, AuditSettings()))


def ranks_of(engine: TinyScorer, sets: Sets) -> RanksReport:
    return ranks_report(
        run_ranks(engine, ["leaky", "other"], sets, AuditSettings(), line="when a line of text")
    )


REPORTS = {"matrix": matrix_of, "ranks": ranks_of}


def test_every_committed_schema_is_here() -> None:
    """No schema file is left untested; policy.schema.json has tests of its own."""
    found = {item.name for item in files("lorecall.audit.reports").joinpath("schemas").iterdir()}
    assert found == {f"{kind}.schema.json" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_valid_and_closed(kind: str) -> None:
    """It fits draft 2020-12, states its version, and no object in it lets unknown fields pass unsaid."""
    found = json_schema(KINDS[kind])
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["properties"]["schema_version"]["const"] == "2.0"

    def objects(value: object) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [one for part in value for one in objects(part)]
        if not isinstance(value, dict):
            return []
        inner = [one for part in value.values() for one in objects(part)]
        return [value, *inner] if "properties" in value and "type" in value else inner

    assert objects(found)
    assert all(one.get("additionalProperties") is False for one in objects(found))


@pytest.mark.parametrize("kind", REPORTS)
def test_what_is_written_fits_and_what_is_changed_does_not(engine: TinyScorer, sets: Sets, kind: str) -> None:
    """The report passes as JSON, errors and a line of text included; each damage to it is found and named."""
    made: ReportModel = REPORTS[kind](engine, sets)
    report = json.loads(made.to_json())
    assert parse(KINDS[kind], report, "it") == made
    jsonschema.Draft202012Validator(json_schema(KINDS[kind])).validate(report)
    damages: list[tuple[dict[str, Any], str]] = [
        ({**report, "more": 1}, "the report breaks 'extra_forbidden'"),
        ({name: value for name, value in report.items() if name != "engine"}, "engine breaks 'missing'"),
        ({**report, "adapters": []}, "adapters breaks 'too_short'"),
        ({**report, "schema_version": "0.9"}, "schema_version breaks 'literal_error'"),
    ]
    for damaged, why in damages:
        with pytest.raises(UsageError, match=why):
            parse(KINDS[kind], damaged, "it")
