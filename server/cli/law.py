"""`lorecall law`: fit the memory law to a sweep, and predict what a rank recites."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import print_json
from lorecall.server.cli.common.options import AsJson

if TYPE_CHECKING:
    from lorecall.audit.law.fit import Law

app = typer.Typer(no_args_is_help=True, help="The memory law: how much an adapter of a rank can memorise.")

Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
Draws = Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")]


@app.command()
def fit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="Columns rank, length, deltaL; base_loss.")
    ],
    cap: Annotated[
        float | None,
        typer.Option(help="The base's loss in nats per token, where the file has no base_loss."),
    ] = None,
    predict: Annotated[
        list[str] | None,
        typer.Option(metavar="RANK,LENGTH", help="Predict deltaL between the cells; repeatable."),
    ] = None,
    draws: Draws = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw cells and law; .svg, .png or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit deltaL(r, l) = min(C * r^alpha * l^(-beta) + b, base loss) to the cells of a sweep."""
    import math

    from lorecall.audit.law.capacity import finite
    from lorecall.audit.law.cells import read_cells
    from lorecall.audit.law.fit import fit_law

    points = [_point(text) for text in predict or ()]
    fitted = fit_law(read_cells(file, math.inf if cap is None else cap), draws=draws, seed=seed)
    predictions = [fitted.predict(rank, length, confidence) for rank, length in points]
    if plot is not None:
        from lorecall.audit.law.plot import plot_law

        plot_law(fitted, plot)
    report = _fit_report(fitted, predictions, confidence)
    if as_json:
        print_json(finite(report))
    else:
        _print_fit(report)


def _point(text: str) -> tuple[float, float]:
    try:
        rank, length = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--predict {text!r} is no pair", hint="such as 8,4000", param="predict") from error
    return rank, length


def _fit_report(fitted: "Law", predictions: list[Any], confidence: float) -> dict[str, Any]:
    from dataclasses import asdict

    from lorecall.audit.law.fit_quality import errors, profile
    from lorecall.audit.law.forms import LAW, RIVALS

    profiles = profile(fitted, confidence)
    return {
        "schema_version": 2,
        "parameters": {
            name: {
                "value": float(value),
                "profile": asdict(profiles[name]),
                "bootstrap": asdict(fitted.bootstrap(name, confidence)),
            }
            for name, value in zip(fitted.form.names, fitted.values, strict=True)
        },
        "r_squared": fitted.r_squared,
        "r_squared_below_cap": fitted.r_squared_below_cap,
        "noise": fitted.noise,
        "cells": len(fitted.cells),
        "capped": fitted.capped,
        "saturated": sum(cell.saturated for cell in fitted.cells),
        "confidence": confidence,
        "draws": len(fitted.draws),
        "resampled": fitted.resampled,
        "seed": fitted.seed,
        "forms": [asdict(errors(form, fitted.cells)) for form in (LAW, *RIVALS)],
        "predictions": [asdict(prediction) for prediction in predictions],
    }


