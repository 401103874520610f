"""Writes the table of docs/models.md from what a run found."""

import math
import re
from pathlib import Path

from tests.families.comparing import Outcome
from tests.families.models import FAMILIES, Family

PAGE = Path(__file__).parents[2] / "docs/models.md"
BEGIN, END = "<!-- table: written by the run -->\n", "<!-- end -->\n"
COLUMNS = ("base", "adapter", "mixed", "decode")
HEADER = (
    "| family | scheme | served in | base | adapter | mixed batch | decode | |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def write_rows(family: Family, outcomes: dict[str, Outcome], page: Path = PAGE) -> None:
    """Replace a family's rows, one for each scheme, in the table of the page; the rows of the others stay."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows: dict[str, list[str]] = {}
    for line in table.splitlines(keepends=True)[2:]:
        rows.setdefault(line.split(" | ")[0].removeprefix("| "), []).append(line)
    rows[str(family)] = [_row(family, scheme, one) for scheme, one in outcomes.items()]
    lines = [line for one in FAMILIES for line in rows.get(str(one), [])]
    page.write_text(f"{before}{BEGIN}{HEADER}{''.join(lines)}{END}{after}", encoding="utf-8")


def _row(family: Family, scheme: str, outcome: Outcome) -> str:
    """Return one line: the largest difference of each kind, and what is wrong."""
    gaps = [_number(*outcome.gaps[name]) if outcome.gaps else "-" for name in COLUMNS]
    why = family.why or _plain(outcome.error) or "the engine's numbers are wrong"
    said = (
        f"{outcome.dtype} alone moves transformers by {_number(*outcome.noise)}" if outcome.noise[0] else ""
    )
    said = said if outcome.right(scheme) else f"**not served**: {why}"
    return f"| {family} | {scheme} | {outcome.dtype} | {' | '.join(gaps)} | {said} |\n"


def _number(largest: float, mean: float) -> str:
    return "NaN" if math.isnan(mean) else f"{largest:.0e}"


def _plain(error: str) -> str:
    """Return an error on one line, without the folders of the machine that ran it."""
    return re.sub(r"/\S*/", "", re.sub(r"\s+", " ", error)).replace("|", "\\|")[:200]
