"""`lorecall audit ranks` and `matrix`: several adapters side by side."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.inputs import read_training_data, reader, split_pair
from lorecall.server.cli.audit.sets import SetOptions, ViewOptions, expanded, read_sets
from lorecall.server.cli.common.console import note, print_json
from lorecall.server.cli.common.options import (
    AsJson,
    AuditedServer,
    Batch,
    DataFormat,
    DataSplit,
    EpsilonOption,
    Out,
    Seed,
    SkipBad,
    Split,
    Timeout,
    Tokenizer,
    TurnsOption,
)


@expanded
def ranks(
    *,
    server: AuditedServer,
    adapter: Annotated[list[str], typer.Option(metavar="NAME", help="A served adapter; repeatable.")],
    asked: SetOptions,
    line: Annotated[str, typer.Option(metavar="TEXT", help="Show this line's tokens for every rank.")] = "",
    out: Out = None,
    as_json: AsJson = False,
    ways: ViewOptions,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Compare several adapters on the same candidates: capacity against recall. Always exit 0, without a gate."""
    from lorecall.audit.reports.ranks import ranks_report
    from lorecall.audit.runs.ranks import run_ranks
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.audit.scorers.http_scorer import HttpScorer
    from lorecall.server.cli.audit.output import print_ranks, write_ranks
    from lorecall.server.cli.common.progress import count_bar

    if line and len(line.split()) < 2:
        raise UsageError(
            f"--line {line!r} is a single word", hint="give a line of several words", param="line"
        )
    views = ways.views()
    sets = read_sets(
        asked, lambda: HttpScorer(server, batch=batch, timeout=timeout), out=out, seed=seed, batch=batch
    )
    settings = AuditSettings(epsilon=ways.epsilon, seed=seed, chunk=batch, views=views)
    names = list(dict.fromkeys(adapter))
    with (
        HttpScorer(server, batch=batch, timeout=timeout) as scorer,
        count_bar(f"auditing {len(names)} adapters") as report_progress,
    ):
        report = ranks_report(run_ranks(scorer, names, sets, settings, line=line, progress=report_progress))
    if as_json:
        print_json(report.values())
    else:
        print_ranks(report)
    for path in write_ranks(report, out) if out else []:
        note(f"wrote {path}")


def matrix(
    *,
    server: AuditedServer,
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE.jsonl", help="An adapter and the set that it may know; repeatable."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An adapter without a set of its own; repeatable."),
    ] = None,
    candidates: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A set of no adapter's own; repeatable."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="An adapter and its training file, of which every answer is asked for."
        ),
    ] = None,
    data_format: DataFormat = None,
    data_split: DataSplit = None,
    out: Out = None,
    as_json: AsJson = False,
    skip_bad: SkipBad = False,
    split: Split = "sentence",
    turns: TurnsOption = "only",
    tokenizer: Tokenizer = None,
    epsilon: EpsilonOption = None,
    parallel: Annotated[int, typer.Option(min=1, help="Adapters audited at a time, in mixed batches.")] = 4,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit every adapter on every set: exit 1 if one recites another's data."""
    from lorecall.audit.reports.matrix import matrix_report
    from lorecall.audit.runs.matrix import run_matrix
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.audit.scorers.http_scorer import HttpScorer
    from lorecall.server.cli.audit.output import print_matrix, write_matrix
    from lorecall.server.cli.common.progress import count_bar

    pairs, trained = ([split_pair(text) for text in given or ()] for given in (pair, data))
    if not pairs and not trained:
        raise UsageError("give an adapter's set with --pair or --data", hint="NAME=FILE", param="pair")
    load = reader(split, turns, tokenizer, skip_bad=skip_bad)
    files = list(dict.fromkeys([*(file for _, file in pairs), *(candidates or ())]))
    choices = (data_format, data_split, split, turns, tokenizer)
    whole = dict.fromkeys(file for _, file in trained)
    sets = [load(file) for file in files]
    sets += [read_training_data(str(file), *choices, skip_bad=skip_bad) for file in whole]
    names = list(dict.fromkeys([*(name for name, _ in (*pairs, *trained)), *(adapter or ())]))
    own = {(name, file.name) for name, file in (*pairs, *trained)}
    settings = AuditSettings(epsilon=epsilon, seed=seed, chunk=batch)
    with (
        HttpScorer(server, batch=batch, timeout=timeout) as scorer,
        count_bar(f"auditing {len(names)} adapters on {len(sets)} sets") as report_progress,
    ):
        found = run_matrix(scorer, names, sets, own, settings, parallel=parallel, progress=report_progress)
    report = matrix_report(found)
    if as_json:
        print_json(report.values())
    else:
        print_matrix(report)
    for path in write_matrix(report, out) if out else []:
        note(f"wrote {path}")
    raise typer.Exit(int(found.exit_code))
