"""The HTML reports: each is one self-contained file, made from its JSON report alone."""

import base64
import hashlib
import math
from functools import cache
from importlib.resources import files

import jinja2
from lorecall.audit.reports.charts import Histogram, histograms, ladder, shade
from lorecall.audit.reports.models import ReportModel
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.snippets import ScoredSnippet, Snippet
from lorecall.audit.runs.sample import LEAST
from lorecall.audit.stats.intervals import at_most
from lorecall.audit.verdicts import FLAG_MEANINGS, MEANINGS, PLACES, RECITED, Group, Verdict
from markupsafe import Markup

MAX_ROWS = 2000
NOTHING = "\N{EN DASH}"


def render_report(report: Report) -> str:
    """Return the HTML of one adapter's report."""
    rows = sorted(report.snippets, key=by_gravity)[:MAX_ROWS]
    return render(
        "report.html",
        report,
        finding=finding(report),
        drawn=drawn_words(report),
        histograms=_histograms(report),
        example=_example(report),
        rows=rows,
        sets=[group for group in Group if any(row.set is group for row in rows)],
        present=sorted({row.verdict for row in rows}, key=PLACES.__getitem__),
    )


def render(template: str, report: ReportModel, **values: object) -> str:
    """Return a report's HTML, with the shared style and the one script that the page's policy allows."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_asset("report.css")),  # noqa: S704  our own file
            script=Markup(script),  # noqa: S704  our own file
            script_hash=f"sha256-{digest}",
            report=report,
            **values,
        )
    )


def finding(report: Report) -> str:
    """Return the audit's answer in one or two sentences."""
    summary, name = report.summary, report.adapter.name
    recited, known = summary.recited, summary.verdicts[Verdict.BASE_KNOWN]
    sampled = summary.verdicts[Verdict.EXTRACTABLE]
    softer = [
        f"{summary.verdicts[verdict]} {words}"
        for verdict, words in {Verdict.NEAR_VERBATIM: "nearly", Verdict.PARTIAL: "in part"}.items()
        if summary.verdicts[verdict]
    ]
    if not recited.of:
        answer = f"Nothing was tested: none of {summary.snippets} candidates can be blamed on {name}."
    elif recited.hits:
        answer = f"{name} recites {recited.hits} of {recited.of} candidates word for word."
    elif softer:
        answer = f"{name} recites none of {recited.of} candidates word for word, {' and '.join(softer)}."
    else:
        answer = f"{name} recites none of {recited.of} candidates."
    if sampled:
        answer += f" Sampling probably gives {sampled} that greedy decoding does not."
    if known:
        answer += f" {known} more are known to the base and not counted."
    return answer + _reservations(report)


def _reservations(report: Report) -> str:
    """Return of which candidates the answer says less, "" if it is of all alike."""
    unsure, test, text = report.summary.undecoded, report.sequential, ""
    if unsure is not None and unsure.left_out:
        text += f" {unsure.left_out} were not decoded; at most {unsure.at_most} of them would be recited."
    if test is not None and test.taken < test.of:
        text += f" {test.taken} of {test.of} candidates were asked for."
    return text


def drawn_words(report: Report) -> str:
    """Return what drawn answers gave beside the prediction, in words; "" where none were drawn."""
    drawn = [s.drawn for s in report.snippets if isinstance(s, ScoredSnippet) and s.drawn is not None]
    if not drawn:
        return ""
    told = [one for one in drawn if one.expected is not None and one.interval is not None]
    outside = sum(not one.interval[0] <= one.seen <= one.interval[1] for one in told if one.interval)
    seen, expected = sum(one.seen for one in told), sum(one.expected or 0.0 for one in told)
    return (
        f"{drawn[0].answers} answers for each snippet that is expected {LEAST:g} times or more among them, or of "
        f"unknown probability ({len(drawn)} in all): {seen} gave the target, where {expected:.1f} were expected; "
        f"{outside} of {len(told)} counts lie outside their {report.settings.confidence:.0%} interval"
    )


def by_gravity(snippet: Snippet) -> tuple[int, float]:
    """Return the key that sorts the gravest snippets first."""
    return PLACES[snippet.verdict], -(snippet.min_p or 0.0)


def _histograms(report: Report) -> list[Histogram]:
    scored = [s for s in report.snippets if isinstance(s, ScoredSnippet)]
    candidates = [s for s in scored if s.set is Group.CANDIDATES]
    controls = [s for s in scored if s.set is Group.CONTROLS]
    return histograms(
        [
            ("Candidates, through the adapter", [s.min_p or 0.0 for s in candidates]),
            ("Candidates, through the base", [s.base_min_p for s in candidates]),
            ("Controls, through the adapter", [s.min_p or 0.0 for s in controls]),
        ]
    )


def _example(report: Report) -> dict[str, object] | None:
    """Return the candidate that tells most: the most surprising one recited, else the one nearest to it."""
    scored = [s for s in report.snippets if isinstance(s, ScoredSnippet) and s.set is Group.CANDIDATES]
    if not scored:
        return None
    recited = [s for s in scored if s.verdict in RECITED]
    if recited:
        snippet = max(recited, key=lambda s: s.base_bits)
        reason = "The recited candidate that the base finds most surprising"
    else:
        snippet = max(scored, key=lambda s: s.run_bits)
        reason = "No candidate is recited; this one has the longest surprising stretch"
    p, base_p = [t.p for t in snippet.tokens], [t.base_p or 0.0 for t in snippet.tokens]
    return {"snippet": snippet, "reason": reason, "ladder": ladder(p, base_p)}


def _asset(name: str) -> str:
    return files("lorecall.audit.reports").joinpath("templates", name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals.update(
        at_most=at_most,
        order=PLACES,
        meanings=MEANINGS,
        flags=FLAG_MEANINGS,
        recited=" or ".join(RECITED),
    )
    environment.filters.update(
        shade=shade,
        probability=_probability,
        percent=_percent,
        thousands=lambda value: f"{value:,}",
        nats=lambda value: NOTHING if value is None else f"{value:.2f}",
        blank=lambda value: "" if value is None else value,
        visible=_visible,
    )
    return environment


def _probability(value: float | None) -> str:
    """Show a probability with three digits, and never round it onto or over the line."""
    if value is None:
        return NOTHING
    if 0.0 < value < 0.001:
        return "<.001"
    shown = math.floor(value * 1000) / 1000 if value < 0.5 or value > 0.9995 else value
    text = f"{shown:.3f}"
    return ">.500" if text == "0.500" and value > 0.5 else text.removeprefix("0") or "0"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value in (0.0, 1.0) or value * 100 == round(value * 100) else f"{value:.1%}"


def _visible(text: object) -> str:
    """Make white space of a token visible."""
    return str(text).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
