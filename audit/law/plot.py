"""Plot a fitted law: the cells of a sweep, and the curves of the law."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import Cell, Law

FORMATS = (".svg", ".png", ".pdf")
POINTS = 50


def plot_law(cells: Sequence[Cell], fitted: Law, path: Path) -> None:
    """Draw ΔL (nats per token) against rank, a colour for each length, and write it.

    Cells that the fit dropped are drawn hollow. Lines run inside the fitted grid only.

    Args:
        cells: All cells of the sweep.
        fitted: The law fitted to them.
        path: The picture; its suffix is the format.

    Raises:
        UsageError: The suffix is not one of `FORMATS`, or matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"{path.name} is no picture", hint=f"one of {', '.join(FORMATS)}", param="plot")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional dependency
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed", hint="pip install 'lorecall[plots]'", param="plot"
        ) from error

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    low, high = fitted.lengths
    for length in sorted({cell.length for cell in cells}):
        here = [cell for cell in cells if cell.length == length]
        kept = [fitted.max_delta is None or cell.delta_loss <= fitted.max_delta for cell in here]
        ranks = np.geomspace(*fitted.ranks, POINTS if low <= length <= high else 0)
        deltas = fitted.delta_loss(ranks, np.full(len(ranks), length))
        line = axes.plot(ranks, deltas, label=f"{length:g} tokens")[0]
        axes.scatter(
            [cell.rank for cell in here],
            [cell.delta_loss for cell in here],
            edgecolors=line.get_color(),
            facecolors=[line.get_color() if keep else "none" for keep in kept],
        )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("LoRA rank r")
    axes.set_ylabel("ΔL (nats per token)")
    axes.set_title(
        f"ΔL = C·r^alpha·l^(-beta) + b, R² {fitted.r_squared:.3f} on {fitted.cells} cells", fontsize=10
    )
    axes.legend(title="length l")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
