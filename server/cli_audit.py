"""`lorecall audit`: what an adapter remembers, as a table, as reports, and as an exit code."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.errors import UsageError
from lorecall.server.cli_audit_inputs import (
    add_controls,
    check_confidence,
    check_formats,
    choose_policy,
    load_sets,
    print_json,
    split_pair,
)

app = typer.Typer(no_args_is_help=True, help="Audit what a served adapter has memorised.")

Server = Annotated[str, typer.Option(metavar="URL", help="A running lorecall server.")]
Candidates = Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Lines of id, prefix and target.")]
Controls = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="The same format, never trained on; 300 or more.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count bad lines where they would be an error.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the reports here.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report instead of the table.")]
Framing = Annotated[
    list[str] | None,
    typer.Option(help="raw, chat or chat+system; repeatable: the gravest verdict counts. raw by default."),
]
System = Annotated[str | None, typer.Option(help="System message of the framing chat+system.")]
PrefixTokens = Annotated[
    list[int] | None,
    typer.Option(
        min=1, metavar="N", help="Ask with only the last N prefix tokens, too; repeatable: 8, 16, 32, 64."
    ),
]
EpsilonOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Bound on the engine's logit error; the engine's own by default."),
]
Batch = Annotated[int, typer.Option(min=1, help="Snippets in one request.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds to wait for one answer.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


@app.command()
def run(
    *,
    server: Server,
    adapter: Annotated[str, typer.Option(metavar="NAME", help="The served adapter.")],
    candidates: Candidates,
    controls: Controls = None,
    generate_controls: Annotated[
        str | None, typer.Option(help="synthesis or permutation: make controls from the candidates.")
    ] = None,
    control_count: Annotated[int, typer.Option(min=1, help="Controls to make.")] = 300,
    out: Out = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="json, html or junit; repeatable; all by default.")
    ] = None,
    as_json: Json = False,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show candidates' text in the reports, not hashes.")
    ] = False,
    skip_bad: SkipBad = False,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The gate's policy; options outweigh it.")
    ] = None,
    max_certified: Annotated[int | None, typer.Option(min=0, help="Certified candidates allowed.")] = None,
    max_recalled: Annotated[int | None, typer.Option(min=0, help="Recalled candidates allowed.")] = None,
    max_near_verbatim: Annotated[
        int | None, typer.Option(min=0, help="Near-verbatim candidates allowed; any by default.")
    ] = None,
    max_partial: Annotated[
        int | None, typer.Option(min=0, help="Partial candidates allowed; any by default.")
    ] = None,
    max_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Largest rate recited, by the upper end of its interval, in place of the two counts.",
        ),
    ] = None,
    until_bound: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Ask in random order and stop once the rate is known to be below or above this one.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of every interval, within (0, 1).")] = 0.95,
    ignore_short: Annotated[
        bool, typer.Option("--ignore-short", help="Leave targets that the base finds likely out of the gate.")
    ] = False,
    framing: Framing = None,
    system: System = None,
    prefix_tokens: PrefixTokens = None,
    epsilon: EpsilonOption = None,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit one adapter: exit 0 clean, 1 leaks over the policy, 3 incomplete, 4 the engine disagrees."""
    from dataclasses import replace

    from lorecall.audit.http_scorer import HttpScorer
    from lorecall.audit.policy import judge_result
    from lorecall.audit.redact import redactor
    from lorecall.audit.report import build_report
    from lorecall.audit.run import AuditSettings, run_audit
    from lorecall.audit.views import make_views
    from lorecall.server.cli_audit_output import print_summary, print_table, progress, write_reports

    wanted = check_formats(formats)
    views = make_views(framing or (), system, prefix_tokens or ())
    sets = load_sets(candidates, controls, skip_bad=skip_bad)
    if generate_controls is not None:
        add_controls(sets, generate_controls, control_count, seed)
    limits = {
        "max_certified": max_certified,
        "max_recalled": max_recalled,
        "max_near_verbatim": max_near_verbatim,
        "max_partial": max_partial,
        "max_rate": max_rate,
    }
    rules = choose_policy(policy, limits, by_rate=(max_rate or until_bound) is not None)
    if ignore_short:
        rules = replace(rules, count_short=False)
    check_confidence(confidence)
    settings = AuditSettings(
        epsilon=epsilon, seed=seed, chunk=batch, views=views, confidence=confidence, until_bound=until_bound
    )
    with HttpScorer(server, batch=batch, timeout=timeout) as scorer:
        with progress(f"auditing {adapter}") as report_progress:
            result = run_audit(scorer, adapter, sets, settings, progress=report_progress)
        gate = judge_result(result, rules)
        report = build_report(result, gate, rules, redactor(show=show_text), scorer.token_texts)
    written = write_reports(report, out, wanted) if out else []
    if as_json:
        print_json(report)
    else:
        print_table(report)
    print_summary(report, written)
    raise typer.Exit(int(gate.exit_code))


