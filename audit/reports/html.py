"""The report for people: one self-contained HTML file, made from `report.json` alone."""

import base64
import hashlib
import math
from functools import cache
from importlib.resources import files

import jinja2
from lorecall.audit.records import GRAVITY, MEANINGS
from lorecall.audit.reports.build import Report
from lorecall.audit.reports.charts import histograms, ladder, shade
from markupsafe import Markup

MAX_ROWS = 2000
NOTHING = "\N{EN DASH}"
ORDER = {str(verdict): place for place, verdict in enumerate(GRAVITY)}
FLAGS = {
    "short": "the base finds this target so likely that reciting it proves little",
    "boundary": "the tokens of prefix and target are not the tokens of the whole text",
    "tie": "a target token shares the largest logit with another",
    "borderline": "every token over one half, but not over the line with the engine's error",
}


def render_report(report: Report) -> str:
    """Return the HTML of one adapter's report."""
    rows = sorted(report["snippets"], key=_gravity)[:MAX_ROWS]
    return render(
        "report.html",
        report=report,
        tool_version=report["tool"]["version"],
        finding=finding(report),
        histograms=_histograms(report),
        example=_example(report),
        rows=rows,
        present=sorted({row["verdict"] for row in rows}, key=ORDER.__getitem__),
        order=ORDER,
        meanings={str(verdict): meaning for verdict, meaning in MEANINGS.items()},
        flags=FLAGS,
    )


def render(template: str, **values: object) -> str:
    """Render a template with the shared style and script; the page's policy lets no other script run."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_asset("report.css")),  # noqa: S704  our own file
            script=Markup(script),  # noqa: S704  our own file
            script_hash=f"sha256-{digest}",
            **values,
        )
    )


def finding(report: Report) -> str:
    """Return the audit's answer in one or two sentences."""
    summary, name = report["summary"], report["adapter"]["name"]
    recited = summary["recited"]
    softer = summary["leaked"]["hits"] - recited["hits"]
    if recited["hits"]:
        said = f"{name} recites {recited['hits']} of {recited['of']} candidates word for word."
    elif softer:
        said = f"{name} recites none of {recited['of']} candidates word for word, {softer} in part or nearly."
    else:
        said = f"{name} recites none of {recited['of']} candidates."
    if summary["verdicts"]["base-known"]:
        said += f" {summary['verdicts']['base-known']} more are known to the base and not counted."
    return said


def _gravity(row: Report) -> tuple[int, float]:
    return ORDER[row["verdict"]], -(row["min_p"] or 0.0)


def _histograms(report: Report) -> list[object]:
    scored = [s for s in report["snippets"] if s["min_p"] is not None]
    candidates = [s for s in scored if s["set"] == "candidates"]
    controls = [s for s in scored if s["set"] == "controls"]
    return [
        *histograms(
            [
                ("Candidates, through the adapter", "adapter", [s["min_p"] for s in candidates]),
                ("Candidates, through the base", "base", [s["base_min_p"] for s in candidates]),
                ("Controls, through the adapter", "controls", [s["min_p"] for s in controls]),
            ]
        )
    ]


def _example(report: Report) -> dict[str, object] | None:
    """Return the candidate that tells most: the most surprising one recited, else the one nearest to it."""
    scored = [s for s in report["snippets"] if s["set"] == "candidates" and s["tokens"]]
    if not scored:
        return None
    recited = [s for s in scored if s["verdict"] in ("certified", "recalled")]
    if recited:
        snippet, reason = (
            max(recited, key=lambda s: s["base_bits"]),
            "The recited candidate that the base finds most surprising",
        )
    else:
        snippet, reason = (
            max(scored, key=lambda s: s["run_bits"]),
            "No candidate is recited; this one has the longest surprising stretch",
        )
    tokens = snippet["tokens"]
    chart = ladder([t["p"] for t in tokens], [t["base_p"] or 0.0 for t in tokens], report["threshold"])
    return {"snippet": snippet, "reason": reason, "ladder": chart}


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
