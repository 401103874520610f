"""The parametric memory law: how much loss an adapter can remove, by its rank and the length it memorises.

ΔL(r, l) = C * r^alpha * l^(-beta) + b, after Xu et al., "How LoRA Remembers?", arXiv 2605.30260. ΔL is the
base's mean loss less the adapter's on the same target tokens (nats per token), r the LoRA rank, l the number
of target tokens. ΔL is capped at the base's loss, so cells near the cap do not obey the law and are dropped.
The law explains and predicts inside the swept grid; it never clears an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lorecall.adapters.core.errors import LorecallError, UsageError
from numpy.typing import NDArray

PARAMETERS = ("C", "alpha", "beta", "b")
MIN_CELLS = len(PARAMETERS) + 1
MIN_LEVELS = 2  # of rank and of length: with one, its exponent is not determined

FloatArray = NDArray[np.float64]


class LawFitError(LorecallError):
    """A grid that does not determine the law."""

    exit_code = 2
    status = 400
    code = "law_not_determined"


class ExtrapolationError(UsageError):
    """A prediction outside the ranks and lengths that were swept."""

    code = "extrapolation_refused"


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained adapter of a sweep.

    Attributes:
        rank: LoRA rank, > 0.
        length: Target tokens memorised, > 0.
        delta_loss: Base loss less adapter loss, nats per target token.
    """

    rank: float
    length: float
    delta_loss: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided percentile interval of the bootstrap."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """ΔL at one (rank, length), in nats per token; `interval` is of the mean, not of a new measurement."""

    rank: float
    length: float
    delta_loss: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law and what it was fitted on.

    Attributes:
        values: C, alpha, beta and b, in the order of `PARAMETERS`.
        r_squared: 1 - residual over total sum of squares, on ΔL itself (not its logarithm).
        cells: Cells used.
        dropped: Saturated cells left out, those with ΔL over `max_delta`.
        max_delta: The saturation line in nats per token; None where no cell was dropped for it.
        ranks: Smallest and largest rank used.
        lengths: Smallest and largest length used.
        draws: Bootstrap parameters, shape (draws, 4), in the order of `PARAMETERS`.
        confidence: Coverage that the intervals aim at.
        seed: Seed of the bootstrap.
    """

    values: tuple[float, float, float, float]
    r_squared: float
    cells: int
    dropped: int
    max_delta: float | None
    ranks: tuple[float, float]
    lengths: tuple[float, float]
    draws: FloatArray
    confidence: float
    seed: int

    def interval(self, parameter: str) -> Interval:
        """Return the bootstrap interval of one of `PARAMETERS`."""
        return _percentiles(self.draws[:, PARAMETERS.index(parameter)], self.confidence)

    def delta_loss(self, ranks: FloatArray, lengths: FloatArray) -> FloatArray:
        """Return the fitted ΔL at each (rank, length), two arrays (n,), in nats per token."""
        return _curve(_inner(np.array(self.values)), ranks, lengths)

    def predict(self, rank: float, length: float) -> Prediction:
        """Return ΔL at a rank and length inside the swept grid.

        Raises:
            ExtrapolationError: The rank or the length lies outside what was swept.
        """
        for name, value, (low, high) in (("rank", rank, self.ranks), ("length", length, self.lengths)):
            if not low <= value <= high:
                raise ExtrapolationError(
                    f"{name} {value:g} lies outside the fitted cells",
                    hint=f"the law holds only where it was measured: {name} {low:g} to {high:g}",
                    param=name,
                )
        at = np.array([rank]), np.array([length])
        draws = np.array([_curve(_inner(draw), *at)[0] for draw in self.draws])
        point = float(self.delta_loss(*at)[0])
        return Prediction(rank, length, point, _percentiles(draws, self.confidence))


