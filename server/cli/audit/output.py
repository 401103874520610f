"""Output of `lorecall audit`: tables on stdout, the summary on stderr, reports in files."""

from pathlib import Path
from typing import TYPE_CHECKING

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.evidence.changes import Diff, render_diff, render_diff_junit
from lorecall.audit.records import Verdict
from lorecall.audit.reports.html import by_gravity, drawn_words, finding, render_report
from lorecall.audit.reports.junit import render_junit
from lorecall.audit.reports.matrix import MatrixCell, MatrixReport, render_matrix
from lorecall.audit.reports.mitigation import MitigationReport, render_mitigation
from lorecall.audit.reports.models import ReportModel
from lorecall.audit.reports.ranks import RanksReport, render_ranks
from lorecall.audit.reports.report import Report, SamplingScheme, ScoredSnippet, Snippet
from lorecall.audit.stats.intervals import at_most
from lorecall.server.cli.common.console import note
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorecall.audit.policy.policy import Policy
    from lorecall.audit.records import AuditResult
    from securesystemslib.signer import CryptoSigner

TABLE_ROWS = 25
PLAIN_WIDTH = 120
STYLES = {
    Verdict.CERTIFIED: "bold red",
    Verdict.RECALLED: "red",
    Verdict.EXTRACTABLE: "dark_orange",
    Verdict.NEAR_VERBATIM: "yellow",
    Verdict.PARTIAL: "yellow",
    Verdict.BASE_KNOWN: "blue",
    Verdict.CLEAR: "green",
    Verdict.ERROR: "bold magenta",
}


def print_table(report: Report) -> None:
    """Print the gravest snippets, one a line."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("snippet", overflow="fold", min_width=8)
    table.add_column("verdict", no_wrap=True)
    for name in ("over 0.5", "min p", "decoded", "ΔL", "log10 n"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("remarks", overflow="fold")
    rows = sorted(report.snippets, key=by_gravity)
    for row in rows[:TABLE_ROWS]:
        verdict = f"[{STYLES[row.verdict]}]{row.verdict}[/]"
        remarks = [row.error or row.alarm, *row.flags, "control" if row.set.of_controls else ""]
        table.add_row(escape(row.id), verdict, *_numbers(row), escape(", ".join(filter(None, remarks))))
    if len(rows) > TABLE_ROWS:
        table.caption = f"the {TABLE_ROWS} gravest of {len(rows)} snippets"
    stdout().print(table)


def _numbers(row: Snippet) -> list[str]:
    if not isinstance(row, ScoredSnippet):
        return [""] * 5
    return [
        f"{row.over_half}/{row.length}",
        f"{row.min_p:.4f}",
        "yes" if row.decoded_equal else "no",
        f"{row.delta_loss:.2f}",
        "inf" if row.log10_n50 is None else f"{row.log10_n50:.1f}",
    ]


def stdout() -> Console:
    """Return the console of stdout; where it is no terminal, wide enough for every table."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def print_summary(report: Report, written: list[Path]) -> None:
    """Print what was found, what the gate says, and what was written, on stderr."""
    summary = report.summary
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.items() if count)
    note(finding(report))
    note(f"candidates: {counts}; {summary.tokens_over_half} of {summary.tokens} tokens over 0.5")
    for tag, tagged in report.by_tag.items():
        counts = ", ".join(f"{count} {verdict}" for verdict, count in tagged.verdicts.items() if count)
        note(f"tag {tag}: {counts}")
    note(f"controls: {control_words(report)}")
    if report.calibration is not None:
        note(f"calibration: {report.calibration.sentence()}")
    for view, count in summary.not_asked.items():
        note(f"view {view}: not asked of {count} candidates, whose shorter prefix is no text of those tokens")
    if scheme := report.settings.sampling:
        note(f"sampling: {sampling_words(report, scheme)}")
    if drawn := drawn_words(report):
        note(f"drawn: {drawn}")
    if report.membership is not None:
        note(f"membership: {report.membership.sentence()}")
    note(f"line: p > {report.threshold:.4f} (epsilon {report.epsilon:.4g}, {report.epsilon_source})")
    for name, source in report.inputs:
        if source is not None and source.bad_lines:
            note(f"{name}: {source.bad_lines} bad lines were left out")
    note("gate: passed" if report.gate.passed else "gate: failed: " + "; ".join(report.gate.reasons))
    for path in written:
        note(f"wrote {path}")


