"""Two servers on the same scenario, round by round: ratios within rounds, with intervals over the rounds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.run import Measurement
from scipy.stats import bootstrap

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
METRICS: Mapping[str, tuple[str, Literal["more", "less"]]] = {
    "requests_per_s": ("requests per second", "more"),
    "tokens_per_s": ("generated tokens per second", "more"),
    "ttft_p50_ms": ("time to first token, median, ms", "less"),
    "ttft_p99_ms": ("time to first token, p99, ms", "less"),
    "itl_p50_ms": ("time between tokens, median, ms", "less"),
    "itl_p99_ms": ("time between tokens, p99, ms", "less"),
    "e2el_p50_ms": ("whole answer, median, ms", "less"),
    "e2el_p99_ms": ("whole answer, p99, ms", "less"),
    "completed": ("requests answered", "more"),
    "failed": ("requests failed", "less"),
    "swap_per_s": ("swaps per second", "more"),
    "swap_p50_ms": ("swap, median, ms", "less"),
    "swap_failed": ("swaps failed", "less"),
    "add_per_s": ("adapters added per second", "more"),
    "add_p50_ms": ("adding an adapter, median, ms", "less"),
    "add_failed": ("additions failed", "less"),
    "remove_per_s": ("adapters removed per second", "more"),
    "remove_p50_ms": ("removing an adapter, median, ms", "less"),
    "remove_failed": ("removals failed", "less"),
    "stream_per_s": ("streams through churning adapters per second", "more"),
    "stream_p50_ms": ("such a stream, median, ms", "less"),
    "stream_failed": ("such streams broken", "less"),
    "audit_texts_per_s": ("texts scored per second", "more"),
    "audit_p50_ms": ("a scoring call, median, ms", "less"),
    "audit_failed": ("scoring calls failed", "less"),
}
"""Metric to what it is and which way is better; the order is that of the tables."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of two servers.

    Attributes:
        metric: Its key in `METRICS`.
        ours: Its values, round by round.
        theirs: The other server's.
        ratio: Geometric mean of ours / theirs; None where a value is 0.
        low: Lower end of the ratio's bootstrap interval.
        high: Upper end.
    """

    metric: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    ratio: float | None
    low: float | None
    high: float | None

    @property
    def winner(self) -> Literal["ours", "stock", "neither", ""]:
        """Who is better beyond the interval; "" where there is no ratio."""
        if self.low is None or self.high is None:
            return ""
        if self.low <= 1 <= self.high:
            return "neither"
        above = self.low > 1
        return "ours" if above == (METRICS[self.metric][1] == "more") else "stock"


@dataclass(slots=True)
class Comparison:
    """Every round of both servers.

    Attributes:
        ours: Our server's runs, in order.
        stock: The stock server's.
        notes: What ended a comparison early, and errors of single requests.
    """

    ours: list[Measurement] = field(default_factory=list)
    stock: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """One row for each metric that both servers have in every round, whoever is better."""
        return [
            make_row(metric, ours, theirs)
            for metric in METRICS
            if (ours := _column(self.ours, metric)) and (theirs := _column(self.stock, metric))
        ]


def compare(rounds: int, ours: Callable[[], Measurement], stock: Callable[[], Measurement]) -> Comparison:
    """Run both once uncounted, then both in each round, in alternating order.

    A run that ends without a result ends the comparison; the rounds before it count, and a note says who failed.

    Args:
        rounds: Counted rounds.
        ours: Runs the scenario on our server.
        stock: Runs it on the stock one.
    """
    found = Comparison()
    arms = {"ours": (ours, found.ours), "stock": (stock, found.stock)}
    for number in range(rounds + 1):
        measured: dict[str, Measurement] = {}
        for name in sorted(arms, reverse=number % 2 == 1):
            try:
                measured[name] = arms[name][0]()
            except LoadtestError as error:
                when = f"in round {number} of {rounds}" if number else "in the uncounted round"
                found.notes.append(f"{name} ended without a result {when}: {error}")
                return found
            found.notes += [
                f"{name}: {error}" for error in measured[name].errors if f"{name}: {error}" not in found.notes
            ]
        if number:
            for name, measurement in measured.items():
                arms[name][1].append(measurement)
    return found


def make_row(metric: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Return a metric's row; the interval is a percentile bootstrap over the rounds' log ratios.

    Source: Efron and Tibshirani 1993, chapter 13. With few rounds it spans little more than what was seen.
    """
    ratio = low = high = None
    if min(*ours, *theirs) > 0:
        logs = np.log(np.asarray(ours) / np.asarray(theirs))
        ratio, low, high = statistics.geometric_mean(np.exp(logs)), *_interval(logs)
    return Row(metric, tuple(ours), tuple(theirs), ratio, low, high)


def _interval(logs: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    if len(logs) == 1 or np.ptp(logs) == 0:
        return float(np.exp(logs.min())), float(np.exp(logs.max()))
    draw = np.random.default_rng(SEED)
    options = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "method": "percentile"}
    found = bootstrap((logs,), np.mean, rng=draw, **options).confidence_interval
    return float(np.exp(found.low)), float(np.exp(found.high))


def _column(runs: Sequence[Measurement], metric: str) -> list[float]:
    """Return a metric's value in every run, [] if one run lacks it."""
    values = [run.values[metric] for run in runs if metric in run.values]
    return values if len(values) == len(runs) else []
