"""The memory law and its rivals as functions of a cell, each capped at what the base has to lose.

Every form is a straight line in logarithms, of the gain itself or of its logarithm, with or without an offset; a
cell's gain is that, but no more than its cap. The law is ΔL(r, l) = C * r^alpha * l^(-beta) + b, after Xu et al.,
"How LoRA Remembers?", arXiv 2605.30260.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lorecall.adapters.core.errors import LorecallError
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SATURATED = 0.95
"""A cell whose gain is over this share of its cap says little about the exponents."""
OFFSETS = (0.0, 0.1, 1.0, 10.0)
"""Where the search for an offset starts: this many times the gains' range below the least gain."""
MOST_EXPONENT = 300.0
MOST_STEPS = 200
"""Of one search; a form that does not fit runs away from the cells for ever."""


class LawFitError(LorecallError):
    """A grid that does not determine the law."""

    exit_code = 2
    status = 400
    code = "law_not_determined"


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained adapter of a sweep.

    Attributes:
        rank: LoRA rank, > 0.
        length: Target tokens memorised, > 0.
        delta_loss: Base loss less adapter loss, nats per target token.
        cap: The base's own loss on the same tokens, the most that delta_loss can be; infinite if not known.
        parameters: Sum over the adapted modules of rank * (d_in + d_out); 0 if not known: the rank stands for it.
        seed: Of the training; cells of one seed are resampled together.
        locked: Share of the target tokens with a probability over 0.5; nan if not known.
    """

    rank: float
    length: float
    delta_loss: float
    cap: float = np.inf
    parameters: float = 0.0
    seed: str = ""
    locked: float = np.nan

    @property
    def saturated(self) -> bool:
        """Whether the adapter has taken nearly all of the loss that there is."""
        return self.delta_loss > SATURATED * self.cap


@dataclass(frozen=True, slots=True)
class Form:
    """A function of the cells with `names` as its parameters.

    Attributes:
        name: As outputs call it.
        names: Its parameters: the constant, one for each row of `design`, then the offset if there is one.
        design: The exponents of rank, length and effective parameters in each column of the straight line.
        exponential: Whether the line is the logarithm of the gain over the offset; else it is the gain.
        offset: Whether there is an offset.
    """

    name: str
    names: tuple[str, ...]
    design: tuple[tuple[int, int, int], ...]
    exponential: bool = True
    offset: bool = True

    def columns(self, cells: Sequence[Cell]) -> FloatArray:
        """Return the design of cells, shape (n, columns)."""
        grid = np.array([(c.rank, c.length, c.parameters or c.rank) for c in cells], dtype=np.float64)
        return np.column_stack([np.ones(len(cells)), np.log(grid) @ np.array(self.design).T])

    def curve(self, values: FloatArray, columns: FloatArray) -> FloatArray:
        """Return the gain without the cap, shape (n,), in nats per token."""
        line: FloatArray = columns @ values[: columns.shape[1]]
        if self.exponential:
            line = np.exp(np.minimum(line, MOST_EXPONENT))
        return line + values[-1] if self.offset else line

    def jacobian(self, values: FloatArray, columns: FloatArray) -> FloatArray:
        """Return the derivatives of `curve` by the parameters, shape (n, parameters)."""
        slope = columns
        if self.exponential:
            power = self.curve(values, columns) - (values[-1] if self.offset else 0.0)
            slope = columns * power[:, None]
        return np.column_stack([slope, np.ones(len(columns))]) if self.offset else slope


RANK, PER_LENGTH = (1, 0, 0), (0, -1, 0)
LAW = Form("law", ("log C", "alpha", "beta", "b"), (RANK, PER_LENGTH))
ALONG_RANKS = Form("law at one length", ("log C", "alpha"), (RANK,), offset=False)
"""Without an offset, which a few ranks would not determine: no rank, no gain."""
RIVALS = (
    Form("log-linear", ("a", "alpha", "beta"), (RANK, PER_LENGTH), exponential=False, offset=False),
    Form("power without b", ("log C", "alpha", "beta"), (RANK, PER_LENGTH), offset=False),
    Form("power of parameters per token", ("log C", "gamma", "b"), ((0, -1, 1),)),
)


def capped(form: Form, values: FloatArray, cells: Sequence[Cell]) -> FloatArray:
    """Return the gain of each cell, no more than its cap, shape (n,)."""
    return np.minimum(form.curve(values, form.columns(cells)), [cell.cap for cell in cells])


def least_squares(form: Form, cells: Sequence[Cell], start: FloatArray | None = None) -> FloatArray:
    """Return the parameters that minimise the squared residuals of the capped gain.

    A saturated cell that the form puts over its cap has no residual but its distance from the cap: it says that
    the gain is at least that much. Without a `start` the best of several is taken.
    """
    from scipy import optimize  # noqa: PLC0415  half a second to import

    columns = form.columns(cells)
    gains, caps = (np.array([getattr(cell, name) for cell in cells]) for name in ("delta_loss", "cap"))

    def residual(values: FloatArray) -> FloatArray:
        off: FloatArray = np.minimum(form.curve(values, columns), caps) - gains
        return off

    def jacobian(values: FloatArray) -> FloatArray:
        return form.jacobian(values, columns) * (form.curve(values, columns) < caps)[:, None]

    starts = _starts(form, columns, gains, caps) if start is None else [start]
    found = [
        optimize.least_squares(residual, one, jac=jacobian, x_scale="jac", method="lm", max_nfev=MOST_STEPS)
        for one in starts
    ]
    best: FloatArray = min(found, key=lambda one: float(one.cost)).x
    return best


def _starts(form: Form, columns: FloatArray, gains: FloatArray, caps: FloatArray) -> list[FloatArray]:
    """Straight lines through the cells that are not saturated, one for each of some offsets."""
    free = gains <= SATURATED * caps
    if free.sum() < columns.shape[1]:
        free = np.ones_like(free)
    columns, gains = columns[free], gains[free]
    if not form.exponential:
        straight: FloatArray = np.linalg.lstsq(columns, gains, rcond=None)[0].astype(np.float64)
        return [straight]
    least, extent = float(gains.min()), float(np.ptp(gains)) or 1.0
    starts = []
    for share in OFFSETS:
        offset = min(0.0, least - 0.01 * extent) if share == 0 else least - share * extent
        logs = np.log(np.maximum(gains - (offset if form.offset else 0.0), 1e-3 * extent))
        line = np.linalg.lstsq(columns, logs, rcond=None)[0]
        starts.append(np.append(line, offset) if form.offset else line)
    return starts if form.offset else starts[:1]
