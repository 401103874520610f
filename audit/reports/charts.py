"""Coordinates of the report's charts, in units of their SVG view boxes; the templates draw them."""

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 20
SHADES = 10


def shade(p: float) -> int:
    """Return the colour class of a probability, 0 to 9; one half itself is still below the line (class 4)."""
    if p > 0.5:
        return min(SHADES - 1, 5 + int((p - 0.5) * SHADES))
    return min(4, int(p * SHADES))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its box, how many snippets it counts, and the range of values that it covers."""

    x: float
    y: float
    width: float
    height: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """One distribution over [0, 1], drawn beside others on one scale of shares."""

    label: str
    total: int
    over_half: int
    bars: tuple[Bar, ...]


HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 300.0, 96.0


def histograms(series: Sequence[tuple[str, Sequence[float]]]) -> list[Histogram]:
    """Lay out small multiples of (label, values in [0, 1]), with one scale of shares for all."""
    counted = [(label, values, _counts(values)) for label, values in series if values]
    top = max((max(counts) / len(values) for _, values, counts in counted), default=1.0)
    return [
        Histogram(
            label=label,
            total=len(values),
            over_half=sum(value > 0.5 for value in values),
            bars=_bars(counts, len(values) * top),
        )
        for label, values, counts in counted
    ]


def _counts(values: Sequence[float]) -> list[int]:
    counts = [0] * BINS
    for value in values:
        # One half belongs to the bin below the line, so that no bin lies on both sides of the rule's line.
        index = BINS // 2 - 1 if value == 0.5 else int(value * BINS)
        counts[min(BINS - 1, index)] += 1
    return counts


def _bars(counts: Sequence[int], full: float) -> tuple[Bar, ...]:
    step = HISTOGRAM_WIDTH / BINS
    bars = []
    for index, count in enumerate(counts):
        height = max(1.5, HISTOGRAM_HEIGHT * count / full) if count else 0.0
        bars.append(
            Bar(
                index * step,
                HISTOGRAM_HEIGHT - height,
                step - 1.5,
                height,
                count,
                index / BINS,
                (index + 1) / BINS,
            )
        )
    return tuple(bars)


@dataclass(frozen=True, slots=True)
class Ladder:
    """p over the positions of one target: a step line for the adapter, one for the base."""

    width: float
    height: float
    adapter: str
    base: str
    line_y: float
    ticks: tuple[tuple[float, str], ...]


LADDER_HEIGHT, LADDER_MAX_WIDTH = 150.0, 960.0


def ladder(p: Sequence[float], base_p: Sequence[float]) -> Ladder:
    """Lay out the step lines of one snippet."""
    width = min(LADDER_MAX_WIDTH, max(320.0, 48.0 * len(p)))
    step = width / max(1, len(p))
    return Ladder(
        width=width,
        height=LADDER_HEIGHT,
        adapter=_steps(p, step, LADDER_HEIGHT),
        base=_steps(base_p, step, LADDER_HEIGHT),
        line_y=LADDER_HEIGHT / 2,
        ticks=tuple(
            ((i + 0.5) * step, str(i + 1))
            for i in range(len(p))
            if len(p) <= 24 or (i + 1) % _every(len(p)) == 0
        ),
    )


def _every(count: int) -> int:
    return max(1, count // 12)


def _steps(values: Sequence[float], step: float, height: float) -> str:
    points: list[str] = []
    for index, value in enumerate(values):
        y = height * (1 - value)
        points += [f"{index * step:.1f},{y:.1f}", f"{(index + 1) * step:.1f},{y:.1f}"]
    return " ".join(points)


@dataclass(frozen=True, slots=True)
class StaircaseStep:
    """One rank on the staircase: its column, and the heights of its two measures."""

    x: float
    width: float
    tokens_y: float
    snippets_y: float
    label: str
    sublabel: str
    tokens: str
    snippets: str


@dataclass(frozen=True, slots=True)
class Staircase:
    """Capacity against recall: one step a rank, from left to right in the order of capacity."""

    width: float
    height: float
    steps: tuple[StaircaseStep, ...]
    tokens_line: str
    snippets_line: str
    grid: tuple[tuple[float, str], ...]


STAIRCASE_WIDTH, STAIRCASE_HEIGHT = 920.0, 260.0


def staircase(rows: Sequence[tuple[str, str, float, float]]) -> Staircase:
    """Lay out (label, sublabel, share of tokens over one half, share of snippets recited) by capacity."""
    step = STAIRCASE_WIDTH / max(1, len(rows))
    steps = tuple(
        StaircaseStep(
            x=index * step,
            width=step,
            tokens_y=STAIRCASE_HEIGHT * (1 - tokens),
            snippets_y=STAIRCASE_HEIGHT * (1 - snippets),
            label=label,
            sublabel=sublabel,
            tokens=f"{tokens:.0%}",
            snippets=f"{snippets:.0%}",
        )
        for index, (label, sublabel, tokens, snippets) in enumerate(rows)
    )
    return Staircase(
        width=STAIRCASE_WIDTH,
        height=STAIRCASE_HEIGHT,
        steps=steps,
        tokens_line=_steps([row[2] for row in rows], step, STAIRCASE_HEIGHT),
        snippets_line=_steps([row[3] for row in rows], step, STAIRCASE_HEIGHT),
        grid=tuple((STAIRCASE_HEIGHT * (1 - share), f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )


@dataclass(frozen=True, slots=True)
class DosePoint:
    """One dose: its place, the heights of its three measures, and what to write beside them."""

    x: float
    recited_y: float
    tokens_y: float
    cost_y: float
    label: str
    recited: str
    tokens: str
    cost: str


@dataclass(frozen=True, slots=True)
class DoseChart:
    """Recall over the doses of one kind, with the cost of the retained text in a second chart below."""

    width: float
    height: float
    cost_top: float
    cost_height: float
    points: tuple[DosePoint, ...]
    recited_line: str
    tokens_line: str
    cost_line: str
    grid: tuple[tuple[float, str], ...]
    cost_most: str


DOSE_WIDTH, DOSE_HEIGHT, COST_HEIGHT, COST_GAP = 420.0, 200.0, 80.0, 46.0


def dose_chart(rows: Sequence[tuple[str, float, float, float]]) -> DoseChart:
    """Lay out (dose, share recited, share of tokens over one half, perplexity over the base's), small to large.

    The lower chart runs from 0 to the largest cost, or to twice the base's where that is more.
    """
    step = DOSE_WIDTH / max(1, len(rows))
    most = max(2.0, *(cost for *_, cost in rows)) if rows else 2.0
    cost_top = DOSE_HEIGHT + COST_GAP
    points = tuple(
        DosePoint(
            x=(index + 0.5) * step,
            recited_y=DOSE_HEIGHT * (1 - recited),
            tokens_y=DOSE_HEIGHT * (1 - tokens),
            cost_y=cost_top + COST_HEIGHT * (1 - cost / most),
            label=label,
            recited=f"{recited:.0%}",
            tokens=f"{tokens:.0%}",
            cost=f"{cost:.2f}",
        )
        for index, (label, recited, tokens, cost) in enumerate(rows)
    )
    return DoseChart(
        width=DOSE_WIDTH,
        height=DOSE_HEIGHT,
        cost_top=cost_top,
        cost_height=COST_HEIGHT,
        points=points,
        recited_line=" ".join(f"{p.x:.1f},{p.recited_y:.1f}" for p in points),
        tokens_line=" ".join(f"{p.x:.1f},{p.tokens_y:.1f}" for p in points),
        cost_line=" ".join(f"{p.x:.1f},{p.cost_y:.1f}" for p in points),
        grid=tuple((DOSE_HEIGHT * (1 - share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)),
        cost_most=f"{most:.1f}",
    )
