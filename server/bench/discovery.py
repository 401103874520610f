"""Benchmark of the search for candidates: rows a second of one core through the recognisers."""

import time
from collections.abc import Callable
from statistics import median

from lorecall.adapters.demo_data.chats import generate_chats
from lorecall.audit.discovery.finder import Finder, Span

ROWS, WHOLE_ROWS = 20_000, 200
TARGET = 20_000
HEADER = (
    "| rows | with a secret | characters a row | rows/s a core | target | reached |",
    "|---|---|---|---|---|---|",
)


def bench_discovery(rounds: int) -> list[str]:
    """Search shipped chats with few and with many secrets; compare with every recogniser on the whole texts.

    Args:
        rounds: Counted rounds; the median is given. Loading the recognisers is not counted, their first use is.

    Returns:
        The lines of a Markdown table. Rates are of processor time, because one core does the work.
    """
    finder = Finder()
    lines = list(HEADER)
    for secrets in (24, 240):
        chats = generate_chats(ROWS, secrets)
        rows = [
            [one["content"] for one in row["messages"] if one["role"] == "assistant"]  # type: ignore[attr-defined]
            for row in chats.rows()
        ]
        share = sum(len(secret.rows) for secret in chats.planted) / ROWS
        size = sum(len(text) for row in rows for text in row) / ROWS
        rate = median(_rate(rows, finder.find) for _ in range(rounds))
        reached = "yes" if rate >= TARGET else "**no**"
        lines.append(f"| chats | {share:.1%} | {size:.0f} | {rate:,.0f} | ≥ {TARGET:,} | {reached} |")
    whole = _rate(rows[:WHOLE_ROWS], lambda text: finder.find(text, everywhere=True))
    lines.append(
        f"| the same, every recogniser on the whole text | {share:.1%} | {size:.0f} | {whole:,.0f} | | |"
    )
    return lines


def _rate(rows: list[list[str]], find: Callable[[str], list[Span]]) -> float:
    """Return rows a second of processor time."""
    started = time.process_time()
    for row in rows:
        for text in row:
            find(text)
    return len(rows) / (time.process_time() - started)
