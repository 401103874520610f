"""Read the cells of a sweep from CSV: columns rank, length, deltaL and, where they are there, some more."""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.law.forms import Cell

COLUMNS = ("rank", "length", "deltaL")
OPTIONAL = ("base_loss", "effective_parameters", "seed", "tokens_over_half")
MOST_OVER_CAP = 1e-3
"""Relative; a gain over its cap by more than rounding is a fault of the file."""


def read_cells(path: Path, cap: float = math.inf) -> list[Cell]:
    """Return the cells of a CSV file; a cell's cap is its `base_loss`, or `cap` without such a column.

    The header is the first line; a leading `#` and a remark in parentheses at its end are ignored, as in
    "# rank,length,deltaL (digitised)". Later lines that start with `#` are remarks.

    Raises:
        UsageError: The file cannot be read, lacks a column, or has a line without three positive numbers
            (ΔL may be negative, and is no more than the cap); the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", hint="a CSV file of a sweep", param="FILE"
        ) from error
    header = next(csv.reader([re.sub(r"\(.*\)\s*$", "", lines[0]).lstrip("# ")]), []) if lines else []
    names = [name.strip() for name in header]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise UsageError(
            f"{path} has no column {', '.join(missing)}",
            hint=f"the first line names the columns: {','.join(COLUMNS)}",
            param="FILE",
        )
    where = {name: names.index(name) for name in (*COLUMNS, *OPTIONAL) if name in names}
    found = list(_rows(lines))
    for number, row in found:
        if len(row) < len(names):  # a line that a kill cut off may end within a number
            raise _bad_line(path, number, row)
    return [
        _cell(path, number, row, {name: row[index].strip() for name, index in where.items()}, cap)
        for number, row in found
    ]


def _rows(lines: list[str]) -> Iterable[tuple[int, list[str]]]:
    """Yield (line number, fields) of every data line, the header being line 1."""
    for number, line in enumerate(lines[1:], start=2):
        if line.strip() and not line.startswith("#"):
            yield number, next(csv.reader([line]))


def _cell(path: Path, number: int, row: list[str], field: dict[str, str], cap: float) -> Cell:
    try:
        rank, length, delta = (float(field[name]) for name in COLUMNS)
        cap = float(field.get("base_loss", cap))
        parameters = float(field.get("effective_parameters", 0))
        locked = float(field.get("tokens_over_half", math.nan)) / length
    except (ValueError, ZeroDivisionError) as error:
        raise _bad_line(path, number, row) from error
    sizes = 0 < rank < math.inf and 0 < length < math.inf and 0 <= parameters < math.inf
    if not (sizes and math.isfinite(delta) and delta <= cap * (1 + MOST_OVER_CAP) and cap > 0):
        raise _bad_line(path, number, row)
    return Cell(rank, length, delta, cap, parameters, field.get("seed", ""), locked)


def _bad_line(path: Path, number: int, row: list[str]) -> UsageError:
    return UsageError(
        f"{path}, line {number}: {','.join(row)!r} is not a cell",
        hint="rank and length are positive numbers, deltaL is a finite number, no more than base_loss or the cap",
        param="FILE",
    )
