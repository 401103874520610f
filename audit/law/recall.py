"""From the law to recall: which tokens a rank locks, and so which lines it certifies.

The chance that an adapter locks a token (gives it over half) is a logistic function of how much of the base's
loss is left over the whole set, and of the base's loss on that token. A line is certified when all its tokens are
locked; they are taken as independent given these two. The law says what a rank leaves of the loss. It explains
and predicts; it never clears an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lorecall.audit.law.fit import ExtrapolationError, Interval, Law, fit_law, noise_scales, percentiles
from lorecall.audit.law.forms import ALONG_RANKS, Cell, FloatArray, LawFitError
from numpy.typing import NDArray

MIN_RANKS = 3
SAME_SET = 0.05
"""A cell of a sweep whose length differs by less, as a share, counts as one of the same set."""
RIDGE = 0.01
"""Keeps the logistic function finite where every token of a rank is locked."""
LEAST_LEFT = 1e-3
"""Share of the base's loss; less than that left is as good as none."""
LEAST_WEIGHT = 0.25
"""Of a cell, in tokens' variances: what one undecided token says."""
MOST_RANKS = 64
"""Ranks that are tried for a line, evenly spaced in logarithms where there are more whole ones."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an adapter of one rank holds of a set, token by token; all arrays are (tokens,).

    Attributes:
        adapter: Its name.
        rank: LoRA rank.
        line: Index of the token's line, from 0.
        base_loss: The base's loss, nats.
        locked: Whether the adapter locks the token.
        loss: The adapter's mean loss, nats per token.
        cap: The base's mean loss, nats per token.
    """

    adapter: str
    rank: float
    line: NDArray[np.int64]
    base_loss: FloatArray
    locked: NDArray[np.bool_]
    loss: float
    cap: float

    @property
    def cell(self) -> Cell:
        """The adapter as a cell of the law."""
        share = float(self.locked.mean())
        return Cell(self.rank, len(self.line), self.cap - self.loss, self.cap, locked=share)

    @property
    def lines(self) -> float:
        """The share of the lines whose tokens are all locked."""
        return float(_all_of(self.locked.astype(float), self.line).round().mean())

    @property
    def left(self) -> float:
        """The share of the base's loss that is left."""
        return self.loss / self.cap


@dataclass(frozen=True, slots=True)
class RankRecall:
    """What is predicted of one rank on the set: shares with the interval of a new measurement.

    Attributes:
        rank: LoRA rank.
        tokens: Share of tokens locked.
        tokens_interval: Its interval.
        lines: Share of lines certified.
        lines_interval: Its interval.
    """

    rank: float
    tokens: float
    tokens_interval: Interval
    lines: float
    lines_interval: Interval


