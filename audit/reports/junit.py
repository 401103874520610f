"""The report as JUnit XML, which CI systems show: one test case for each snippet and one for the gate."""

import re
from xml.etree import ElementTree as ET

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
            suite = add_suite(root, f"{adapter} {group}")
            for snippet in snippets:
                _snippet_case(suite, snippet)
            count_results(suite)
    gate = add_suite(root, f"{adapter} gate")
    failed = "failure" if report.gate.exit_code is ExitCode.LEAKS else "error"
    add_case(gate, "gate", "policy", "" if report.gate.passed else failed, "; ".join(report.gate.reasons))
    count_results(gate)
    return suites_text(root)


def _snippet_case(suite: ET.Element, snippet: Snippet) -> None:
    problem = snippet.error or snippet.alarm
    if problem:
        add_case(suite, snippet.set, snippet.id, "error", problem)
    elif snippet.verdict in GIVEN:
        add_case(
            suite, snippet.set, snippet.id, "failure", f"{snippet.verdict}, min p {snippet.min_p or 0.0:.4f}"
        )
    else:
        add_case(suite, snippet.set, snippet.id)


def add_suite(root: ET.Element, name: str) -> ET.Element:
    """Add an empty test suite, and return it."""
    return ET.SubElement(root, "testsuite", name=_clean(name))


def add_case(suite: ET.Element, kind: str, name: str, result: str = "", message: str = "") -> None:
    """Add a test case of class `lorecall.<kind>`: passed, or with "failure", "error" or "skipped" and why."""
    case = ET.SubElement(suite, "testcase", classname=f"lorecall.{kind}", name=_clean(name))
    if result:
        ET.SubElement(case, result, message=_clean(message))


def count_results(suite: ET.Element) -> None:
    """State how many cases a suite has, and how many of each result."""
    suite.set("tests", str(len(suite)))
    for result, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{result}"))))


def suites_text(root: ET.Element) -> str:
    """Return the text of the XML file."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
