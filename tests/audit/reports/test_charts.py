"""The geometry of the pictures: what is over the line is drawn over the line."""

import pytest
from lorecall.audit.reports.charts import dose_chart, histograms, ladder, shade, staircase


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, 0), (0.09, 0), (0.49, 4), (0.5, 4), (0.5000001, 5), (0.75, 7), (0.999, 9), (1.0, 9)],
)
def test_the_five_warm_shades_are_those_over_one_half(p: float, expected: int) -> None:
    """One half itself is not over the line."""
    assert shade(p) == expected


def test_histograms_share_one_scale_and_count_everything() -> None:
    """The tallest share fills the height; the others are drawn against it."""
    first, second = histograms([("a", [0.01] * 4), ("b", [0.2, 0.9, 0.5, 1.0])])
    assert sum(bar.count for bar in second.bars) == second.total == 4
    assert first.bars[0].height == pytest.approx(96.0)
    assert max(bar.height for bar in second.bars) == pytest.approx(24.0)
    assert second.over_half == 2
    assert sum(bar.count for bar in second.bars if bar.low >= 0.5) == 2


def test_a_series_without_values_is_left_out() -> None:
    """No controls, no picture of them."""
    assert histograms([("none", [])]) == []


def test_the_ladder_puts_the_line_between() -> None:
    """P = 1 is at the top, p = 0 at the bottom, one half in the middle."""
    chart = ladder([1.0, 0.0], [0.5, 0.5])
    heights = [float(point.split(",")[1]) for point in chart.adapter.split()]
    assert heights == [0.0, 0.0, chart.height, chart.height]
    assert chart.line_y == chart.height / 2


def test_the_staircase_climbs_with_recall() -> None:
    """One step a rank, higher for more."""
    chart = staircase([("r = 2", "", 0.1, 0.0), ("r = 8", "", 0.9, 0.5)])
    assert chart.steps[0].tokens_y > chart.steps[1].tokens_y
    assert chart.steps[1].snippets_y == chart.height / 2
    assert [step.tokens for step in chart.steps] == ["10%", "90%"]


def test_a_dose_chart_draws_costs_below_recall_on_their_own_scale() -> None:
    """All recited is at the top, nothing at the bottom; the largest cost reaches the top of its panel."""
    chart = dose_chart([("0.5", 0.0, 0.25, 1.0), ("1", 1.0, 1.0, 4.0)])
    weak, whole = chart.points
    assert (weak.recited_y, whole.recited_y) == (chart.height, 0.0)
    assert whole.cost_y == chart.cost_top > chart.height
    assert weak.cost_y == chart.cost_top + chart.cost_height * 3 / 4
    assert weak.x < whole.x < chart.width
    assert (whole.recited, weak.tokens, whole.cost) == ("100%", "25%", "4.00")
