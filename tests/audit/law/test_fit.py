"""The memory law is recovered under its cap, bounded where it is not determined, and never extrapolated."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lorecall.audit.law.cells import read_cells
from lorecall.audit.law.fit import ExtrapolationError, determined, fit_law
from lorecall.audit.law.fit_quality import errors, profile
from lorecall.audit.law.forms import LAW, RIVALS, Cell, LawFitError

TESTS = Path(__file__).parents[2]
POINTS = TESTS / "data" / "law-points.csv"
SWEEPS = TESTS.parent / "docs" / "sweeps"
RANKS = (1, 2, 4, 8, 16, 32)
LENGTHS = (500, 1000, 2000, 4000, 8000)
TRUTH = (math.log(200), 0.63, 0.53, -0.6)


def synthetic(
    truth: tuple[float, ...] = TRUTH,
    *,
    noise: float = 0.1,
    seed: int = 0,
    cap: float = math.inf,
    seeds: int = 1,
) -> list[Cell]:
    """Return a grid that obeys the law up to a cap, with Gaussian noise (standard deviation in nats)."""
    rng = np.random.default_rng(seed)
    log_c, alpha, beta, b = truth
    cells = []
    for repeat in range(seeds):
        for rank in RANKS:
            for length in LENGTHS:
                gain = math.exp(log_c) * rank**alpha * length**-beta + b + rng.normal(0, noise)
                cells.append(Cell(rank, length, min(gain, cap), cap, seed=str(repeat)))
    return cells


@settings(max_examples=8, deadline=None)
@given(
    truth=st.tuples(st.floats(4, 6), st.floats(0.4, 0.9), st.floats(0.4, 0.9), st.floats(-1, 1)),
    cap=st.sampled_from([math.inf, 12.0, 8.0]),
)
def test_constants_of_a_noiseless_capped_grid_are_recovered(
    truth: tuple[float, float, float, float], cap: float
) -> None:
    """Without noise, least squares finds the four constants that made the grid, whatever the cap hides."""
    cells = synthetic(truth, noise=0, cap=cap)
    assume(determined(cells))
    law = fit_law(cells, draws=1)
    assert law.values == pytest.approx(truth, rel=1e-3, abs=1e-3)
    assert law.r_squared == pytest.approx(1)


def test_constants_of_noisy_capped_grids_lie_in_their_profiles_as_often_as_stated() -> None:
    """Over 12 capped grids, each constant's 90 % interval holds the truth in at least 10, a new cell's in 10."""
    hits, new = dict.fromkeys(LAW.names, 0), 0
    for seed in range(12):
        law = fit_law(synthetic(seed=seed, cap=8.0), draws=100, seed=seed)
        for (name, interval), truth in zip(profile(law, 0.9).items(), TRUTH, strict=True):
            hits[name] += interval.low <= truth <= interval.high
        measured = 200 * 6**0.63 * 6000**-0.53 - 0.6 + np.random.default_rng(99 + seed).normal(0, 0.1)
        at = law.predict(6, 6000, 0.9).interval
        new += at.low <= measured <= at.high
    assert min(new, *hits.values()) >= 10, (hits, new)


def test_saturated_cells_bias_a_fit_without_their_cap() -> None:
    """Alpha is 0.63: the capped fit finds it; without the caps the same cells give about 0."""
    cells = synthetic(seed=0, cap=8.0)
    assert sum(cell.delta_loss == 8.0 for cell in cells) >= 10
    assert fit_law(cells, draws=1).values[1] == pytest.approx(0.63, abs=0.05)
    assert abs(fit_law([replace(cell, cap=math.inf) for cell in cells], draws=1).values[1]) < 0.1


def test_cutting_noisy_saturated_cells_biases_the_fit_too() -> None:
    """Noise leaves half of the saturated cells under the line; cut there, alpha is about 0; capped, 0.63."""
    rng = np.random.default_rng(1)
    exact = synthetic(noise=0, cap=8.0)
    cells = [replace(cell, delta_loss=cell.delta_loss + rng.normal(0, 0.1)) for cell in exact]
    cut = [replace(cell, cap=math.inf) for cell in cells if cell.delta_loss < 8.0]
    assert len(cut) < len(cells)
    assert fit_law(cells, draws=1).values[1] == pytest.approx(0.63, abs=0.05)
    assert abs(fit_law(cut, draws=1).values[1]) < 0.1


def test_a_saturated_cell_says_that_the_gain_is_at_least_its_cap() -> None:
    """Cells that have lost all they had pull a law up that was below them, and leave one alone that is above."""
    cells = [cell for cell in synthetic() if cell.rank > 1]
    free = Cell(1, 8000, 0.0)
    law = fit_law(cells, draws=1)
    pulled = fit_law([*cells, *[Cell(1, 8000, 3.0, 3.0)] * 4], draws=1)
    assert law.delta_loss([free])[0] < 1.5 < pulled.delta_loss([free])[0]
    above = fit_law([*cells, *[Cell(32, 500, 3.0, 3.0)] * 4], draws=1)
    assert above.values == pytest.approx(law.values, rel=1e-3)


def test_cells_at_their_cap_do_not_flatter_the_fit() -> None:
    """R² below the cap is that of the cells which the law leaves there; where all are at it, there is none."""
    cells = synthetic(noise=0.5, cap=8.0)
    law = fit_law(cells, draws=1)
    free = [cell for cell in cells if law.delta_loss([cell])[0] < 8.0]
    assert 0 < len(free) == len(cells) - law.capped < len(cells)
    gains = np.array([cell.delta_loss for cell in free])
    missed = ((gains - law.delta_loss(free)) ** 2).sum()
    assert law.r_squared_below_cap == pytest.approx(1 - missed / ((gains - gains.mean()) ** 2).sum())
    assert law.r_squared_below_cap < law.r_squared
    assert math.isnan(replace(law, cells=(Cell(64, 8, 3.0, 3.0),)).r_squared_below_cap)


def test_the_papers_points_give_the_known_constants() -> None:
    """All 59 points of the paper's figure give C 210, alpha 0.629, beta 0.535, b -0.60 and R² 0.9956."""
    law = fit_law(read_cells(POINTS), draws=1)
    log_c, alpha, beta, b = law.values
    assert (len(law.cells), law.capped) == (59, 0)
    assert math.exp(log_c) == pytest.approx(210, abs=0.5)
    assert (alpha, beta, b) == pytest.approx((0.629, 0.535, -0.60), abs=0.005)
    assert law.r_squared == pytest.approx(0.9956, abs=5e-5)


