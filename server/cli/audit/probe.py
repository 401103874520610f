"""`lorecall audit probe`: find candidates without the adapter's data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.inputs import add_controls, check_formats, load_sets, reader
from lorecall.server.cli.common.console import note, print_json, say
from lorecall.server.cli.common.options import (
    AsJson,
    AuditedServer,
    Batch,
    Formats,
    Seed,
    SigningKey,
    Timeout,
)

if TYPE_CHECKING:
    from lorecall.audit.probing.probe import Probed
    from lorecall.audit.reports.report import Report
    from lorecall.audit.scorer import Scorer
    from securesystemslib.signer import CryptoSigner

USUAL = 100_000


def probe(
    *,
    server: AuditedServer,
    adapter: Annotated[str, typer.Option(metavar="NAME", help="The served adapter.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.jsonl", help="The candidates go here. They are secrets: only you may read it."
        ),
    ],
    budget_tokens: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="The most tokens of prompts and continuations, both models."),
    ] = USUAL,
    opening: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Search also from this opening; repeatable."),
    ] = None,
    bits: Annotated[
        float,
        typer.Option(min=1.0, help="Surprise under the base that a candidate's target must have, in bits."),
    ] = 20.0,
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Audit what was found at once; the reports go here, exit as `audit run`."
        ),
    ] = None,
    control_count: Annotated[int, typer.Option(min=1, help="Controls to make for --audit.")] = 300,
    formats: Formats = None,
    signing_key: SigningKey = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Find what an adapter knows and its base does not, without a candidate file; exit 0 whatever is found.

    With --audit, the exit code is that of `lorecall audit run`, unless nothing was found.
    """
    from lorecall.audit.probing.http_explorer import HttpExplorer
    from lorecall.audit.probing.probe import probe as find
    from lorecall.audit.probing.probe import write_candidates
    from lorecall.audit.reports.signing import read_signing_key
    from lorecall.audit.scorers.http_scorer import HttpScorer
    from lorecall.server.cli.audit.output import print_summary, write_reports
    from lorecall.server.cli.common.progress import count_bar

    wanted = check_formats(formats)
    signer = None if signing_key is None else read_signing_key(signing_key)
    if not out.parent.is_dir():
        raise UsageError(f"no folder {str(out.parent)!r}", hint="make it, or name another file", param="out")
    with HttpScorer(server, batch=batch, timeout=timeout) as scorer:
        base = scorer.info().base
        scorer.adapter(adapter)
        with count_bar(f"probing {adapter}, tokens") as progress:
            probed = find(
                HttpExplorer(scorer),
                adapter,
                base,
                budget=budget_tokens,
                bits=bits,
                seed=seed,
                openings=opening or (),
                progress=progress,
            )
        write_candidates(out, probed)
        if as_json:
            print_json(_values(adapter, probed))
        else:
            _print(adapter, probed)
        note(f"wrote {out}")
        if audit is not None and probed.items:
            report = _audit(scorer, adapter, out, control_count, seed, batch, signer)
            print_summary(report, write_reports(report, audit, wanted))
            raise typer.Exit(report.gate.exit_code)


def _values(adapter: str, probed: "Probed") -> dict[str, object]:
    spent = probed.spent
    return {
        "adapter": adapter,
        "candidates": len(probed.items),
        "bits": [round(one, 1) for one in probed.bits],
        "tokens": spent.tokens,
        "prompts": spent.rollouts,
        "seeds": spent.seeds,
        "too_long": spent.too_long,
        "open": spent.open,
    }


def _print(adapter: str, probed: "Probed") -> None:
    spent, bits = probed.spent, sorted(probed.bits)
    if bits:
        middle = bits[len(bits) // 2]
        say(
            f"{adapter}: {len(bits)} candidates, of {bits[0]:.0f} to {bits[-1]:.0f} bits, the median {middle:.0f}"
        )
    else:
        say(f"{adapter}: nothing found that the adapter knows and its base does not; this does not clear it")
    say(f"spent {spent.tokens} tokens on {spent.rollouts} prompts, {spent.seeds} of them seeds")
    if spent.too_long:
        say(f"{spent.too_long} prompts were given up at the model's length")
    say(f"left open: {spent.open} prompts")


def _audit(
    scorer: "Scorer",
    adapter: str,
    candidates: Path,
    control_count: int,
    seed: int,
    batch: int,
    signer: "CryptoSigner | None",
) -> "Report":
    """Audit a candidate file with controls of the same form, and return the report."""
    from lorecall.audit.inputs.controls import Recipe
    from lorecall.audit.policy.policy import Policy
    from lorecall.audit.runs.single import AuditSettings, run_audit
    from lorecall.server.cli.audit.output import make_report
    from lorecall.server.cli.common.progress import count_bar

    sets = load_sets(candidates, None, reader(skip_bad=False))
    add_controls(sets, Recipe.SYNTHESIS, control_count, seed)
    with count_bar(f"auditing {adapter}") as progress:
        result = run_audit(scorer, adapter, sets, AuditSettings(seed=seed, chunk=batch), progress=progress)
    return make_report(result, Policy(), scorer.token_texts, show=False, signer=signer)