def control_words(report: Report) -> str:
    """Return what was found among the controls, and what that bounds, in words."""
    if report.controls is None:
        return "none given, so 'clear' has no error bound, and nothing is 'partial'"
    rate, confidence = report.controls.recited, report.settings.confidence
    found = f"{rate.hits} of {rate.of} recited"
    if report.calibration is not None and report.calibration.reason:
        return f"{found}, which bounds no rate: {report.calibration.reason}"
    most = at_most(rate.hits, rate.of, confidence)
    return f"{found}, a rate of at most {most:.2%} (one-sided, {confidence:.0%})"


def sampling_words(report: Report, scheme: SamplingScheme) -> str:
    """Return what sampling gives, and by which scheme, in words."""
    summary, controls = report.summary, report.controls
    found = f"{summary.verdicts[Verdict.EXTRACTABLE]} of the candidates"
    if controls is not None:
        found += f" and {controls.verdicts[Verdict.EXTRACTABLE]} of the controls"
    text = f"{found} extractable within {scheme.words()}"
    if scheme.left_out:
        text += f"; the engine's {', '.join(scheme.left_out)} is left out"
    if summary.unknown_chances:
        text += f"; not known of {summary.unknown_chances} candidates: this scorer cannot compute it"
    return text


def make_report(
    result: "AuditResult",
    policy: "Policy",
    texts: "Callable[[Sequence[int]], list[str]]",
    *,
    show: bool,
    signer: "CryptoSigner | None",
) -> Report:
    """Return the report of an audit with the gate's answer; signed if there is a key."""
    from lorecall.audit.policy.gate import judge_result
    from lorecall.audit.reports.build import build_report
    from lorecall.audit.reports.redact import redactor
    from lorecall.audit.reports.seal import seal

    content = build_report(result, judge_result(result, policy), policy, redactor(show=show), texts)
    return content if signer is None else seal(content, signer)