def test_the_committed_grid_prefers_the_law_to_each_rival() -> None:
    """On the phone book, the law predicts left-out cells and left-out ranks better than each rival, at 6 %."""
    cells = read_cells(SWEEPS / "phonebook-sft.csv")
    law, *rivals = (errors(form, cells) for form in (LAW, *RIVALS))
    assert law.r_squared == pytest.approx(0.9775, abs=5e-4)
    assert law.left_out_cell < 0.065 < min(rival.left_out_cell for rival in rivals)
    assert law.left_out_rank < 0.065 < min(rival.left_out_rank for rival in rivals)


def test_at_the_plateau_the_law_meets_its_goals_mostly_by_its_caps() -> None:
    """R² over 0.98 and a rank left out under 5 %, better than each rival; 84 of 105 cells are at their cap."""
    cells = read_cells(SWEEPS / "phonebook-plateau.csv")
    fitted = fit_law(cells, draws=1)
    assert (len(cells), fitted.capped) == (105, 84)
    assert (fitted.r_squared, fitted.r_squared_below_cap) == pytest.approx((0.9946, 0.980), abs=1e-3)
    law, *rivals = (errors(form, cells) for form in (LAW, *RIVALS))
    assert law.left_out_rank < 0.05 < min(rival.left_out_rank for rival in rivals)
    assert law.r_squared > max(rival.r_squared for rival in rivals)


def test_left_out_errors_are_those_of_cells_that_were_not_seen() -> None:
    """Each cell, and each rank, by a law that was fitted without it."""
    cells = synthetic(noise=0.3)
    found = errors(LAW, cells)

    def left_out(groups: list[list[Cell]]) -> float:
        off = []
        for group in groups:
            law = fit_law([cell for cell in cells if cell not in group], draws=1)
            off += [abs(law.delta_loss([cell])[0] / cell.delta_loss - 1) for cell in group]
        return float(np.mean(off))

    assert found.left_out_cell == pytest.approx(left_out([[cell] for cell in cells]), rel=1e-3)
    by_rank = [[cell for cell in cells if cell.rank == rank] for rank in RANKS]
    assert found.left_out_rank == pytest.approx(left_out(by_rank), rel=1e-3)
    assert found.mape < min(found.left_out_cell, found.left_out_rank)


