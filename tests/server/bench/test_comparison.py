"""Ratios, intervals and winners of two servers, from measurements that are known."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lorecall.adapters.core.errors import LorecallError
from lorecall.loadtest.run import METRICS, Measurement
from lorecall.server.bench.comparison import compare_servers
from lorecall.server.bench.paired import make_row


def runs(*values: dict[str, float] | str) -> Callable[[], Measurement]:
    """Return a run that gives these values one after the other; a text is an error."""
    left: Iterator[dict[str, float] | str] = iter(values)

    def once() -> Measurement:
        value = next(left)
        if isinstance(value, str):
            raise LorecallError(value)
        return Measurement(value, ())

    return once


def test_the_first_round_is_not_counted() -> None:
    """What a server does while it is cold is not in the ratio."""
    found = compare_servers(
        2,
        METRICS,
        runs({"requests_per_s": 1}, {"requests_per_s": 20}, {"requests_per_s": 40}),
        runs({"requests_per_s": 9}, {"requests_per_s": 10}, {"requests_per_s": 20}),
    )
    (row,) = found.rows
    assert (row.ours, row.theirs) == ((20, 40), (10, 20))
    assert row.ratio == pytest.approx(2)


def test_the_servers_take_turns_in_alternating_order() -> None:
    """Neither always runs on what the other left behind."""
    order: list[str] = []

    def once(name: str) -> Callable[[], Measurement]:
        def run() -> Measurement:
            order.append(name)
            return Measurement({}, ())

        return run

    compare_servers(2, METRICS, once("ours"), once("stock"))
    assert order == ["ours", "stock", "stock", "ours", "ours", "stock"]


@pytest.mark.parametrize(
    ("metric", "ours", "winner"),
    [
        ("requests_per_s", (12, 13, 12), "ours"),
        ("requests_per_s", (8, 7, 8), "stock"),
        ("ttft_p50_ms", (12, 13, 12), "stock"),
        ("ttft_p50_ms", (8, 7, 8), "ours"),
        ("requests_per_s", (8, 12, 10), "neither"),
    ],
)
def test_the_winner_is_named_only_beyond_the_interval(
    metric: str, ours: tuple[float, ...], winner: str
) -> None:
    """More is better for rates, less for times; an interval over 1 names nobody. Stock's wins stay."""
    row = make_row(metric, ours, (10, 10, 10), less_is_better=METRICS[metric][1] == "less")
    assert row.low is not None
    assert row.high is not None
    assert row.ratio is not None
    assert row.low <= row.ratio <= row.high
    assert row.winner == winner


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    """Of 200 comparisons of 20 noisy rounds with a true ratio of 1.1, 90 % or more have it in their interval."""
    draw = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        row = make_row("requests_per_s", tuple(1.1 * np.exp(draw.normal(0, 0.1, 20))), (1.0,) * 20)
        assert row.low is not None
        assert row.high is not None
        covered += row.low <= 1.1 <= row.high
    assert covered >= 180


def test_counts_of_nothing_have_no_ratio() -> None:
    """No failures on either side is a row without a ratio and without a winner."""
    row = make_row("failed", (0, 0), (0, 3))
    assert (row.ratio, row.low, row.high, row.winner) == (None, None, None, "")


def test_a_server_that_dies_ends_the_comparison_and_is_named() -> None:
    """The rounds before it count, and a note says who ended when; nothing is dropped in silence."""
    ours = runs(*[{"requests_per_s": 2.0}] * 3)
    found = compare_servers(
        5, METRICS, ours, runs({"requests_per_s": 1.0}, {"requests_per_s": 1.0}, "the engine died")
    )
    assert [row.ratio for row in found.rows] == [pytest.approx(2)]
    assert found.notes == ["stock ended without a result in round 2 of 5: the engine died"]


def test_a_metric_that_one_round_lacks_is_no_row() -> None:
    """Ratios are within rounds: where a round has no value there is none."""
    ours = runs({}, {"swap_p50_ms": 1, "completed": 1}, {"completed": 1})
    stock = runs({}, *[{"swap_p50_ms": 1.0, "completed": 1.0}] * 2)
    assert [row.metric for row in compare_servers(2, METRICS, ours, stock).rows] == ["completed"]
    assert "swap_p50_ms" in METRICS
