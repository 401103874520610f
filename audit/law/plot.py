"""Plot a fitted law: the cells of a sweep, and the curves of the law."""

from pathlib import Path

import numpy as np
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.fit import Law
from lorecall.audit.law.forms import Cell

FORMATS = (".svg", ".png", ".pdf")
POINTS = 50


def plot_law(fitted: Law, path: Path) -> None:
    """Draw ΔL (nats per token) against rank, a colour for each length, and write it.

    Saturated cells are drawn hollow. Lines run between the least and the largest rank of each length only.

    Args:
        fitted: The law, with its cells.
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
    for length in sorted({cell.length for cell in fitted.cells}):
        here = [cell for cell in fitted.cells if cell.length == length]
        found = [cell.rank for cell in here]
        ranks = np.geomspace(min(found), max(found), POINTS)
        curve = [Cell(rank, length, 0.0, fitted.cap(length)) for rank in ranks]
        line = axes.plot(ranks, fitted.delta_loss(curve), label=f"{length:g} tokens")[0]
        axes.scatter(
            found,
            [cell.delta_loss for cell in here],
            edgecolors=line.get_color(),
            facecolors=["none" if cell.saturated else line.get_color() for cell in here],
        )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("LoRA rank r")
    axes.set_ylabel("ΔL (nats per token)")
    axes.set_title(
        f"ΔL = min(C·r^alpha·l^(-beta) + b, base loss), R² {fitted.r_squared:.3f} on {len(fitted.cells)} cells",
        fontsize=10,
    )
    axes.legend(title="length l")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
