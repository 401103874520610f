"""Capacity against recall as one JSON file and one HTML file, over several deployed adapters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.framed_judges import RAW, BaseCaches
from lorecall.audit.judging.rule import threshold
from lorecall.audit.records import AuditResult, Group
from lorecall.audit.reports.build import Report
from lorecall.audit.reports.charts import staircase
from lorecall.audit.reports.html import render
from lorecall.audit.reports.schemas import check
from lorecall.audit.runs.ranks import LineStep, RankRow, line_item, line_steps, rank_rows
from lorecall.audit.runs.single import AuditSettings, Progress, no_progress, run_audit
from lorecall.audit.scorer import Scorer

SCHEMA_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class RanksResult:
    """The audits of several adapters on one set, and one line's staircase over them."""

    results: tuple[AuditResult, ...]
    rows: tuple[RankRow, ...]
    line: tuple[LineStep, ...] = ()
    line_texts: tuple[str, ...] = ()


def run_ranks(
    scorer: Scorer,
    adapters: Sequence[str],
    sets: dict[Group, CandidateSet],
    settings: AuditSettings,
    *,
    line: str = "",
    progress: Progress = no_progress,
) -> RanksResult:
    """Audit several adapters on the same candidates; the base is asked once.

    Args:
        scorer: The engine.
        adapters: Names of served adapters.
        sets: The candidates, and the controls if there are any.
        settings: What each audit is told.
        line: A line of text whose tokens are followed over the ranks; "" for none.
        progress: Called with the snippets done, over all adapters, and their total.

    Raises:
        ValueError: The line is a single word.
        AdapterNotFoundError: An adapter is not there; known before anything is scored.
    """
    versions = [scorer.adapter(name) for name in adapters]
    item = line_item(line, sets[Group.CANDIDATES].items) if line else None
    bases = BaseCaches(scorer)
    size = sum(len(candidates.items) for candidates in sets.values())

    def part(index: int) -> Progress:
        return lambda done, _total: progress(index * size + done, len(adapters) * size)

    results = [
        run_audit(scorer, name, sets, settings, bases=bases, progress=part(index))
        for index, name in enumerate(adapters)
    ]
    steps: list[LineStep] = []
    if item is not None:
        scores = [(v.name, v.rank, scorer.score(v.name, [item])[0]) for v in versions]
        steps = line_steps(bases.framed(RAW).score([item])[0], scores)
    texts = tuple(scorer.token_texts(steps[0].score.target_ids)) if steps else ()
    return RanksResult(tuple(results), tuple(rank_rows(results)), tuple(steps), texts)


def ranks_report(ranks: RanksResult) -> Report:
    """Return the result as JSON values, checked against ranks.schema.json."""
    first = ranks.results[0]
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "lorecall", "version": version("lorecall")},
        "started": first.started,
        "engine": asdict(first.engine),
        "epsilon": first.epsilon.value,
        "threshold": threshold(first.epsilon.value),
        "inputs": {str(group): asdict(source) for group, source in first.sources.items()},
        "adapters": [
            {**asdict(row), "version": versions[row.adapter], "controls": controls[row.adapter]}
            for versions, controls in [_by_name(ranks.results)]
            for row in ranks.rows
        ],
        "line": [
            {
                "label": step.label,
                "rank": step.rank,
                "over_half": step.over_half,
                "tokens": _line_tokens(step, ranks.line_texts),
            }
            for step in ranks.line
        ],
    }
    check(report, "ranks", "the comparison")
    return report


def _by_name(results: Sequence[AuditResult]) -> tuple[dict[str, str], dict[str, dict[str, object] | None]]:
    versions = {result.adapter.name: result.adapter.version for result in results}
    controls = {
        result.adapter.name: asdict(result.summaries[Group.CONTROLS].recited)
        if Group.CONTROLS in result.summaries
        else None
        for result in results
    }
    return versions, controls


def _line_tokens(step: LineStep, texts: Sequence[str]) -> list[Report]:
    score = step.score
    return [
        {"id": token, "text": text, "p": p, "rank": rank}
        for token, text, p, rank in zip(score.target_ids, texts, score.p, score.rank, strict=True)
    ]


def render_ranks(report: Report) -> str:
    """Return the HTML of a report over the ranks."""
    rows = [
        (
            f"r = {row['rank']}",
            f"{row['effective_parameters']:,} parameters",
            row["tokens_over_half"] / row["tokens"] if row["tokens"] else 0.0,
            (row["certified"] + row["recalled"]) / row["snippets"],
        )
        for row in report["adapters"]
    ]
    return render("ranks.html", report=report, tool_version=report["tool"]["version"], chart=staircase(rows))
