"""Pairs measured side by side: every variant once a round, round after round, compared within the round."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        name: What was compared.
        against: What it was compared with.
        unit: Unit of the rates.
        rate: Median rate of what was compared.
        reference: Median rate of the other.
        ratios: rate / reference, round by round.
        target: The ratio that is asked for, None where there is none.
        note: What a reader must know beside the numbers.
    """

    name: str
    against: str
    unit: str
    rate: float
    reference: float
    ratios: tuple[float, ...]
    target: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Median ratio."""
        return statistics.median(self.ratios)

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {**asdict(self), "median": self.median}

    def as_markdown(self) -> str:
        """Return the row of a Markdown table."""
        target = "" if self.target is None else f"≥ {self.target:.2f}"
        reached = "" if self.target is None else ("yes" if self.median >= self.target else "**no**")
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        cells = (
            self.name,
            self.against,
            f"{self.rate:,.0f}",
            f"{self.reference:,.0f}",
            self.unit,
            f"{self.median:.3f}",
            spread,
            target,
            reached,
            self.note,
        )
        return "| " + " | ".join(cells) + " |"


HEADER = (
    "| what | against | rate | reference | unit | ratio (median) | spread | target | reached | note |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


SETTLE_S = 1.5
"""An engine that has just answered keeps its core busy for another second: vLLM's worker waits spinning."""


def measure(
    rounds: int, variants: Mapping[str, Callable[[], float]], settle_s: float = 0.0
) -> dict[str, list[float]]:
    """Run every variant once uncounted, then once a round; return the rates by variant and round.

    Every other round goes backwards, so that a machine that grows slower or faster favours none.

    Args:
        rounds: Counted rounds.
        variants: What is measured, by name.
        settle_s: Seconds to wait before each; `SETTLE_S` where they run in engines of their own.
    """
    for variant in variants.values():
        variant()
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        order = list(variants.items())
        for name, variant in order[::-1] if number % 2 else order:
            time.sleep(settle_s)
            rates[name].append(variant())
    return rates


def compare(
    rates: Mapping[str, list[float]],
    name: str,
    against: str,
    unit: str,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Return the row that compares two variants of one measurement."""
    ratios = tuple(a / b for a, b in zip(rates[name], rates[against], strict=True))
    return Row(
        name,
        against,
        unit,
        statistics.median(rates[name]),
        statistics.median(rates[against]),
        ratios,
        target,
        note,
    )