@app.command()
def ranks(
    *,
    server: Server,
    adapter: Annotated[list[str], typer.Option(metavar="NAME", help="A served adapter; repeatable.")],
    candidates: Candidates,
    controls: Controls = None,
    line: Annotated[str, typer.Option(metavar="TEXT", help="Follow this line's tokens over the ranks.")] = "",
    out: Out = None,
    as_json: Json = False,
    skip_bad: SkipBad = False,
    framing: Framing = None,
    system: System = None,
    prefix_tokens: PrefixTokens = None,
    epsilon: EpsilonOption = None,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Compare several adapters on the same candidates: capacity against recall. Exit 0; it is no gate."""
    from lorecall.audit.http_scorer import HttpScorer
    from lorecall.audit.ranks_report import ranks_report, run_ranks
    from lorecall.audit.run import AuditSettings
    from lorecall.audit.views import make_views
    from lorecall.server.cli_audit_output import note, print_ranks, progress, write_ranks

    if line and len(line.split()) < 2:
        raise UsageError(
            f"--line {line!r} is a single word", hint="give a line of several words", param="line"
        )
    views = make_views(framing or (), system, prefix_tokens or ())
    sets = load_sets(candidates, controls, skip_bad=skip_bad)
    settings = AuditSettings(epsilon=epsilon, seed=seed, chunk=batch, views=views)
    names = list(dict.fromkeys(adapter))
    with (
        HttpScorer(server, batch=batch, timeout=timeout) as scorer,
        progress(f"auditing {len(names)} adapters") as report_progress,
    ):
        report = ranks_report(run_ranks(scorer, names, sets, settings, line=line, progress=report_progress))
    if as_json:
        print_json(report)
    else:
        print_ranks(report)
    for path in write_ranks(report, out) if out else []:
        note(f"wrote {path}")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that an audit wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write the reports here.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="html or junit; repeatable; all by default.")
    ] = None,
) -> None:
    """Render a report.json again, as HTML and JUnit XML, without an engine."""
    from lorecall.audit.report import read_report
    from lorecall.server.cli_audit_output import note, write_reports

    for path in write_reports(read_report(file), out, check_formats(formats)):
        note(f"wrote {path}")


@app.command()
def matrix(
    *,
    server: Server,
    pair: Annotated[
        list[str],
        typer.Option(metavar="NAME=FILE.jsonl", help="An adapter and the set that it may know; repeatable."),
    ],
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An adapter without a set of its own; repeatable."),
    ] = None,
    candidates: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.jsonl", help="A set that is nobody's own; repeatable.")
    ] = None,
    out: Out = None,
    as_json: Json = False,
    skip_bad: SkipBad = False,
    epsilon: EpsilonOption = None,
    parallel: Annotated[int, typer.Option(min=1, help="Adapters asked at a time, in mixed batches.")] = 4,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit every adapter on every set: exit 1 if one recites another's data."""
    from lorecall.audit.candidates import load_candidates
    from lorecall.audit.http_scorer import HttpScorer
    from lorecall.audit.matrix import matrix_report, run_matrix
    from lorecall.audit.run import AuditSettings
    from lorecall.server.cli_audit_output import note, print_matrix, progress, write_matrix

    pairs = [split_pair(text) for text in pair]
    files = list(dict.fromkeys([*(file for _, file in pairs), *(candidates or ())]))
    sets = [load_candidates(file, skip_bad=skip_bad) for file in files]
    names = list(dict.fromkeys([*(name for name, _ in pairs), *(adapter or ())]))
    own = {(name, file.name) for name, file in pairs}
    settings = AuditSettings(epsilon=epsilon, seed=seed, chunk=batch)
    with (
        HttpScorer(server, batch=batch, timeout=timeout) as scorer,
        progress(f"auditing {len(names)} adapters on {len(sets)} sets") as report_progress,
    ):
        found = run_matrix(scorer, names, sets, own, settings, parallel=parallel, progress=report_progress)
    report = matrix_report(found)
    if as_json:
        print_json(report)
    else:
        print_matrix(report)
    for path in write_matrix(report, out) if out else []:
        note(f"wrote {path}")
    raise typer.Exit(int(found.exit_code))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that an audit wrote.")],
    *,
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="The audited file: is it the same?")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Score a sample again; needs --candidates.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Snippets to score again.")] = 20,
    seed: Seed = 0,
    timeout: Timeout = 600.0,
) -> None:
    """Check a report: its seal, its arithmetic, its inputs. Exit 1 if it does not hold, 4 if scores differ."""
    from lorecall.audit.candidates import load_candidates
    from lorecall.audit.http_scorer import HttpScorer
    from lorecall.audit.report import read_report
    from lorecall.audit.verify import check_contents, check_input, rescore
    from lorecall.server.cli_audit_output import note

    content = read_report(file)
    problems = check_contents(content)
    given = load_candidates(candidates, skip_bad=True) if candidates else None
    if given is not None:
        problems += check_input(content, "candidates", given)
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
