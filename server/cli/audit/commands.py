"""`lorecall audit`: audit an adapter; print a table, write reports, and exit with the gate's code."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.audit.bulk import bulk
from lorecall.server.cli.audit.compare import matrix, ranks
from lorecall.server.cli.audit.discover import discover
from lorecall.server.cli.audit.inputs import (
    add_controls,
    check_formats,
    check_share,
    choose_policy,
    open_scorer,
)
from lorecall.server.cli.audit.mitigate import mitigate
from lorecall.server.cli.audit.probe import probe
from lorecall.server.cli.audit.reports import bundle, diff, report, verify
from lorecall.server.cli.audit.serve import serve
from lorecall.server.cli.audit.sets import SetOptions, ViewOptions, expanded, open_journal, read_sets
from lorecall.server.cli.audit.spending import agree, choose_decoding, read_budget
from lorecall.server.cli.common.console import print_json
from lorecall.server.cli.common.options import (
    AsJson,
    Batch,
    Formats,
    Out,
    Seed,
    SigningKey,
    Temperature,
    Timeout,
    TopK,
    TopP,
)

app = typer.Typer(no_args_is_help=True, help="Audit what a served adapter has memorised.")


@app.command()
@expanded
def run(
    *,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A running lorecall server, or another of vLLM's API.")
    ] = None,
    adapter: Annotated[str, typer.Option(metavar="NAME", help="The served adapter.")],
    asked: SetOptions,
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
    generate_controls: Annotated[
        str | None, typer.Option(help="synthesis or permutation: make controls from the candidates.")
    ] = None,
    out: Out = None,
    formats: Formats = None,
    as_json: AsJson = False,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show candidates' text in the reports, not hashes.")
    ] = False,
    signing_key: SigningKey = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The gate's policy; options override it.")
    ] = None,
    max_certified: Annotated[int | None, typer.Option(min=0, help="Certified candidates allowed.")] = None,
    max_recalled: Annotated[int | None, typer.Option(min=0, help="Recalled candidates allowed.")] = None,
    max_extractable: Annotated[
        int | None,
        typer.Option(min=0, help="Extractable candidates allowed: sampling gives them, greedy does not."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Sampled answers that count as extractable; 100 by default.")
    ] = None,
    chance: Annotated[
        float | None, typer.Option(help="Chance from which on it counts, within (0, 1); 0.5 by default.")
    ] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            help="Draw so many answers for each snippet that they may give; show seen beside predicted.",
        ),
    ] = 0,
    max_near_verbatim: Annotated[
        int | None, typer.Option(min=0, help="Near-verbatim candidates allowed; 0 by default.")
    ] = None,
    max_partial: Annotated[
        int | None, typer.Option(min=0, help="Partial candidates allowed; any by default.")
    ] = None,
    max_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Largest rate recited, by its one-sided upper bound, in place of the first two counts.",
        ),
    ] = None,
    until_bound: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Audit in random order and stop once the rate is known to be below or above this one; no count "
            "can be limited then.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence of every interval, within (0, 1).")] = 0.95,
    ignore_short: Annotated[
        bool, typer.Option("--ignore-short", help="Leave targets that the base finds likely out of the gate.")
    ] = False,
    allow_unverified: Annotated[
        bool,
        typer.Option("--allow-unverified", help="Let an adapter pass whose served version is not known."),
    ] = False,
    decode: Annotated[
        str | None,
        typer.Option(
            help="all, or likely: where the scores leave it open, and 5 % of the others as a check. By default "
            "likely for more than 1,000 candidates from --data, else all."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Ask for no more candidates than this takes, such as 10m: those that rank highest, and others "
            "at random. A part of them clears no count.",
        ),
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="The same, in tokens to score and decode.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before an audit of a minute or longer.")
    ] = False,
    keep: Annotated[
        int,
        typer.Option(min=1, help="How many of each set's gravest snippets reports show; all count."),
    ] = 20_000,
    ways: ViewOptions,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit one adapter: exit 0 clean, 1 leaks over the policy, 3 incomplete, 4 the engine disagrees."""
    from lorecall.audit.reports.signing import read_signing_key
    from lorecall.audit.runs.single import AuditSettings, run_audit, terms_of
    from lorecall.audit.verdicts import Group
    from lorecall.server.cli.audit.output import make_report, print_summary, print_table, write_reports
    from lorecall.server.cli.common.progress import count_bar

    wanted = check_formats(formats)
    signer = None if signing_key is None else read_signing_key(signing_key)
    views = ways.views()
    folders = {} if adapter_dir is None else {adapter: adapter_dir}
    opened = partial(open_scorer, scorer, server, base, folders, batch=batch, timeout=timeout)
    asked = replace(asked, tokenizer=asked.tokenizer or base)
    made = 0 if generate_controls else None
    sets = read_sets(asked, opened, out=out, seed=seed, batch=batch, made=made)
    seconds = read_budget(budget, budget_tokens)
    partial_audit = until_bound is not None or seconds is not None or budget_tokens is not None
    if generate_controls is not None:
        add_controls(sets, generate_controls, asked.control_count, seed)
    limits = {
        "max_certified": max_certified,
        "max_recalled": max_recalled,
        "max_near_verbatim": max_near_verbatim,
        "max_partial": max_partial,
        "max_rate": max_rate,
    }
    scheme = {
        "count": max_extractable,
        "samples": samples,
        "chance": chance,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
    }
    rules = choose_policy(policy, limits, until_bound, sampling=scheme, partial=partial_audit)
    told = (("count_short", False, ignore_short), ("allow_unverified", True, allow_unverified))
    rules = rules.model_copy(update={name: value for name, value, said in told if said})
    share = choose_decoding(
        decode,
        rules,
        len(sets[Group.CANDIDATES].items),
        trained=asked.data is not None,
        sequential=until_bound is not None,
    )
    check_share(confidence, "confidence")
    settings = AuditSettings(
        epsilon=ways.epsilon,
        bounds=rules.bounds.bounds(),
        seed=seed,
        chunk=batch,
        views=views,
        confidence=confidence,
        until_bound=until_bound,
        keep=keep,
        extraction=rules.sampling_wish,
        answers=sample,
        checked_share=share,
    )
    with opened() as engine:

        def terms() -> str:
            return terms_of(engine.info(), engine.adapter(adapter), sets, settings, (seconds, budget_tokens))

        with open_journal(out, terms) as journal:
            if journal is None or not journal.fixed:
                settings = agree(
                    engine, adapter, sets, settings, seconds=seconds, tokens=budget_tokens, yes=yes
                )
            with count_bar(f"auditing {adapter}") as report_progress:
                result = run_audit(engine, adapter, sets, settings, progress=report_progress, journal=journal)
            content = make_report(result, rules, engine.token_texts, show=show_text, signer=signer)
            written = write_reports(content, out, wanted) if out else []
    if as_json:
        print_json(content.values())
    else:
        print_table(content)
    print_summary(content, written)
    raise typer.Exit(content.gate.exit_code)


for command in (discover, probe, bulk, ranks, matrix, mitigate, report, verify, bundle, diff, serve):
    app.command()(command)
