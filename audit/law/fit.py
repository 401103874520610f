"""Fit the parametric memory law to the cells of a sweep, with intervals, and predict between its cells.

The law explains and predicts inside the swept grid; it never clears an adapter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.forms import (
    ALONG_RANKS,
    LAW,
    Cell,
    FloatArray,
    Form,
    LawFitError,
    capped,
    least_squares,
)

MIN_LEVELS = 2
"""Of rank and of length: with one, its exponent is not determined."""
MIN_SEEDS = 3
"""With fewer seeds, new noise is drawn around the fitted law."""
HULL_TOLERANCE = 1e-9


class ExtrapolationError(UsageError):
    """A prediction outside the cells that were measured."""

    code = "extrapolation_refused"


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval; an end that the cells do not determine is infinite."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """ΔL at one (rank, length), in nats per token.

    Attributes:
        rank: LoRA rank.
        length: Target tokens.
        delta_loss: The fitted law, no more than the cap.
        cap: The base's loss at that length, between those of the measured lengths; infinite if not known.
        mean: Interval of the law's own value.
        interval: Interval of a new measurement there.
    """

    rank: float
    length: float
    delta_loss: float
    cap: float
    mean: Interval
    interval: Interval


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law and what it was fitted on.

    Attributes:
        form: The law, or the law at one length.
        values: Its parameters, in the order of `form.names`.
        cells: The cells.
        noise: Standard deviation of a cell around the law, where it is under its cap, nats per token.
        r_squared: 1 - residual over total sum of squares, on ΔL itself (not its logarithm).
        capped: Cells that the law puts at their cap.
        draws: Bootstrap parameters, shape (draws, parameters).
        freedom: Cells under their cap less parameters.
        resampled: "seeds", or "noise" where there are fewer than `MIN_SEEDS` of them.
        seed: Of the resampling.
    """

    form: Form
    values: FloatArray
    cells: tuple[Cell, ...]
    noise: float
    r_squared: float
    capped: int
    draws: FloatArray
    freedom: int
    resampled: str
    seed: int

    def delta_loss(self, cells: Sequence[Cell]) -> FloatArray:
        """Return the fitted ΔL of cells, no more than their caps, shape (n,), in nats per token."""
        return capped(self.form, self.values, cells)

    @property
    def r_squared_below_cap(self) -> float:
        """R² on the cells that the law leaves under their cap; nan where they do not differ."""
        fitted = self.delta_loss(self.cells)
        free = fitted < np.array([cell.cap for cell in self.cells])
        gains = np.array([cell.delta_loss for cell in self.cells])[free]
        total = float(((gains - gains.mean()) ** 2).sum()) if free.any() else 0.0
        return 1 - float(((gains - fitted[free]) ** 2).sum()) / total if total else float("nan")

    def spread(self, cells: Sequence[Cell]) -> FloatArray:
        """Return the bootstrap's ΔL of cells, no more than their caps, shape (draws, n)."""
        return np.array([capped(self.form, draw, cells) for draw in self.draws])

    def measured(self, cells: Sequence[Cell]) -> FloatArray:
        """Return what new measurements of cells would be: `spread` with a cell's noise, shape (draws, n)."""
        rng = np.random.default_rng(self.seed + 1)
        scale = noise_scales(self.noise, self.freedom, len(self.draws), rng)[:, None]
        noise = scale * rng.normal(size=(len(self.draws), len(cells)))
        return np.minimum(self.spread(cells) + noise, [cell.cap for cell in cells])

    def bootstrap(self, parameter: str, confidence: float) -> Interval:
        """Return the percentile interval of a parameter."""
        return percentiles(self.draws[:, self.form.names.index(parameter)], confidence)

    def cap(self, length: float) -> float:
        """Return the base's loss at a length, between those of the measured lengths, in nats per token."""
        lengths = sorted({cell.length for cell in self.cells})
        caps = [np.mean([cell.cap for cell in self.cells if cell.length == at]) for at in lengths]
        return float(np.interp(np.log(length), np.log(lengths), caps)) if np.isfinite(caps).all() else np.inf

    def predict(self, rank: float, length: float, confidence: float = 0.95) -> Prediction:
        """Return ΔL at a rank and length inside the convex hull of the measured cells (in logarithms).

        Raises:
            ExtrapolationError: The point lies outside.
        """
        if not (rank > 0 and length > 0 and _inside(self.cells, rank, length)):
            ranks, lengths = ([getattr(cell, name) for cell in self.cells] for name in ("rank", "length"))
            raise ExtrapolationError(
                f"rank {rank:g} with length {length:g} lies outside the measured cells",
                hint=f"the law holds only between them: rank {min(ranks):g} to {max(ranks):g}, length"
                f" {min(lengths):g} to {max(lengths):g}, without corners that were not measured",
                param="predict",
            )
        per_rank = self.cells[0].parameters / self.cells[0].rank
        at = [Cell(rank, length, 0.0, self.cap(length), per_rank * rank)]
        return Prediction(
            rank,
            length,
            float(self.delta_loss(at)[0]),
            at[0].cap,
            percentiles(self.spread(at)[:, 0], confidence),
            percentiles(self.measured(at)[:, 0], confidence),
        )


