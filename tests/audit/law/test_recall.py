"""From rank to recall: on the demo's adapters, and on sets whose truth is known."""

import numpy as np
import pytest
from lorecall.audit.law.capacity import SetLaws, common_lines, describe
from lorecall.audit.law.cells import read_cells
from lorecall.audit.law.fit import ExtrapolationError, Interval
from lorecall.audit.law.forms import Cell, FloatArray, LawFitError
from lorecall.audit.law.recall import Held, fit_recall, left_out_ranks, lock_probabilities

from tests.audit.law.demo_recall import SWEEP, audits

TRUTH = np.array([[0.9, -1.3, -1.5]])
LINES, TOKENS = 40, 12


def synthetic(seed: int, ranks: tuple[float, ...] = (2, 4, 8, 16, 32), shift: float = 0.0) -> list[Held]:
    """Return adapters whose tokens lock by a known function, each rank moved by normal logits."""
    rng = np.random.default_rng(seed)
    base_loss = rng.exponential(3.8, LINES * TOKENS)
    line, cap = np.repeat(np.arange(LINES), TOKENS), float(base_loss.mean())
    held = []
    for rank in ranks:
        left = 1 - min(0.4 * rank**0.24 + rng.normal(0, 0.004), 1)
        moved = TRUTH + np.array([rng.normal(0, shift), 0, 0])
        p = lock_probabilities(moved, np.array([left]), base_loss)[0]
        locked = rng.random(len(p)) < p
        held.append(Held(f"r{rank:g}", rank, line, base_loss, locked, left * cap, cap))
    return held


def inside(value: float, interval: Interval) -> bool:
    """Whether an interval holds a value."""
    return interval.low <= value <= interval.high


def test_every_rank_of_the_demo_is_predicted_from_the_others() -> None:
    """Left out of the adapters and of the sweep, each rank's tokens and lines lie in their intervals."""
    held, ids = common_lines(audits())
    assert (len(ids), len(held[0].line)) == (49, 655)
    widths = []
    for one, fitted in left_out_ranks(held, read_cells(SWEEP), draws=200):
        assert fitted is not None
        assert one.rank not in {cell.rank for cell in fitted.law.cells}
        at = fitted.at(one.rank)
        assert inside(float(one.locked.mean()), at.tokens_interval), at
        assert inside(one.lines, at.lines_interval), at
        widths.append(at.tokens_interval.high - at.tokens_interval.low)
    assert max(widths) < 0.45, widths  # else it would say nothing


def test_the_demos_chances_are_calibrated() -> None:
    """Isotonic regression of what was locked moves the chances by less than 5 points on average."""
    held, _ = common_lines(audits())
    assert fit_recall(held, read_cells(SWEEP), draws=100).calibration_error() < 0.05


def test_a_new_rank_lies_in_its_interval_as_often_as_stated() -> None:
    """Over 25 sets, the 90 % intervals of a rank left out hold its share in at least 80 % of them."""
    hits = dict.fromkeys(("tokens", "lines"), 0)
    for seed in range(25):
        held = synthetic(seed, shift=0.15)
        out = held.pop(2)
        at = fit_recall(held, draws=60, seed=seed).predict(out.rank, 0.9)
        hits["tokens"] += inside(float(out.locked.mean()), at.tokens_interval)
        hits["lines"] += inside(out.lines, at.lines_interval)
    assert min(hits.values()) >= 20, hits


def test_the_smallest_rank_is_the_one_that_was_planted() -> None:
    """Where a line's true chance first reaches one half, for most lines the interval says so."""
    held = synthetic(3, ranks=(2, 4, 8, 16, 32, 40))
    fitted = fit_recall(held, draws=100)
    truth = np.full(LINES, np.inf)
    for rank in range(40, 1, -1):
        p = lock_probabilities(TRUTH, np.array([1 - min(0.4 * rank**0.24, 1)]), held[0].base_loss)[0]
        truth[p.reshape(LINES, TOKENS).prod(axis=1) >= 0.5] = rank
    found = fitted.smallest_ranks(0.5, 0.95)
    assert np.isfinite(truth).sum() > LINES / 2
    assert sum(inside(true, line.interval) for true, line in zip(truth, found, strict=True)) >= 0.8 * LINES
    assert all(line.interval.low <= line.rank <= line.interval.high for line in found)
    sure = fitted.smallest_ranks(0.9, 0.95)
    assert all(often.rank >= line.rank for often, line in zip(sure, found, strict=True))


