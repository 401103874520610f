"""`lorecall audit report` and `verify`: render and check a written report."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.inputs import check_formats, load_sets, one_source, read_training_data, reader
from lorecall.server.cli.common.console import note, print_json
from lorecall.server.cli.common.options import (
    AsJson,
    Data,
    DataFormat,
    DataSplit,
    Formats,
    Out,
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
        typer.Option(metavar="FILE", help="The audited file, to check that it is the same."),
    ] = None,
    data: Data = None,
    data_format: DataFormat = None,
    data_split: DataSplit = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Score a sample again; needs --candidates or --data.")
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
    from lorecall.audit.evidence.bundle import is_bundle, read_bundle
    from lorecall.audit.evidence.verify import check_input, check_report, rescore
    from lorecall.audit.records import Group
    from lorecall.audit.reports.build import read_report
    from lorecall.audit.reports.signing import read_public_key
    from lorecall.audit.scorers.http_scorer import HttpScorer

    content, beside, unread = read_bundle(file) if is_bundle(file) else (read_report(file), [], [])
    checked = check_report(content, None if key is None else read_public_key(key))
    problems = [*beside, *checked.problems]
    given = None
    if candidates is not None or data is not None:
        choices = (data_format, data_split, split, turns, tokenizer)
        training = partial(read_training_data, data, *choices, skip_bad=True) if data else None
        source = one_source(candidates, training)
        given = load_sets(source, None, reader(split, turns, tokenizer, skip_bad=True))[Group.CANDIDATES]
    if given is not None:
        problems += check_input(content, Group.CANDIDATES, given)
    for why in (*unread, *checked.unchecked):
        note(f"not checked: {why}" if "not checked" not in why else why)
    for problem in problems:
        note(f"does not hold: {problem}")
    if problems:
        raise typer.Exit(1)
    if server is not None:
        if given is None:
            raise UsageError(
                "--server needs --candidates or --data: a report holds no text", param="candidates"
            )
        with HttpScorer(server, timeout=timeout) as scorer:
            again = rescore(content, scorer, given.items, sample, seed)
        move = f"largest move {again.largest_move:.3g} of {again.tolerance:.3g} logits"
        note(f"scored {again.sample} snippets again: {len(again.differing)} differ, {move}")
        if again.differing:
            raise typer.Exit(4)
    note("the report holds")


def diff(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The report of what is live.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The report of what may follow it.")],
    *,
    out: Out = None,
    formats: Formats = None,
    as_json: AsJson = False,
) -> None:
    """Compare two reports: exit 0 if the second is no worse, 1 if it is, 3 if they cannot be compared."""
    from lorecall.audit.evidence.bundle import is_bundle, read_bundle
    from lorecall.audit.evidence.diff import compare
    from lorecall.audit.reports.build import read_report
    from lorecall.audit.reports.seal import check_seal
    from lorecall.server.cli.audit.output import write_diff

    wanted = check_formats(formats)
    reports = [read_bundle(one)[0] if is_bundle(one) else read_report(one) for one in (before, after)]
    for path, report_of in zip((before, after), reports, strict=True):
        for problem in check_seal(report_of):
            raise UsageError(
                f"{str(path)!r} cannot be compared: {problem}", hint="take the report as written"
            )
    found = compare(*reports)
    if as_json:
        print_json(found.values())
    for row in () if as_json else found.snippets:
        typer.echo(f"{row.change}: {row.id}: {row.words()}")
    for obstacle in found.obstacles:
        note(f"not comparable: {obstacle}")
    for remark in found.remarks:
        note(f"remark: {remark}")
    note(", ".join(f"{count} {change}" for change, count in found.counts.items()))
    for path in write_diff(found, out, wanted) if out else ():
        note(f"wrote {path}")
    raise typer.Exit(found.exit_code)


def bundle(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that an audit wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="Write the bundle here.")],
) -> None:
    """Pack a report into one file: with its signature, policy, digests, scope, and the page for readers."""
    from lorecall.audit.evidence.bundle import write_bundle
    from lorecall.audit.reports.build import read_report
    from lorecall.audit.reports.seal import check_seal

    content = read_report(file)
    for problem in check_seal(content):
        raise UsageError(f"{str(file)!r} cannot be bundled: {problem}", hint="take the report as written")
    write_bundle(content, out)
    note(f"wrote {out}" if content.seal.envelope else f"wrote {out}; the report is not signed")
