"""`lorecall audit`: audit an adapter; print a table, write reports, and exit with the gate's code."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.audit.compare import matrix, ranks
from lorecall.server.cli.audit.inputs import (
    add_controls,
    check_confidence,
    check_formats,
    choose_policy,
    load_sets,
    open_scorer,
    reader,
)
from lorecall.server.cli.audit.mitigate import mitigate
from lorecall.server.cli.audit.reports import bundle, diff, report, verify
from lorecall.server.cli.audit.serve import serve
from lorecall.server.cli.common.console import print_json
from lorecall.server.cli.common.options import (
    AsJson,
    Batch,
    Candidates,
    Controls,
    EpsilonOption,
    Formats,
    Framing,
    Out,
    PrefixTokens,
    Seed,
    SigningKey,
    SkipBad,
    Split,
    System,
    Template,
    Timeout,
    Tokenizer,
    TurnsOption,
)

app = typer.Typer(no_args_is_help=True, help="Audit what a served adapter has memorised.")


@app.command()
def run(
    *,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A running lorecall server, or another of vLLM's API.")
    ] = None,
    adapter: Annotated[str, typer.Option(metavar="NAME", help="The served adapter.")],
    candidates: Candidates,
    scorer: Annotated[
        str,
        typer.Option(
            help="lorecall: our server; completions: any vLLM server; offline: an engine without a server; "
            "transformers: the slow reference."
        ),
    ] = "lorecall",
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared base, for offline and transformers.")
    ] = None,
    adapter_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The adapter's PEFT folder, for scorers other than lorecall."),
    ] = None,
    controls: Controls = None,
    generate_controls: Annotated[
        str | None, typer.Option(help="synthesis or permutation: make controls from the candidates.")
    ] = None,
    control_count: Annotated[int, typer.Option(min=1, help="Controls to make.")] = 300,
    out: Out = None,
    formats: Formats = None,
    as_json: AsJson = False,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show candidates' text in the reports, not hashes.")
    ] = False,
    signing_key: SigningKey = None,
    skip_bad: SkipBad = False,
    split: Split = "sentence",
    turns: TurnsOption = "only",
    tokenizer: Tokenizer = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The gate's policy; options override it.")
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
            help="Audit in random order and stop once the rate is known to be below or above this one.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of every interval, within (0, 1).")] = 0.95,
    ignore_short: Annotated[
        bool, typer.Option("--ignore-short", help="Leave targets that the base finds likely out of the gate.")
    ] = False,
    keep: Annotated[
        int,
        typer.Option(min=1, help="How many of each set's gravest snippets reports show; all count."),
    ] = 20_000,
    framing: Framing = None,
    system: System = None,
    template: Template = None,
    prefix_tokens: PrefixTokens = None,
    epsilon: EpsilonOption = None,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit one adapter: exit 0 clean, 1 leaks over the policy, 3 incomplete, 4 the engine disagrees."""
    from lorecall.audit.judging.views import make_views
    from lorecall.audit.policy.policy import judge_result
    from lorecall.audit.reports.build import build_report
    from lorecall.audit.reports.redact import redactor
    from lorecall.audit.reports.seal import seal
    from lorecall.audit.reports.signing import read_signing_key
    from lorecall.audit.runs.single import AuditSettings, run_audit
    from lorecall.server.cli.audit.output import print_summary, print_table, write_reports
    from lorecall.server.cli.common.progress import count_bar

    wanted = check_formats(formats)
    signer = None if signing_key is None else read_signing_key(signing_key)
    views = make_views(framing or (), system, prefix_tokens or (), template)
    sets = load_sets(candidates, controls, reader(split, turns, tokenizer or base, skip_bad=skip_bad))
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
        rules = rules.model_copy(update={"count_short": False})
    check_confidence(confidence)
    settings = AuditSettings(
        epsilon=epsilon,
        seed=seed,
        chunk=batch,
        views=views,
        confidence=confidence,
        until_bound=until_bound,
        keep=keep,
    )
    folders = {} if adapter_dir is None else {adapter: adapter_dir}
    with open_scorer(scorer, server, base, folders, batch=batch, timeout=timeout) as engine:
        with count_bar(f"auditing {adapter}") as report_progress:
            result = run_audit(engine, adapter, sets, settings, progress=report_progress)
        gate = judge_result(result, rules)
        content = build_report(result, gate, rules, redactor(show=show_text), engine.token_texts)
    if signer is not None:
        content = seal(content, signer)
    written = write_reports(content, out, wanted) if out else []
    if as_json:
        print_json(content.values())
    else:
        print_table(content)
    print_summary(content, written)
    raise typer.Exit(int(gate.exit_code))


for command in (ranks, matrix, mitigate, report, verify, bundle, diff, serve):
    app.command()(command)