def test_cells_of_other_lengths_do_not_join() -> None:
    """A sweep's cells count only near the set's own length."""
    held = synthetic(0)
    length, cap = len(held[0].line), held[0].cap
    cells = [Cell(64, 2 * length, 1.0, cap, locked=0.1), Cell(64, length, cap, cap, locked=1.0)]
    assert [cell.rank for cell in fit_recall(held, cells, draws=1).law.cells] == [2, 4, 8, 16, 32, 64]
    assert len(fit_recall(held, cells, draws=1).law.cells) == 6


def test_a_rank_outside_the_measured_ones_is_refused() -> None:
    """The law is not carried on beyond what was measured."""
    with pytest.raises(ExtrapolationError, match="rank 64 lies outside"):
        fit_recall(synthetic(0), draws=1).predict(64)


def test_two_ranks_are_no_law() -> None:
    """With two ranks, one rank twice, or none, nothing is determined."""
    two = synthetic(0, ranks=(2, 8))
    for held in ([], two, [*two, two[0]]):
        with pytest.raises(LawFitError, match="determine"):
            fit_recall(held)


def test_candidates_that_one_audit_could_not_score_are_left_out() -> None:
    """Failed ones, controls, and those whose split of tokens differs."""
    found = audits()
    for entries, broken in zip(
        [audit.entries for audit in found], ("error", "control", "split", ""), strict=True
    ):
        entry = entries[5]
        assert isinstance(entry, dict)
        if broken == "error":
            entry["tokens"] = []
        if broken == "control":
            entries[6]["set"] = "controls"  # type: ignore[index]
        if broken == "split":
            entries[7]["tokens"][0]["base_p"] = None
    held, ids = common_lines(found)
    assert len(ids) == 46
    assert len({len(one.line) for one in held}) == 1
    with pytest.raises(LawFitError, match="share no scored candidate"):
        common_lines([found[0], type(found[0])("other", 8, [])])


def test_a_set_is_fitted_once() -> None:
    """The law of a set rests on the newest audit of each adapter, and is kept for those audits."""
    by_id = {audit.adapter: audit for audit in audits()}
    asked: list[str] = []

    def entries(audit_id: str, limit: int) -> object:
        asked.append(audit_id)
        return by_id[audit_id].entries[:limit]

    rows = [
        {"audit_id": name, "adapter": name, "rank": one.rank, "candidate_set": "secrets"}
        for name, one in by_id.items()
    ]
    laws = SetLaws()
    first = laws.of([{**rows[0], "audit_id": "old"}, *rows], entries)  # type: ignore[arg-type]
    assert laws.of(rows, entries) == first  # type: ignore[arg-type]
    assert sorted(asked) == sorted(by_id)
    (found,) = first
    assert found["candidate_set"] == "secrets"
    assert [rank["adapter"] for rank in found["law"]["ranks"]] == [
        f"secrets-r{rank}" for rank in (2, 8, 32, 128)
    ]
    assert found["law"]["curve"][0]["rank"] == pytest.approx(2)
    assert found["law"]["curve"][-1]["rank"] == pytest.approx(128)
    few = laws.of(rows[:2], entries)  # type: ignore[arg-type]
    assert few == [{"candidate_set": "secrets", "law": None, "reason": "audits of fewer than 3 ranks"}]


def test_what_is_described_is_the_fit() -> None:
    """Measured shares are the adapters' own; a fitted one is the chain's."""
    held = synthetic(1)
    fitted = fit_recall(held, draws=100)
    report = describe(fitted)
    for row, one in zip(report["ranks"], held, strict=True):
        assert (row["tokens"], row["lines"]) == (one.locked.mean(), one.lines)
        assert row["fitted"]["tokens"] == fitted.at(one.rank).tokens
    curve: FloatArray = np.array([at["tokens"] for at in report["curve"]])
    assert (np.diff(curve) > 0).all()
