"""`lorecall audit report` and `verify`: render and check a written report."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.inputs import check_formats, reader
from lorecall.server.cli.common.console import note
from lorecall.server.cli.common.options import (
    Formats,
    PublicKey,
    Seed,
    Split,
    Timeout,
    Tokenizer,
    TurnsOption,
)


def report(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that an audit wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write the reports here.")],
    formats: Formats = None,
) -> None:
    """Render a report.json again, as HTML and JUnit XML, without an engine."""
    from lorecall.audit.reports.build import read_report
    from lorecall.server.cli.audit.output import write_reports

    for path in write_reports(read_report(file), out, check_formats(formats)):
        note(f"wrote {path}")


def verify(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that an audit wrote.")],
    *,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="The audited file, to check that it is the same."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Score a sample again; needs --candidates.")
    ] = None,
    key: PublicKey = None,
    sample: Annotated[int, typer.Option(min=1, help="Snippets to score again.")] = 20,
    split: Split = "sentence",
    turns: TurnsOption = "only",
    tokenizer: Tokenizer = None,
    seed: Seed = 0,
    timeout: Timeout = 600.0,
) -> None:
    """Check a report: seal, signature, sums, gate, inputs. Exit 1 if it does not hold, 4 if scores differ."""
    from lorecall.audit.evidence.verify import check_input, check_report, rescore
    from lorecall.audit.records import Group
    from lorecall.audit.reports.build import read_report
    from lorecall.audit.reports.signing import read_public_key
    from lorecall.audit.scorers.http_scorer import HttpScorer

    content = read_report(file)
    checked = check_report(content, None if key is None else read_public_key(key))
    problems = list(checked.problems)
    given = reader(split, turns, tokenizer, skip_bad=True)(candidates) if candidates else None
    if given is not None:
        problems += check_input(content, Group.CANDIDATES, given)
    for why in checked.unchecked:
        note(f"not checked: {why}" if "not checked" not in why else why)
    for problem in problems:
        note(f"does not hold: {problem}")
    if problems:
        raise typer.Exit(1)
    if server is not None:
        if given is None:
            raise UsageError("--server needs --candidates: a report holds no text", param="candidates")
        with HttpScorer(server, timeout=timeout) as scorer:
            again = rescore(content, scorer, given.items, sample, seed)
        move = f"largest move {again.largest_move:.3g} of {again.tolerance:.3g} logits"
        note(f"scored {again.sample} snippets again: {len(again.differing)} differ, {move}")
        if again.differing:
            raise typer.Exit(4)
    note("the report holds")