def fit_law(cells: Sequence[Cell], *, form: Form = LAW, draws: int = 1000, seed: int = 0) -> Law:
    """Fit min(law, cap) by least squares on ΔL, and again for the bootstrap (Efron 1979).

    The seeds are resampled, each with all its cells. With fewer than `MIN_SEEDS` of them, noise as large as the
    residuals is put on the fitted cells instead.

    Args:
        cells: The sweep, saturated cells included; cells may repeat a (rank, length), such as for several seeds.
        form: The law, or the law at one length.
        draws: Bootstrap resamples, at least 1.
        seed: Seed of the resampling.

    Raises:
        LawFitError: The cells do not determine the parameters.
    """
    if not determined(cells, form):
        saturated = sum(cell.saturated for cell in cells)
        lengths = "" if form is ALONG_RANKS else f" and {MIN_LEVELS} lengths"
        raise LawFitError(
            f"{len(cells)} cells, {saturated} of them saturated, do not determine the {form.name}",
            hint=f"at least {len(form.names) + 1} that are not saturated, over {MIN_LEVELS} ranks{lengths}",
        )
    best = least_squares(form, cells)
    fitted = capped(form, best, cells)
    gains, caps = (np.array([getattr(cell, name) for cell in cells]) for name in ("delta_loss", "cap"))
    residual, free = gains - fitted, fitted < caps
    total = gains - gains.mean()
    freedom = max(1, int(free.sum()) - len(best))  # of cells under their cap: the others fit by themselves
    noise = float(np.sqrt((residual[free] ** 2).sum() / freedom))
    rng = np.random.default_rng(seed)
    by_seed = len({cell.seed for cell in cells}) >= MIN_SEEDS
    scales = noise_scales(noise, freedom, draws, rng)
    samples = _of_seeds(cells, form, draws, rng) if by_seed else _with_noise(cells, fitted, scales, rng)
    return Law(
        form=form,
        values=best,
        cells=tuple(cells),
        noise=noise,
        r_squared=float(1 - residual @ residual / (total @ total)),
        capped=int((~free).sum()),
        draws=np.array([least_squares(form, sample, best) for sample in samples]),
        freedom=freedom,
        resampled="seeds" if by_seed else "noise",
        seed=seed,
    )


def noise_scales(noise: float, freedom: int, draws: int, rng: np.random.Generator) -> FloatArray:
    """Return what a standard deviation may be that was estimated with few degrees of freedom, shape (draws,).

    Normal noise of these scales follows Student's t.
    """
    return noise * np.sqrt(freedom / rng.chisquare(freedom, draws))


def determined(cells: Sequence[Cell], form: Form = LAW) -> bool:
    """Whether the cells hold enough different ones below their caps, ranks and lengths, and a ΔL that varies."""
    free = {(cell.rank, cell.length, cell.delta_loss) for cell in cells if not cell.saturated}
    levels = [len({one[axis] for one in free}) for axis in range(3)]
    levels = [levels[0], levels[2]] if form is ALONG_RANKS else levels
    return len(free) > len(form.names) and min(levels) >= MIN_LEVELS


def _of_seeds(
    cells: Sequence[Cell], form: Form, draws: int, rng: np.random.Generator
) -> Iterator[list[Cell]]:
    """Yield the cells of resampled seeds; resamples that do not determine the parameters are drawn again."""
    names = sorted({cell.seed for cell in cells})
    clusters = [[cell for cell in cells if cell.seed == name] for name in names]
    found = 0
    while found < draws:
        sample = [cell for index in rng.integers(0, len(names), len(names)) for cell in clusters[index]]
        if determined(sample, form):
            found += 1
            yield sample


def _with_noise(
    cells: Sequence[Cell], fitted: FloatArray, scales: FloatArray, rng: np.random.Generator
) -> Iterator[list[Cell]]:
    """Yield cells measured anew: the fitted gain with noise of each scale, no more than the cap."""
    for scale in scales:
        gains = fitted + scale * rng.normal(size=len(cells))
        yield [
            replace(cell, delta_loss=min(float(gain), cell.cap))
            for cell, gain in zip(cells, gains, strict=True)
        ]


def _inside(cells: Sequence[Cell], rank: float, length: float) -> bool:
    """Whether a point lies in the convex hull of the cells, in logarithms; on a line, between its ends."""
    from scipy.spatial import Delaunay  # noqa: PLC0415

    points = np.log([(cell.rank, cell.length) for cell in cells])
    point = np.log([rank, length])
    if min(len(set(axis)) for axis in points.T) < MIN_LEVELS:
        return bool(((points.min(axis=0) <= point) & (point <= points.max(axis=0))).all())
    return bool(Delaunay(points).find_simplex(point, tol=HULL_TOLERANCE) >= 0)


def percentiles(values: FloatArray, confidence: float) -> Interval:
    """Return the interval that leaves out equal shares of the values at both ends."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