def _print_fit(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console, share = Console(), f"{report['confidence']:.0%}"
    table = Table(
        "constant", "value", f"{share} profile", f"{share} bootstrap", title="deltaL = min(law, base loss)"
    )
    for name, constant in report["parameters"].items():
        table.add_row(
            name, f"{constant['value']:.4g}", _span(constant["profile"]), _span(constant["bootstrap"])
        )
    console.print(table)
    console.print(
        f"R² {report['r_squared']:.4f} on {report['cells']} cells, {report['saturated']} of them saturated and"
        f" {report['capped']} at the cap; {report['r_squared_below_cap']:.4f} on the"
        f" {report['cells'] - report['capped']} below it, which lie {report['noise']:.3f} nats around the law"
    )
    console.print(f"{report['draws']} bootstrap draws over the {report['resampled']}, seed {report['seed']}")
    table = Table("form", "R²", "MAPE", "a cell left out", "a rank left out", title="mean relative errors")
    for form in report["forms"]:
        shares = (f"{form[key]:.1%}" for key in ("mape", "left_out_cell", "left_out_rank"))
        table.add_row(form["form"], f"{form['r_squared']:.4f}", *shares)
    console.print(table)
    if report["predictions"]:
        table = Table("rank", "length", "deltaL", f"{share} of the law", f"{share} of a new measurement")
        for at in report["predictions"]:
            value = f"{at['delta_loss']:.3f}"
            table.add_row(
                f"{at['rank']:g}", f"{at['length']:g}", value, _span(at["mean"]), _span(at["interval"])
            )
        console.print(table)


def _span(interval: Mapping[str, float], form: str = ".4g") -> str:
    return f"{interval['low']:{form}} to {interval['high']:{form}}"


@app.command()
def recall(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of one set, an adapter each.")
    ],
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="A sweep over the same text: its ranks join the law."),
    ] = None,
    rank: Annotated[
        list[float] | None, typer.Option(min=0, help="Predict the recall of this rank; repeatable.")
    ] = None,
    chance: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="A rank certifies a line with at least this chance.")
    ] = 0.5,
    draws: Draws = 400,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Predict what share of a set a rank locks and certifies, and the smallest rank that certifies each line.

    A prediction explains; only the audit of the deployed adapter clears it.
    """
    from dataclasses import asdict

    from lorecall.audit.law.capacity import Audited, common_lines, describe, finite
    from lorecall.audit.law.cells import read_cells
    from lorecall.audit.law.recall import fit_recall
    from lorecall.audit.reports.build import read_report

    audits = []
    for path in reports:
        report = read_report(path)
        entries = [entry.model_dump(mode="json") for entry in report.snippets]
        audits.append(Audited(report.adapter.name, report.adapter.rank, entries))
    held, ids = common_lines(audits)
    cells = [] if sweep is None else read_cells(sweep)
    fitted = fit_recall(held, cells, draws=draws, seed=seed)
    wanted = [asdict(fitted.predict(one, confidence)) for one in rank or ()]
    lines = [
        {"id": name, **asdict(line)}
        for name, line in zip(ids, fitted.smallest_ranks(chance, confidence), strict=True)
    ]
    found = {"schema_version": 1, **describe(fitted, cells, confidence), "predictions": wanted}
    found |= {"chance": chance, "smallest_ranks": lines}
    if as_json:
        print_json(finite(found))
    else:
        _print_recall(found)


def _print_recall(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console, share = Console(), f"{found['confidence']:.0%}"
    console.print(
        f"law along the ranks: R² {found['r_squared']:.4f} on {found['cells']} cells; chances are"
        f" {found['calibration_error']:.3f} off isotonic regression on average, ranks differ by"
        f" {found['shift']:.2f} logits"
    )
    columns = ("rank", "tokens locked", share, "lines certified", share)
    table = Table("adapter", *columns, title="measured, and predicted from the other ranks")
    for row in found["ranks"]:
        measured = (f"{row['rank']:g}", f"{row['tokens']:.1%}", "measured", f"{row['lines']:.1%}", "measured")
        table.add_row(row["adapter"], *measured)
        left_out = row["left_out"]
        table.add_row("", *(_recall_row(left_out) if left_out else ("", "not determined", "", "", "")))
    for at in found["predictions"]:
        table.add_row("(asked)", *_recall_row(at))
    console.print(table)
    table = Table("line", "rank", share, title=f"smallest rank that certifies it, chance {found['chance']:g}")
    for line in found["smallest_ranks"]:
        table.add_row(line["id"], f"{line['rank']:g}", _span(line["interval"], "g"))
    console.print(table)


def _recall_row(at: Mapping[str, Any]) -> tuple[str, ...]:
    tokens, lines = _span(at["tokens_interval"], ".1%"), _span(at["lines_interval"], ".1%")
    return f"{at['rank']:g}", f"{at['tokens']:.1%}", tokens, f"{at['lines']:.1%}", lines
