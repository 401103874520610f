"""The report's page on paper, in a real browser."""

import re

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.html import render_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.verdicts import Group

from tests.audit.tiny_scorer import TinyScorer
from tests.server.browser import chromium

A4_INCHES = 8.27
STYLES = """() => {
  const style = (name) => getComputedStyle(document.querySelector(name));
  return {
    paper: style("body").backgroundColor, ink: style("body").color,
    controls: style(".controls").display, card: style(".card").overflowX,
    exact: style(".dot").printColorAdjust, wide: document.documentElement.scrollWidth - window.innerWidth,
  };
}"""


def test_it_prints_on_white_without_controls_and_within_the_page(
    engine: TinyScorer, sets: dict[Group, CandidateSet]
) -> None:
    """Although the reader's screen is dark; every snippet is on the pages, and nothing is cut off at the side."""
    result = run_audit(engine, "leaky", sets, AuditSettings())
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    with chromium() as running:
        page = running.new_page(viewport={"width": int(A4_INCHES * 96), "height": 1000}, color_scheme="dark")
        page.set_content(render_report(report))
        assert page.evaluate(STYLES)["ink"] == "rgb(232, 230, 225)"
        page.emulate_media(media="print")
        found = page.evaluate(STYLES)
        paper = page.pdf(format="A4", prefer_css_page_size=True)
    assert (found["controls"], found["card"], found["exact"]) == ("none", "visible", "exact")
    assert (found["paper"], found["ink"]) == ("rgb(255, 255, 255)", "rgb(29, 33, 38)")
    assert found["wide"] <= 0
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 2
