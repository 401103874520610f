"""`lorecall law`: fit the memory law to a sweep."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.options import AsJson

if TYPE_CHECKING:
    from lorecall.audit.law.fit import Law, Prediction

app = typer.Typer(no_args_is_help=True, help="The memory law: how much an adapter of a rank can memorise.")


@app.callback()
def law() -> None:
    """Without a callback, Typer would drop the name of the only command, `fit`."""


@app.command()
def fit(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Columns rank, length, deltaL.")],
    max_delta: Annotated[
        float | None, typer.Option(help="Drop cells with deltaL over this (saturated), in nats per token.")
    ] = None,
    predict: Annotated[
        list[str] | None,
        typer.Option(metavar="RANK,LENGTH", help="Predict deltaL in the grid; repeatable."),
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw cells and law; .svg, .png or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit deltaL(r, l) = C * r^alpha * l^(-beta) + b to the cells of a sweep."""
    from lorecall.audit.law.cells import read_cells
    from lorecall.audit.law.fit import fit_law

    points = [_point(text) for text in predict or ()]
    cells = read_cells(file)
    fitted = fit_law(cells, max_delta=max_delta, draws=draws, confidence=confidence, seed=seed)
    predictions = [fitted.predict(rank, length) for rank, length in points]
    if plot is not None:
        from lorecall.audit.law.plot import plot_law

        plot_law(cells, fitted, plot)
    if as_json:
        sys.stdout.write(json.dumps(_as_json(fitted, predictions), indent=2) + "\n")
    else:
        _print(fitted, predictions)


def _point(text: str) -> tuple[float, float]:
    try:
        rank, length = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--predict {text!r} is no pair", hint="such as 8,4000", param="predict") from error
    return rank, length


def _as_json(fitted: "Law", predictions: "list[Prediction]") -> dict[str, Any]:
    from dataclasses import asdict

    from lorecall.audit.law.fit import PARAMETERS

    return {
        "schema_version": 1,
        "parameters": {
            name: {"value": value, **asdict(fitted.interval(name))}
            for name, value in zip(PARAMETERS, fitted.values, strict=True)
        },
        "r_squared": fitted.r_squared,
        "cells": fitted.cells,
        "dropped": fitted.dropped,
        "max_delta": fitted.max_delta,
        "ranks": fitted.ranks,
        "lengths": fitted.lengths,
        "confidence": fitted.confidence,
        "draws": len(fitted.draws),
        "seed": fitted.seed,
        "predictions": [asdict(prediction) for prediction in predictions],
    }


def _print(fitted: "Law", predictions: "list[Prediction]") -> None:
    from lorecall.audit.law.fit import PARAMETERS
    from rich.console import Console
    from rich.table import Table

    console = Console()
    interval_title = f"{fitted.confidence:.0%} interval"
    table = Table("constant", "value", interval_title, title="deltaL = C * r^alpha * l^(-beta) + b")
    for name, value in zip(PARAMETERS, fitted.values, strict=True):
        interval = fitted.interval(name)
        table.add_row(name, f"{value:.4g}", f"{interval.low:.4g} to {interval.high:.4g}")
    console.print(table)
    limit = "no --max-delta given" if fitted.max_delta is None else f"deltaL > {fitted.max_delta:g}"
    console.print(f"R² {fitted.r_squared:.4f} on {fitted.cells} cells; {fitted.dropped} dropped ({limit})")
    console.print(
        f"holds for rank {fitted.ranks[0]:g} to {fitted.ranks[1]:g} and length {fitted.lengths[0]:g} to"
        f" {fitted.lengths[1]:g}; {len(fitted.draws)} bootstrap draws, seed {fitted.seed}"
    )
    if predictions:
        table = Table("rank", "length", "deltaL", interval_title)
        for at in predictions:
            bounds = f"{at.interval.low:.3f} to {at.interval.high:.3f}"
            table.add_row(f"{at.rank:g}", f"{at.length:g}", f"{at.delta_loss:.3f}", bounds)
        console.print(table)