def write_reports(report: Report, out: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write the report in each format.

    Raises:
        UsageError: The folder cannot be written.
    """
    texts = {
        "json": report.to_json,
        "html": lambda: render_report(report),
        "junit": lambda: render_junit(report),
    }
    return _write_formats(texts, out, "report", formats)


def write_diff(diff: Diff, out: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write a comparison of two reports in each format.

    Raises:
        UsageError: The folder cannot be written.
    """
    texts = {
        "json": diff.to_json,
        "html": lambda: render_diff(diff),
        "junit": lambda: render_diff_junit(diff),
    }
    return _write_formats(texts, out, "diff", formats)


def _write_formats(
    texts: "dict[str, Callable[[], str]]", out: Path, name: str, formats: tuple[str, ...]
) -> list[Path]:
    folder, ends = make_folder(out), {"json": "json", "html": "html", "junit": "xml"}
    written = []
    for kind in dict.fromkeys(formats):
        path = folder / f"{name}.{ends[kind]}"
        write_whole(path, texts[kind]())
        written.append(path)
    return written


def make_folder(out: Path) -> Path:
    """Make the folder of the reports.

    Raises:
        UsageError: It cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to {str(out)!r}: {error.strerror}", hint="name a folder", param="out"
        ) from error
    return out


def print_ranks(report: RanksReport) -> None:
    """Print one row an adapter, by capacity."""
    table = Table(title="capacity against recall", box=SIMPLE_HEAD)
    table.add_column("adapter")
    for name in (
        "rank",
        "parameters",
        "tokens over 0.5",
        "certified",
        "recalled",
        "base-known",
        "ΔL (nats/token)",
    ):
        table.add_column(name, justify="right")
    for row in report.adapters:
        share = row.tokens_over_half / row.tokens if row.tokens else 0.0
        table.add_row(
            escape(row.adapter),
            str(row.rank),
            f"{row.effective_parameters:,}",
            f"{row.tokens_over_half} of {row.tokens} ({share:.0%})",
            f"{row.certified} of {row.snippets}",
            str(row.recalled),
            str(row.base_known),
            "" if row.delta_loss is None else f"{row.delta_loss:.2f}",
        )
    stdout().print(table)
    for step in report.line:
        tokens = "".join(t.text if t.p > 0.5 else "·" * max(1, len(t.text)) for t in step.tokens)
        note(f"{step.label:>16}  {step.over_half:>3} of {len(step.tokens)} tokens over 0.5  {tokens}")


def print_matrix(report: MatrixReport) -> None:
    """Print what each adapter recites of each set; an adapter's own set in parentheses."""
    cells = {(cell.adapter, cell.candidates): cell for cell in report.cells}
    table = Table(title="recited, own sets in parentheses", box=SIMPLE_HEAD)
    table.add_column("adapter")
    for name in report.sets:
        table.add_column(escape(name), justify="right")
    for adapter in report.adapters:
        row = [cells[adapter, name] for name in report.sets]
        table.add_row(escape(adapter), *(_matrix_cell(cell) for cell in row))
    stdout().print(table)
    for cell in report.cells:
        if cell.found and not cell.own:
            nearly = f", {cell.extractable} by sampling" if cell.extractable else ""
            nearly += f", and {cell.near_verbatim} nearly" if cell.near_verbatim else ""
            note(f"{cell.adapter} recites {cell.recited} of {cell.of} of {cell.candidates}{nearly}")
    note(f"by sampling: within {report.sampling.words()}")
    if unknown := sum(cell.unknown_chances for cell in report.cells if not cell.own):
        note(f"not known of {unknown} of another's snippets: this scorer cannot compute it")


def _matrix_cell(cell: MatrixCell) -> str:
    text = f"{cell.recited} of {cell.of}"
    if cell.own:
        return f"({text})"
    return f"[bold red]{text}[/]" if cell.recited else text


def print_mitigation(report: MitigationReport) -> None:
    """Print one row a dose, from the weakest of each kind, and which is the largest that passes."""
    table = Table(title=f"{report.adapter.name}: recall against dose", box=SIMPLE_HEAD)
    table.add_column("dose", no_wrap=True)
    for name in ("rank", "tokens over 0.5", "certified", "recalled", "perplexity", "over the base", "policy"):
        table.add_column(name, justify="right")
    for dose in report.doses:
        table.add_row(
            f"{dose.kind} {dose.value:g}",
            str(dose.rank),
            f"{dose.tokens_over_half} of {dose.tokens}",
            f"{dose.verdicts[Verdict.CERTIFIED]} of {dose.snippets}",
            str(dose.verdicts[Verdict.RECALLED]),
            f"{dose.perplexity:.2f}",
            f"x {dose.perplexity_over_base:.3f}",
            "[green]passes[/]" if dose.passed else "[red]fails[/]",
        )
    stdout().print(table)
    for kind, value in report.largest_passing:
        if any(dose.kind == kind for dose in report.doses):
            note(
                f"no {kind} meets the policy"
                if value is None
                else f"the largest {kind} that passes: {value:g}"
            )


def write_mitigation(report: MitigationReport, out: Path) -> list[Path]:
    """Write the dose-response as JSON and HTML.

    Raises:
        UsageError: The folder cannot be made.
    """
    return _write_pair(report, render_mitigation(report), out, "mitigation")


def write_matrix(report: MatrixReport, out: Path) -> list[Path]:
    """Write the matrix as JSON and HTML.

    Raises:
        UsageError: The folder cannot be made.
    """
    return _write_pair(report, render_matrix(report), out, "matrix")


def write_ranks(report: RanksReport, out: Path) -> list[Path]:
    """Write the comparison as JSON and HTML.

    Raises:
        UsageError: The folder cannot be made.
    """
    return _write_pair(report, render_ranks(report), out, "ranks")


def _write_pair(report: ReportModel, html: str, out: Path, name: str) -> list[Path]:
    folder = make_folder(out)
    written = [folder / f"{name}.json", folder / f"{name}.html"]
    for path, content in zip(written, (report.to_json(), html), strict=True):
        write_whole(path, content)
    return written
