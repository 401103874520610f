"""Variants measured side by side: each once a round, compared within the round."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0

SETTLE_S = 1.5
"""Seconds between engines: vLLM's worker spins on its core for another second after an answer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of two variants.

    Attributes:
        metric: What was measured.
        ours: Its values, round by round.
        theirs: The values of what it is compared with.
        ratio: Geometric mean of ours / theirs; None where a value is 0.
        low: Lower end of the ratio's bootstrap interval.
        high: Upper end.
        name: What `ours` are values of.
        against: What `theirs` are values of.
        less_is_better: Whether the smaller value is the better one, as for times.
        target: The ratio to reach, None for none.
        note: A remark for the reader.
    """

    metric: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    ratio: float | None
    low: float | None
    high: float | None
    name: str = "ours"
    against: str = "stock"
    less_is_better: bool = False
    target: float | None = None
    note: str = ""

    @property
    def winner(self) -> str:
        """`name` or `against`, "neither" where the interval includes 1, "" where there is no ratio."""
        if self.low is None or self.high is None:
            return ""
        if self.low <= 1 <= self.high:
            return "neither"
        return self.name if (self.low > 1) != self.less_is_better else self.against

    @property
    def reached(self) -> bool:
        """Whether the ratio is the target or more."""
        return self.target is None or (self.ratio is not None and self.ratio >= self.target)

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {**asdict(self), "winner": self.winner}

    def cells(self) -> tuple[str, str, str, str]:
        """Return both medians, the ratio and its interval as a table shows them."""
        ours, theirs = show(statistics.median(self.ours)), show(statistics.median(self.theirs))
        if self.ratio is None or self.low is None or self.high is None:
            return ours, theirs, "", ""
        return ours, theirs, f"{self.ratio:.3f}", f"{self.low:.3f} to {self.high:.3f}"


def show(value: float) -> str:
    """Return a number as a table shows it."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def take_turns(
    rounds: int, variants: Mapping[str, Callable[[], T]], settle_s: float = 0.0
) -> Iterator[dict[str, T]]:
    """Run every variant once uncounted, then once a round; yield what each round measured, by variant.

    Every other round runs in reverse order, so that a machine that becomes slower or faster favours no variant.

    Args:
        rounds: Counted rounds.
        variants: What is measured, by name.
        settle_s: Seconds to wait before each; `SETTLE_S` where they run in engines of their own.
    """
    order = list(variants)
    for number in range(rounds + 1):
        measured = {}
        for name in order[::-1] if number % 2 else order:
            time.sleep(settle_s)
            measured[name] = variants[name]()
        if number:
            yield measured


def measure(
    rounds: int, variants: Mapping[str, Callable[[], float]], settle_s: float = 0.0
) -> dict[str, list[float]]:
    """Return the rates of `take_turns` by variant and round."""
    measured = list(take_turns(rounds, variants, settle_s))
    return {name: [one[name] for one in measured] for name in variants}


def compare(
    rates: Mapping[str, list[float]],
    name: str,
    against: str,
    unit: str,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Return the row that compares two variants of one measurement."""
    return make_row(unit, rates[name], rates[against], name=name, against=against, target=target, note=note)


def make_row(metric: str, ours: Sequence[float], theirs: Sequence[float], **labels: Any) -> Row:
    """Return a metric's row; the interval is a percentile bootstrap over the rounds' log ratios.

    Source: Efron and Tibshirani 1993, chapter 13. With few rounds it is about as wide as the observed values.
    """
    ratio = low = high = None
    if min(*ours, *theirs) > 0:
        logs = np.log(np.asarray(ours) / np.asarray(theirs))
        ratio, low, high = statistics.geometric_mean(np.exp(logs)), *_interval(logs)
    return Row(metric, tuple(ours), tuple(theirs), ratio, low, high, **labels)


def _interval(logs: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    from scipy.stats import bootstrap

    if len(logs) == 1 or np.ptp(logs) == 0:
        return float(np.exp(logs.min())), float(np.exp(logs.max()))
    draw = np.random.default_rng(SEED)
    options = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "method": "percentile"}
    found = bootstrap((logs,), np.mean, rng=draw, **options).confidence_interval
    return float(np.exp(found.low)), float(np.exp(found.high))