@dataclass(frozen=True, slots=True)
class LineRank:
    """The smallest rank that certifies a line with the asked chance; infinite if no rank tried does."""

    line: int
    rank: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Recall:
    """The fitted chain from rank to recall, for one set of candidates.

    Attributes:
        held: The adapters that it was fitted to, by rank.
        law: ΔL of the set by rank.
        values: Of the logistic function: constant, logarithm of the share of the loss that is left, and of one
            plus the token's base loss, (3,).
        draws: The same as they would be on other lines and at another rank, (draws, 3).
        shift: Standard deviation between ranks, in logits.
    """

    held: tuple[Held, ...]
    law: Law
    values: FloatArray
    draws: FloatArray
    shift: float

    def at(self, rank: float, confidence: float = 0.95, left: float | None = None) -> RankRecall:
        """Return what any rank would hold by the law; with `left`, as if that share of the loss were known."""
        one = self.held[0]
        cell = [Cell(rank, len(one.line), 0.0, one.cap)]
        spread = self._left(self.law.measured(cell)[:, 0]) if left is None else np.full(len(self.draws), left)
        rng = np.random.default_rng(self.law.seed + 2)
        p = lock_probabilities(self.draws, spread, one.base_loss)
        locked = rng.random(p.shape) < p
        lines = np.array([_all_of(row.astype(float), one.line).round().mean() for row in locked])
        best = self._left(self.law.delta_loss(cell)) if left is None else np.array([left])
        point = lock_probabilities(self.values[None, :], best, one.base_loss)[0]
        return RankRecall(
            rank,
            float(point.mean()),
            percentiles(locked.mean(axis=1), confidence),
            float(_all_of(point, one.line).mean()),
            percentiles(lines, confidence),
        )

    def predict(self, rank: float, confidence: float = 0.95) -> RankRecall:
        """Return what a rank between the measured ones is predicted to hold.

        Raises:
            ExtrapolationError: It is no such rank.
        """
        ranks = [cell.rank for cell in self.law.cells]
        if not min(ranks) <= rank <= max(ranks):
            raise ExtrapolationError(
                f"rank {rank:g} lies outside the measured ones",
                hint=f"the law holds only between them: {min(ranks):g} to {max(ranks):g}",
                param="rank",
            )
        return self.at(rank, confidence)

    def smallest_ranks(self, chance: float = 0.5, confidence: float = 0.95) -> list[LineRank]:
        """Return for each line the smallest rank, between those held, with at least `chance` to certify it."""
        one = self.held[0]
        ranks = _whole_ranks(self.held[0].rank, self.held[-1].rank)
        cells = [Cell(rank, len(one.line), 0.0, one.cap) for rank in ranks]
        spread, best = self.law.spread(cells), self.law.delta_loss(cells)
        lines = int(one.line.max()) + 1
        found, point = np.full((len(self.draws), lines), np.inf), np.full(lines, np.inf)
        for index in reversed(range(len(ranks))):
            p = lock_probabilities(self.draws, self._left(spread[:, index]), one.base_loss)
            found[np.array([_all_of(row, one.line) for row in p]) >= chance] = ranks[index]
            at = lock_probabilities(self.values[None, :], self._left(best[index : index + 1]), one.base_loss)[
                0
            ]
            point[_all_of(at, one.line) >= chance] = ranks[index]
        low, high = np.quantile(
            found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0, method="inverted_cdf"
        )
        return [LineRank(i, float(point[i]), Interval(float(low[i]), float(high[i]))) for i in range(lines)]

    def loss_at(self, rank: float) -> float:
        """Return the fitted ΔL of a rank, nats per token."""
        one = self.held[0]
        return float(self.law.delta_loss([Cell(rank, len(one.line), 0.0, one.cap)])[0])

    def calibration_error(self) -> float:
        """Return how far the chances are from their isotonic regression, on average over the tokens."""
        from scipy.optimize import isotonic_regression  # noqa: PLC0415

        p = np.concatenate(
            [
                lock_probabilities(self.values[None, :], np.array([one.left]), one.base_loss)[0]
                for one in self.held
            ]
        )
        order = np.argsort(p, kind="stable")
        locked = np.concatenate([one.locked for one in self.held]).astype(float)
        return float(np.abs(isotonic_regression(locked[order]).x - p[order]).mean())

    def _left(self, delta_loss: FloatArray) -> FloatArray:
        return 1 - delta_loss / self.held[0].cap


def fit_recall(
    held: Sequence[Held], sweep: Sequence[Cell] = (), *, draws: int = 400, seed: int = 0
) -> Recall:
    """Fit the law along the ranks and the logistic function of the tokens.

    Args:
        held: Adapters on the same lines.
        sweep: Cells of the same text; those of the set's length, but for `SAME_SET`, join the adapters in the
            law, and in how much ranks differ.
        draws: Resamples, at least 1.
        seed: Of the resampling.

    Raises:
        LawFitError: There are fewer than `MIN_RANKS` ranks, or they do not determine the law.
    """
    if not held:
        raise LawFitError("no adapter determines recall", hint="audits of some ranks on one set")
    ordered = sorted(held, key=lambda one: (one.rank, one.adapter))
    same = [cell for cell in sweep if abs(cell.length / ordered[0].cell.length - 1) < SAME_SET]
    cells = [*(one.cell for one in ordered), *same]
    ranks = {cell.rank for cell in cells}
    if len(ranks) < MIN_RANKS:
        raise LawFitError(
            f"{len(ranks)} ranks do not determine recall",
            hint=f"audits of at least {MIN_RANKS} ranks on one set",
        )
    law = fit_law(cells, form=ALONG_RANKS, draws=draws, seed=seed)
    values, covariance = _logistic(ordered)
    rng = np.random.default_rng(seed)
    found = rng.multivariate_normal(values, covariance, draws)
    shift, freedom = _between_ranks(cells, values, ordered[0].base_loss)
    found[:, 0] += noise_scales(shift, freedom, draws, rng) * rng.normal(size=draws)
    return Recall(tuple(ordered), law, values, found, shift)


