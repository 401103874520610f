"""How far a law is determined and how well it predicts: profile intervals, and errors on cells left out."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lorecall.audit.law.fit import Interval, Law
from lorecall.audit.law.forms import Cell, FloatArray, Form, capped, least_squares


@dataclass(frozen=True, slots=True)
class Errors:
    """How far one form is from the cells: from those it was fitted to, and from those it was not.

    Attributes:
        form: Its name.
        parameters: How many it has.
        r_squared: On ΔL itself, in the fit.
        mape: Mean of |fitted - measured| / |measured|, in the fit.
        left_out_cell: The same where each cell is predicted from the others.
        left_out_rank: The same where each rank is predicted from the other ranks; the least and the largest rank
            are extrapolated.
    """

    form: str
    parameters: int
    r_squared: float
    mape: float
    left_out_cell: float
    left_out_rank: float


def errors(form: Form, cells: Sequence[Cell]) -> Errors:
    """Return the errors of a form on cells that determine it."""
    best = least_squares(form, cells)
    gains, fitted = _gains(cells), capped(form, best, cells)
    return Errors(
        form=form.name,
        parameters=len(best),
        r_squared=float(1 - ((gains - fitted) ** 2).sum() / ((gains - gains.mean()) ** 2).sum()),
        mape=_mape(fitted, gains),
        left_out_cell=_left_out(form, best, cells, range(len(cells))),
        left_out_rank=_left_out(form, best, cells, [cell.rank for cell in cells]),
    )


def _gains(cells: Sequence[Cell]) -> FloatArray:
    return np.array([cell.delta_loss for cell in cells])


def _mape(fitted: FloatArray, gains: FloatArray) -> float:
    """Return the mean relative error; a gain of exactly zero has none."""
    some = gains != 0
    return float(np.mean(np.abs(fitted[some] / gains[some] - 1)))


def _left_out(form: Form, best: FloatArray, cells: Sequence[Cell], groups: Iterable[float]) -> float:
    """Return the mean relative error of each group's cells, fitted to all others."""
    group = np.array(list(groups))
    predicted = np.zeros(len(cells))
    for one in np.unique(group):
        others = [cell for cell, of in zip(cells, group, strict=True) if of != one]
        out = [cell for cell, of in zip(cells, group, strict=True) if of == one]
        predicted[group == one] = capped(form, least_squares(form, others, best), out)
    return _mape(predicted, _gains(cells))


def profile(law: Law, confidence: float) -> dict[str, Interval]:
    """Return the profile-likelihood interval of each parameter (Bates and Watts 1988, through lmfit).

    One parameter is held at a value and the others are fitted again; the F statistic counts the cells that the
    law leaves under their cap. An end that is not found is infinite.
    """
    from lmfit import Minimizer, Parameters, conf_interval  # noqa: PLC0415  a second to import
    from lmfit.minimizer import MinimizerException  # noqa: PLC0415
    from scipy.stats import f  # noqa: PLC0415  scipy.stats takes a second to import

    form, columns, gains = law.form, law.form.columns(law.cells), _gains(law.cells)
    caps = np.array([cell.cap for cell in law.cells])
    keys = [f"p{index}" for index in range(len(law.values))]
    parameters = Parameters()
    for key, value in zip(keys, law.values, strict=True):
        parameters.add(key, float(value))

    def residual(at: Any) -> FloatArray:
        curve = form.curve(np.array([at[key].value for key in keys]), columns)
        off: FloatArray = np.minimum(curve, caps) - gains
        return off

    freedom = max(1, len(law.cells) - law.capped - len(keys))

    def probability(best: Any, other: Any) -> float:
        return float(f.cdf(max(0.0, other.chisqr / best.chisqr - 1) * freedom, 1, freedom))

    minimizer = Minimizer(residual, parameters)
    best = minimizer.minimize(method="leastsq")

    def interval(key: str) -> Interval:
        try:
            with warnings.catch_warnings(action="ignore"):  # that an end is not found; it is infinite then
                found = conf_interval(minimizer, best, [key], sigmas=[confidence], prob_func=probability)
        except (ValueError, MinimizerException):
            return Interval(-math.inf, math.inf)
        low, _, high = (float(value) for _, value in found[key])
        return Interval(low if math.isfinite(low) else -math.inf, high if math.isfinite(high) else math.inf)

    return {name: interval(key) for name, key in zip(form.names, keys, strict=True)}