def test_a_prediction_never_exceeds_the_cap() -> None:
    """Inside the hull but over the cap, the prediction and its interval end at the cap of that length."""
    cells = synthetic(noise=0.05, cap=8.0)
    at = fit_law(cells, draws=100).predict(30, 600)
    assert at.delta_loss == at.cap == at.interval.high == pytest.approx(8.0)
    caps = [replace(cell, cap=8.0 if cell.length < 1000 else 9.0) for cell in cells]
    between = fit_law(caps, draws=1).predict(30, 500 * math.sqrt(2))
    assert between.cap == pytest.approx(8.5)


def test_a_new_measurement_is_less_sure_than_the_law() -> None:
    """The interval of a measurement holds that of the law's own value; both hold the law."""
    at = fit_law(synthetic(), draws=200).predict(6, 3000)
    assert at.interval.low < at.mean.low < at.delta_loss < at.mean.high < at.interval.high


@pytest.mark.parametrize(
    ("rank", "length"), [(0.5, 1000), (64, 1000), (8, 499), (8, 8001), (float("nan"), 1000), (-1, 1000)]
)
def test_a_prediction_outside_the_grid_is_refused(rank: float, length: float) -> None:
    """Outside the swept ranks or lengths there is no prediction, only an error that names the range."""
    law = fit_law(synthetic(), draws=1)
    with pytest.raises(ExtrapolationError, match="lies outside the measured cells"):
        law.predict(rank, length)


def test_a_corner_that_was_not_swept_is_outside() -> None:
    """The hull, not the box: with large ranks on long texts only, a large rank on a short text is refused."""
    cells = [cell for cell in synthetic() if cell.length >= 250 * cell.rank]
    law = fit_law(cells, draws=1)
    assert law.predict(32, 8000).delta_loss > 0
    with pytest.raises(ExtrapolationError, match="corners that were not measured"):
        law.predict(32, 600)


def test_seeds_are_resampled_whole() -> None:
    """With three seeds or more they are the clusters; what they share widens the intervals, not the fit."""
    cells = synthetic(seeds=5, noise=0.02)
    moved = [replace(c, delta_loss=c.delta_loss * (1 + 0.03 * (int(c.seed) - 2))) for c in cells]
    same, other = fit_law(cells, draws=60), fit_law(moved, draws=60)
    assert same.resampled == other.resampled == "seeds"
    assert fit_law(synthetic(seeds=2), draws=1).resampled == "noise"
    widths = [at.high - at.low for at in (law.predict(6, 3000).mean for law in (same, other))]
    assert widths[1] > 2 * widths[0]


def test_the_same_seed_gives_the_same_intervals() -> None:
    """The bootstrap is reproducible, and another seed gives another."""
    first, again, other = (fit_law(synthetic(), draws=30, seed=s).bootstrap("alpha", 0.9) for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    "cells",
    [
        [],
        synthetic()[:4],
        [Cell(8, length, 9 - length / 1000) for length in range(1000, 7000, 500)],
        [Cell(rank, 1000, rank / 2) for rank in range(1, 12)],
        [Cell(rank, length, 3.0) for rank in RANKS for length in LENGTHS],
        [replace(cell, delta_loss=1.0, cap=1.0) for cell in synthetic()],
    ],
    ids=["none", "too few", "one rank", "one length", "no variation", "all saturated"],
)
def test_a_grid_that_does_not_determine_the_law_is_refused(cells: list[Cell]) -> None:
    """Too few cells, one rank or length, a constant ΔL or only saturated cells give an error, not constants."""
    with pytest.raises(LawFitError, match="do not determine the law"):
        fit_law(cells)


def test_cells_without_any_gain_do_not_stop_the_fit() -> None:
    """ΔL at or below zero (an adapter that learnt nothing) is data like any other."""
    law = fit_law(synthetic((3, 0.6, 0.5, -2), noise=0), draws=1)
    assert law.values == pytest.approx((3, 0.6, 0.5, -2), rel=1e-2)