def left_out_ranks(
    held: Sequence[Held], sweep: Sequence[Cell] = (), *, draws: int = 400, seed: int = 0
) -> list[tuple[Held, Recall | None]]:
    """Return each adapter with the chain fitted without its rank; None if the others do not determine it."""
    found: list[tuple[Held, Recall | None]] = []
    for one in sorted(held, key=lambda at: (at.rank, at.adapter)):
        others = [other for other in held if other.rank != one.rank]
        cells = [cell for cell in sweep if cell.rank != one.rank]
        try:
            found.append((one, fit_recall(others, cells, draws=draws, seed=seed)))
        except LawFitError:
            found.append((one, None))
    return found


def lock_probabilities(values: FloatArray, left: FloatArray, base_loss: FloatArray) -> FloatArray:
    """Return the chance that each token is locked, shape (draws, tokens).

    Args:
        values: Of the logistic function, (draws, 3).
        left: Share of the base's loss that is left, (draws,).
        base_loss: Of the tokens, (tokens,).
    """
    from scipy.special import expit  # noqa: PLC0415

    constant = values[:, 0] + values[:, 1] * _log(left)
    chances: FloatArray = expit(constant[:, None] + values[:, 2:] * np.log1p(base_loss))
    return chances


def _logistic(held: Sequence[Held]) -> tuple[FloatArray, FloatArray]:
    """Return the logistic function of the greatest likelihood, and its covariance when lines are drawn anew.

    The covariance is the sandwich over lines (Liang and Zeger 1986), since the tokens of a line,
    under whatever rank, are no independent draws.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  half a second to import
    from scipy.special import expit  # noqa: PLC0415

    left = np.concatenate([np.full(len(one.line), one.left) for one in held])
    base_loss = np.concatenate([one.base_loss for one in held])
    design = np.column_stack([np.ones(len(left)), _log(left), np.log1p(base_loss)])
    locked = np.concatenate([one.locked for one in held]).astype(float)

    def unlikely(values: FloatArray) -> tuple[float, FloatArray]:
        line = design @ values
        missed = np.logaddexp(0, line).sum() - locked @ line + RIDGE / 2 * values @ values
        return float(missed), design.T @ (expit(line) - locked) + RIDGE * values

    values: FloatArray = minimize(unlikely, np.zeros(3), jac=True, method="BFGS").x
    p = expit(design @ values)
    bend = (design * (p * (1 - p))[:, None]).T @ design + RIDGE * np.eye(3)
    line = np.concatenate([one.line for one in held])
    pulls = design * (locked - p)[:, None]
    by_line = np.column_stack([np.bincount(line, pull) for pull in pulls.T])
    inverse = np.linalg.inv(bend)
    return values, inverse @ (by_line.T @ by_line) @ inverse


def _between_ranks(cells: Sequence[Cell], values: FloatArray, base_loss: FloatArray) -> tuple[float, int]:
    """Return the standard deviation of cells around the function, in logits, and its degrees of freedom.

    A cell's distance is that of its count of locked tokens, in standard logits; cells with all tokens locked, or
    none, say little of it and weigh as little.
    """
    known = [cell for cell in cells if np.isfinite(cell.locked)]
    predicted = lock_probabilities(
        values[None, :].repeat(len(known), 0), np.array([_left(c) for c in known]), base_loss
    )
    weight = np.maximum((predicted * (1 - predicted)).sum(axis=1), LEAST_WEIGHT)
    off = np.array([cell.locked for cell in known]) * len(base_loss) - predicted.sum(axis=1)
    freedom = max(
        1, sum(not cell.saturated for cell in known) - 2
    )  # a constant and a slope are fitted to them
    return float(np.sqrt((off**2 / weight).sum() / weight.sum() * len(known) / freedom)), freedom


def _left(cell: Cell) -> float:
    return 1 - cell.delta_loss / cell.cap


def _log(left: FloatArray) -> FloatArray:
    return np.log(np.clip(left, LEAST_LEFT, 1.0))


def _all_of(p: FloatArray, line: NDArray[np.int64]) -> FloatArray:
    """Return the product of each line's chances, shape (lines,)."""
    return np.exp(np.bincount(line, np.log(np.maximum(p, 1e-300))))


def _whole_ranks(low: float, high: float) -> list[float]:
    """Return whole ranks from low to high, at most `MOST_RANKS`."""
    if high - low < MOST_RANKS:
        return [float(rank) for rank in range(int(np.ceil(low)), int(high) + 1)]
    return sorted({float(round(rank)) for rank in np.geomspace(low, high, MOST_RANKS)})
