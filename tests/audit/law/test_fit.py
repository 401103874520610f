"""The memory law is recovered where it holds, bounded where it does not, and never extrapolated."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.audit.law.cells import read_cells
from lorecall.audit.law.fit import Cell, ExtrapolationError, LawFitError, fit_law

POINTS = Path(__file__).parents[2] / "data" / "law-points.csv"
RANKS = (1, 2, 4, 8, 16, 32)
LENGTHS = (500, 1000, 2000, 4000, 8000)


def synthetic(c: float, alpha: float, beta: float, b: float, *, noise: float, seed: int) -> list[Cell]:
    """Return a grid that obeys the law but for Gaussian noise (standard deviation in nats)."""
    rng = np.random.default_rng(seed)
    return [
        Cell(rank, length, c * rank**alpha * length**-beta + b + rng.normal(0, noise))
        for rank in RANKS
        for length in LENGTHS
    ]


@settings(max_examples=25)
@given(
    c=st.floats(50, 400),
    alpha=st.floats(0.4, 0.9),
    beta=st.floats(0.4, 0.9),
    b=st.floats(-1, 1),
    seed=st.integers(0, 2**16),
)
def test_constants_of_a_noiseless_grid_are_recovered(
    c: float, alpha: float, beta: float, b: float, seed: int
) -> None:
    """Without noise, least squares finds the four constants that made the grid."""
    law = fit_law(synthetic(c, alpha, beta, b, noise=0, seed=seed), draws=1)
    assert law.values == pytest.approx((c, alpha, beta, b), rel=1e-4, abs=1e-4)
    assert law.r_squared == pytest.approx(1)


def test_constants_of_noisy_grids_lie_in_their_intervals_as_often_as_stated() -> None:
    """Over 40 noisy grids, each constant's 90 % interval holds the truth in at least 70 % of them.

    Percentile intervals of 30 cells are a little too narrow; binomial scatter of 40 grids is ± 9 % (2 sigma).
    """
    truth = {"C": 200.0, "alpha": 0.65, "beta": 0.55, "b": -0.5}
    hits = dict.fromkeys(truth, 0)
    for seed in range(40):
        law = fit_law(synthetic(*truth.values(), noise=0.1, seed=seed), draws=200, confidence=0.9, seed=seed)
        for name, value in truth.items():
            interval = law.interval(name)
            hits[name] += interval.low <= value <= interval.high
    assert min(hits.values()) >= 28, hits


def test_the_papers_points_give_the_known_constants() -> None:
    """All 59 points of the paper's figure give C 210, alpha 0.629, beta 0.535, b -0.60 and R² 0.9956."""
    law = fit_law(read_cells(POINTS), draws=1)
    c, alpha, beta, b = law.values
    assert (law.cells, law.dropped) == (59, 0)
    assert c == pytest.approx(210, abs=0.5)
    assert (alpha, beta, b) == pytest.approx((0.629, 0.535, -0.60), abs=0.005)
    assert law.r_squared == pytest.approx(0.9956, abs=5e-5)


def test_dropping_the_papers_saturated_points_gives_the_known_constants() -> None:
    """Without the five points over 11.45, alpha is 0.697, beta 0.586 and R² 0.9978."""
    law = fit_law(read_cells(POINTS), max_delta=11.45, draws=1)
    _, alpha, beta, _ = law.values
    assert (law.cells, law.dropped) == (54, 5)
    assert (alpha, beta) == pytest.approx((0.697, 0.586), abs=5e-4)
    assert law.r_squared == pytest.approx(0.9978, abs=5e-5)


def test_saturated_cells_bias_the_fit_unless_dropped() -> None:
    """A cap at the base loss pulls alpha down; dropping the capped cells restores it."""
    capped = [
        Cell(c.rank, c.length, min(c.delta_loss, 5.0)) for c in synthetic(200, 0.7, 0.6, 0, noise=0, seed=0)
    ]
    biased = fit_law(capped, draws=1)
    cured = fit_law(capped, max_delta=4.99, draws=1)
    assert cured.dropped == sum(cell.delta_loss > 4.99 for cell in capped) > 0
    assert cured.values[1] == pytest.approx(0.7, abs=1e-4)
    assert biased.values[1] < 0.65


def test_a_prediction_inside_the_grid_is_the_formula_with_an_interval() -> None:
    """The predicted ΔL is the fitted formula at that cell, inside its own bootstrap interval."""
    law = fit_law(synthetic(200, 0.65, 0.55, -0.5, noise=0.1, seed=1), draws=200)
    c, alpha, beta, b = law.values
    at = law.predict(6, 3000)
    assert at.delta_loss == pytest.approx(c * 6**alpha * 3000**-beta + b)
    assert at.interval.low < at.delta_loss < at.interval.high
    assert at.interval.high - at.interval.low < 0.5


@pytest.mark.parametrize(
    ("rank", "length"), [(0.5, 1000), (64, 1000), (8, 499), (8, 8001), (float("nan"), 1000)]
)
def test_a_prediction_outside_the_grid_is_refused(rank: float, length: float) -> None:
    """Outside the swept ranks or lengths there is no prediction, only an error that names the range."""
    law = fit_law(synthetic(200, 0.65, 0.55, -0.5, noise=0.1, seed=1), draws=1)
    with pytest.raises(ExtrapolationError, match="lies outside the fitted cells"):
        law.predict(rank, length)


def test_the_grid_that_counts_for_a_prediction_is_the_unsaturated_one() -> None:
    """A rank whose cells were all dropped as saturated is outside."""
    cells = [*synthetic(20, 0.65, 0.55, 0, noise=0.01, seed=1), Cell(64, 1000, 99)]
    with pytest.raises(ExtrapolationError, match="rank 64"):
        fit_law(cells, max_delta=50, draws=1).predict(64, 1000)


def test_the_same_seed_gives_the_same_intervals() -> None:
    """The bootstrap is reproducible, and another seed gives another."""
    cells = synthetic(200, 0.65, 0.55, -0.5, noise=0.1, seed=1)
    first, again, other = (fit_law(cells, draws=50, seed=seed).interval("C") for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    "cells",
    [
        [],
        synthetic(200, 0.65, 0.55, 0, noise=0.1, seed=0)[:4],
        [Cell(8, length, 9 - length / 1000) for length in range(1000, 7000, 500)],
        [Cell(rank, 1000, rank / 2) for rank in range(1, 12)],
        [Cell(rank, length, 3.0) for rank in RANKS for length in LENGTHS],
    ],
    ids=["none", "too few", "one rank", "one length", "no variation"],
)
def test_a_grid_that_does_not_determine_the_law_is_refused(cells: list[Cell]) -> None:
    """Too few cells, a single rank or length, or a constant ΔL give an error, not constants."""
    with pytest.raises(LawFitError, match="do not determine the law"):
        fit_law(cells)


def test_cells_without_any_gain_do_not_stop_the_fit() -> None:
    """ΔL at or below zero (an adapter that learnt nothing) is data like any other."""
    law = fit_law(synthetic(20, 0.6, 0.5, -2, noise=0, seed=0), draws=1)
    assert law.values == pytest.approx((20, 0.6, 0.5, -2), rel=1e-3)
