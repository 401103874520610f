# noqa: INP001  (a script, not a package)
"""How many tokens a cell of a sweep locks, by how much of the base's loss it leaves.

    python docs/recall_of_sweeps.py docs/sweeps/phonebook-plateau.csv docs/sweeps/phonebook-sft.csv

Fits the share of tokens over 0.5 as a logistic function of the logarithm of the share of the loss left, and
prints the mean loss at which half are locked, with a 95 % interval (cells drawn anew, 400 times, seed 0), and how
far the shares are from the function: in the fit, and for each rank as the others predict it. The distances are
over cells that are not saturated.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lorecall.audit.law.cells import read_cells
from lorecall.audit.law.fit import percentiles
from lorecall.audit.law.forms import Cell, FloatArray
from scipy.optimize import minimize
from scipy.special import expit

LEAST_LEFT, RIDGE, DRAWS = 1e-3, 1e-4, 400


def left(cells: Sequence[Cell]) -> FloatArray:
    """Return the logarithm of the share of the loss that each cell leaves."""
    shares = np.clip([1 - cell.delta_loss / cell.cap for cell in cells], LEAST_LEFT, 1)
    logs: FloatArray = np.log(shares)
    return logs


def fitted(cells: Sequence[Cell]) -> FloatArray:
    """Return constant and slope of the logistic function, each cell weighing as its tokens do."""
    design = np.column_stack([np.ones(len(cells)), left(cells)])
    locked, tokens = (np.array([getattr(cell, name) for cell in cells]) for name in ("locked", "length"))

    def unlikely(values: FloatArray) -> float:
        line = design @ values
        missed = tokens * (np.logaddexp(0, line) - locked * line)
        return float(missed.sum() / tokens.sum() + RIDGE * values @ values)

    best: FloatArray = minimize(unlikely, np.zeros(2), method="BFGS").x
    return best


def half(cells: Sequence[Cell]) -> float:
    """Return the mean loss at which half of the tokens are locked, in nats per token."""
    constant, slope = fitted(cells)
    return float(np.exp(-constant / slope) * np.mean([cell.cap for cell in cells]))


def distance(values: FloatArray, cells: Sequence[Cell]) -> list[float]:
    """Return how far each cell's share is from the function."""
    shares = expit(values[0] + values[1] * left(cells))
    return [abs(share - cell.locked) for share, cell in zip(shares, cells, strict=True)]


def main() -> None:
    """Print a line for each file."""
    rng = np.random.default_rng(0)
    for name in sys.argv[1:]:
        cells = read_cells(Path(name))
        free = [cell for cell in cells if not cell.saturated]
        draws = [half([cells[i] for i in rng.integers(0, len(cells), len(cells))]) for _ in range(DRAWS)]
        span = percentiles(np.array(draws), 0.95)
        unseen = [
            off
            for rank in {cell.rank for cell in free}
            for off in distance(
                fitted([cell for cell in cells if cell.rank != rank]), [c for c in free if c.rank == rank]
            )
        ]
        print(  # noqa: T201
            f"{name}: half at {half(cells):.2f} nats ({span.low:.2f} to {span.high:.2f}); off by"
            f" {np.mean(distance(fitted(cells), free)):.3f}, a rank left out by {np.mean(unseen):.3f},"
            f" on {len(free)} cells of {len(cells)}"
        )


if __name__ == "__main__":
    main()