def fit_law(
    cells: Sequence[Cell],
    *,
    max_delta: float | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Law:
    """Fit the law by least squares on ΔL, with percentile intervals from resampling the cells (Efron 1979).

    Args:
        cells: The sweep; cells may repeat a (rank, length), such as for several seeds.
        max_delta: Cells with ΔL over this many nats per token are saturated and dropped; None keeps all.
        draws: Bootstrap resamples, at least 1.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        LawFitError: The cells kept do not determine four parameters.
    """
    kept = [cell for cell in cells if max_delta is None or cell.delta_loss <= max_delta]
    grid = np.array([(cell.rank, cell.length, cell.delta_loss) for cell in kept], dtype=np.float64)
    dropped = len(cells) - len(kept)
    if len(kept) < MIN_CELLS or not _determined(grid):
        raise LawFitError(
            f"{len(kept)} cells do not determine the law ({dropped} saturated ones dropped)",
            hint=f"at least {MIN_CELLS} unsaturated cells over {MIN_LEVELS} ranks and {MIN_LEVELS} lengths",
        )
    best = _least_squares(grid, _start(grid))
    residual = _residual(best, grid)
    total = grid[:, 2] - grid[:, 2].mean()
    return Law(
        values=_outer(best),
        r_squared=float(1 - residual @ residual / (total @ total)),
        cells=len(kept),
        dropped=dropped,
        max_delta=max_delta,
        ranks=(float(grid[:, 0].min()), float(grid[:, 0].max())),
        lengths=(float(grid[:, 1].min()), float(grid[:, 1].max())),
        draws=_bootstrap(grid, best, draws, np.random.default_rng(seed)),
        confidence=confidence,
        seed=seed,
    )


def _determined(grid: FloatArray) -> bool:
    """Whether cells (n, 3) hold enough different cells, ranks and lengths, and a ΔL that varies."""
    levels = [len(np.unique(column)) for column in grid.T]
    return min(levels) >= MIN_LEVELS and len(np.unique(grid, axis=0)) >= MIN_CELLS


def _bootstrap(grid: FloatArray, best: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """Refit on resampled cells, `draws` times; resamples that do not determine the law are drawn again."""
    found: list[tuple[float, float, float, float]] = []
    while len(found) < draws:
        sample = grid[rng.integers(0, len(grid), len(grid))]
        if _determined(sample):
            found.append(_outer(_least_squares(sample, best)))
    return np.array(found)


def _start(grid: FloatArray) -> FloatArray:
    """Start from the law without its offset, which is linear in logarithms of the cells with a gain."""
    gained = grid[grid[:, 2] > 0]
    if len(gained) < MIN_CELLS:
        return np.array([0.0, 0.5, 0.5, 0.0])
    design = np.column_stack([np.ones(len(gained)), np.log(gained[:, 0]), -np.log(gained[:, 1])])
    solution = np.linalg.lstsq(design, np.log(gained[:, 2]), rcond=None)[0]
    return np.array([*solution, 0.0])


def _least_squares(grid: FloatArray, start: FloatArray) -> FloatArray:
    """Return (ln C, alpha, beta, b) that minimise the squared residuals of ΔL."""
    from scipy.optimize import least_squares  # noqa: PLC0415  half a second to import

    solution: FloatArray = least_squares(_residual, start, jac=_jacobian, x_scale="jac", args=(grid,)).x
    return solution


def _residual(inner: FloatArray, grid: FloatArray) -> FloatArray:
    return _curve(inner, grid[:, 0], grid[:, 1]) - grid[:, 2]


def _jacobian(inner: FloatArray, grid: FloatArray) -> FloatArray:
    power = _curve(inner, grid[:, 0], grid[:, 1]) - inner[3]
    return np.column_stack(
        [power, power * np.log(grid[:, 0]), -power * np.log(grid[:, 1]), np.ones(len(grid))]
    )


def _curve(inner: FloatArray, rank: FloatArray, length: FloatArray) -> FloatArray:
    """ΔL of (ln C, alpha, beta, b): ln C stays free where C must be positive."""
    log_c, alpha, beta, offset = inner
    curve: FloatArray = np.exp(log_c + alpha * np.log(rank) - beta * np.log(length)) + offset
    return curve


def _outer(inner: FloatArray) -> tuple[float, float, float, float]:
    log_c, alpha, beta, offset = (float(value) for value in inner)
    return float(np.exp(log_c)), alpha, beta, offset


def _inner(outer: FloatArray) -> FloatArray:
    return np.array([np.log(outer[0]), *outer[1:]])


def _percentiles(values: FloatArray, confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
