"""The report as JUnit XML, which CI systems show: one test case for each snippet and one for the gate."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import GIVEN, Group
from lorecall.audit.reports.report import Report, Snippet

# XML 1.0 has no place for most control characters and for lone surrogates.
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: Report) -> str:
    """Return the report as JUnit XML.

    A candidate that decoding gives, in its words or nearly, or that sampling gives is a failure, as is such a
    control; a snippet that could not be scored, or on which the engine contradicts itself, is an error. The gate
    is a test case of its own, because a policy may allow some leaks: a failure where it found leaks, an error
    where the audit is not complete.
    """
    root = ET.Element("testsuites", name="lorecall audit")
    adapter = report.adapter.name
    for group in Group:
        snippets = [s for s in report.snippets if s.set is group]
        if snippets:
            suite = _suite(root, f"{adapter} {group}")
            for snippet in snippets:
                _case(suite, snippet)
            _count(suite)
    gate = _suite(root, f"{adapter} gate")
    case = ET.SubElement(gate, "testcase", classname="lorecall.gate", name="policy")
    if not report.gate.passed:
        kind = "failure" if report.gate.exit_code is ExitCode.LEAKS else "error"
        ET.SubElement(case, kind, message=_clean("; ".join(report.gate.reasons)))
    _count(gate)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_junit(report: Report, path: Path) -> None:
    """Write the report as JUnit XML."""
    write_whole(path, render_junit(report))


def _suite(root: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(root, "testsuite", name=_clean(name))


def _case(suite: ET.Element, snippet: Snippet) -> None:
    case = ET.SubElement(suite, "testcase", classname=f"lorecall.{snippet.set}", name=_clean(snippet.id))
    problem = snippet.error or snippet.alarm
    if problem:
        ET.SubElement(case, "error", message=_clean(problem))
    elif snippet.verdict in GIVEN:
        ET.SubElement(case, "failure", message=f"{snippet.verdict}, min p {snippet.min_p or 0.0:.4f}")


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite)))
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
