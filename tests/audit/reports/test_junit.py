"""The JUnit XML that CI systems show."""

import dataclasses
from xml.etree import ElementTree as ET

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.junit import render_junit
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]


def junit_of(engine: TinyScorer, adapter: str, sets: Sets) -> ET.Element:
    result = run_audit(engine, adapter, sets, AuditSettings())
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    return ET.fromstring(render_junit(report))  # noqa: S314  our own output


def suites(root: ET.Element) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {s.get("name", ""): (s.get("tests"), s.get("failures"), s.get("errors")) for s in root}


def test_recited_candidates_and_the_gate_fail(engine: TinyScorer, sets: Sets) -> None:
    """One failure for each certified candidate, one for the gate, none for clear controls."""
    assert suites(junit_of(engine, "leaky", sets)) == {
        "leaky candidates": ("12", "12", "0"),
        "leaky controls": ("20", "0", "0"),
        "leaky gate": ("1", "1", "0"),
    }


def test_a_clean_adapter_has_no_failures(engine: TinyScorer, sets: Sets) -> None:
    """Every case passes, the gate too."""
    assert not junit_of(engine, "other", sets).findall(".//failure")


def test_what_could_not_be_scored_is_an_error(engine: TinyScorer) -> None:
    """Not a failure of the adapter, and not a pass."""
    root = junit_of(engine, "other", {Group.CANDIDATES: as_set((ScoreItem("long", "a ", "x" * 1000),))})
    assert suites(root)["other candidates"] == ("1", "0", "1")
    assert suites(root)["other gate"] == ("1", "0", "1")


def test_ids_that_xml_has_no_place_for_are_replaced(engine: TinyScorer, pairs: tuple[ScoreItem, ...]) -> None:
    """Control characters and markup in an id still give well-formed XML."""
    item = dataclasses.replace(pairs[0], id='<&">\x00\x1b[31m')
    root = junit_of(engine, "other", {Group.CANDIDATES: as_set((item,))})
    case = root.find(".//testcase")
    assert case is not None
    assert case.get("name") == '<&">\ufffd\ufffd[31m'
