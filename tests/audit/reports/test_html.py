"""The report for people: self-contained, safe against the text it shows, and complete."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.html import MAX_ROWS, render_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.snippets import ScoredSnippet
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.stats.intervals import at_most
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, memory_of
from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onmouseover=alert(3) {{7*7}}"


class Page(HTMLParser):
    """Collects the page's elements and their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep one element."""
        self.elements.append((tag, dict(attrs)))

    def having(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of one name."""
        return [attributes for tag, attributes in self.elements if tag == name]

    def with_class(self, name: str) -> int:
        """How many elements have a class."""
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)


def report_of(scorer: TinyScorer, adapter: str, sets: Sets, *, show: bool = False) -> Report:
    result = run_audit(scorer, adapter, sets, AuditSettings())
    gate = judge_result(result, Policy())
    return build_report(result, gate, Policy(), Redactor(b"salt", show), scorer.token_texts)


def test_hostile_text_cannot_inject(engine: TinyScorer) -> None:
    """Ids, texts and tokens that hold markup are shown as text: no element and no handler comes of them."""
    item = ScoreItem(HOSTILE, HOSTILE, HOSTILE[:60])
    sets = {Group.CANDIDATES: as_set((item,), name=HOSTILE)}
    plain = {Group.CANDIDATES: as_set((ScoreItem("a", "b", "c" * 60),))}
    page = Page(render_report(report_of(engine, "other", sets, show=True)))
    harmless = Page(render_report(report_of(engine, "other", plain, show=True)))
    assert len(page.having("script")) == len(harmless.having("script")) == 1
    assert not page.having("img")
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]


def test_the_page_loads_nothing_and_runs_its_own_script_only(engine: TinyScorer, sets: Sets) -> None:
    """No link, source or URL; the content policy names the hash of the one script."""
    html = render_report(report_of(engine, "leaky", sets))
    page = Page(html)
    assert not page.having("link")
    assert not [a for _, attributes in page.elements for a in attributes if a in {"src", "href", "action"}]
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(
        m["content"] for m in page.having("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_summary_gives_the_reports_numbers(engine: TinyScorer, sets: Sets) -> None:
    """Gate, counts, controls' bound, digests and threshold of the report stand on the page."""
    report = report_of(engine, "leaky", sets)
    html = render_report(report)
    assert report.controls is not None
    assert "leaky recites 12 of 12 candidates word for word." in html
    assert "Fails" in html
    assert "12 candidates certified, where the policy allows 0" in html
    assert f"at most {at_most(0, 20):.1%} (one-sided, 95%)" in html
    assert report.adapter.version in html
    assert report.inputs.candidates.digest in html


def test_tokens_are_coloured_by_p_and_locked_ones_marked(pairs: tuple[ScoreItem, ...]) -> None:
    """Each token of the table has the class of its probability; as many are marked as are locked."""
    scorer = TinyScorer({"a": memory_of(pairs[:1], strength=0.72)}, epsilon=0.1)
    report = report_of(scorer, "a", {Group.CANDIDATES: as_set(pairs[:2])})
    html = render_report(report).split('<table id="snippets">')[1].split("</table>")[0]
    tokens = [t for s in report.snippets for t in s.tokens]
    page = Page(html)
    assert (
        page.with_class("locked")
        == sum(len(s.locked) for s in report.snippets if isinstance(s, ScoredSnippet))
        == 10
    )
    assert page.with_class("s7") == sum(0.7 <= t.p < 0.8 for t in tokens) > 0
    assert page.with_class("s0") == sum(t.p < 0.1 for t in tokens)


def test_redacted_reports_show_no_target(
    engine: TinyScorer, sets: Sets, pairs: tuple[ScoreItem, ...]
) -> None:
    """The page holds no more of a text than the JSON does."""
    html = render_report(report_of(engine, "leaky", sets))
    assert all(item.target not in html for item in pairs)


def test_without_controls_the_page_says_that_clear_is_unbounded(
    engine: TinyScorer, pairs: tuple[ScoreItem, ...]
) -> None:
    """A reader is told what is missing, not shown a zero."""
    html = render_report(report_of(engine, "other", {Group.CANDIDATES: as_set(pairs)}))
    assert "no controls given" in html


def test_a_long_report_shows_the_gravest_rows_and_says_so(engine: TinyScorer, sets: Sets) -> None:
    """Rows over the limit stay in report.json; the certified ones are never among them."""
    report = report_of(engine, "leaky", sets)
    clear = next(s for s in report.snippets if s.verdict is Verdict.CLEAR)
    more = [clear.model_copy(update={"id": f"extra-{i}"}) for i in range(MAX_ROWS)]
    report = report.model_copy(update={"snippets": (*report.snippets, *more)})
    html = render_report(report)
    assert html.count('<tr class="row">') == MAX_ROWS
    assert html.count('data-verdict="certified" data-order') == 12
    assert f"gravest of {len(report.snippets)}" in html


@pytest.mark.parametrize("item", [ScoreItem("long", "a ", "x" * 1000), ScoreItem("e", "", "ab")])
def test_an_audit_of_errors_only_is_rendered(engine: TinyScorer, item: ScoreItem) -> None:
    """A report without a single score is still a page that says so."""
    html = render_report(report_of(engine, "other", {Group.CANDIDATES: as_set((item,))}))
    assert "could not be scored" in html


def test_every_verdict_has_a_colour() -> None:
    """The one style that the HTML reports and the page at /audit/ share names each verdict's class."""
    style = files("lorecall.audit.reports").joinpath("templates", "report.css").read_text("utf-8")
    assert all(f".v-{verdict} {{" in style for verdict in Verdict)
