"""One snippet's result as a row of Parquet, and what is counted of it read back from there.

A row holds no more of a text than a report does: no token, and no probability finer than two digits.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from lorecall.audit.coarse import coarse_chance, coarse_p
from lorecall.audit.records import Judged, SnippetResult
from lorecall.audit.verdicts import Flag, Group, Verdict

_WORDS = pa.list_(pa.string())
_COUNTED = {
    "verdict": pa.string(),
    "alarm": pa.string(),
    "flags": _WORDS,
    "tokens": pa.int64(),
    "over_half": pa.int64(),
    "delta_loss": pa.float64(),
    "log10_pz": pa.float64(),
    "run_bits": pa.float64(),
    "unknown_chance": pa.bool_(),
    "not_asked": _WORDS,
    "base_loss": pa.float64(),
    "tags": _WORDS,
}
"""The fields of `Judged`, in their order."""

_TOLD = {
    "error": pa.string(),
    "view": pa.string(),
    "min_p": pa.float64(),
    "decoded_equal": pa.bool_(),
    "chance": pa.float64(),
}
_SHOWN = {"prefix": pa.string(), "target": pa.string()}
_PLACE = {"block": pa.int64(), "adapter": pa.int32(), "place": pa.int64(), "set": pa.string()}
PART = pa.schema(_PLACE | {"id": pa.string()} | _COUNTED | _TOLD | _SHOWN)
"""Rows as a worker gives them: `verdict` is what the snippet's own evidence gives."""

RESULT = pa.schema(
    {"adapter": pa.string(), "version": pa.string(), "set": pa.string(), "id": pa.string()}
    | _COUNTED
    | _TOLD
    | {"p_value": pa.float64(), "q_value": pa.float64()}
    | _SHOWN
)
"""Rows as they are handed on: `verdict` is what the audit says, beside the controls."""

_NAMES = tuple(_COUNTED)


def part_row(block: int, adapter: int, place: int, result: SnippetResult, *, show: bool) -> dict[str, object]:
    """Return the row of one snippet.

    Args:
        block: Its block.
        adapter: The adapter's number.
        place: The snippet's place in its set.
        result: The snippet.
        show: Whether its texts and exact probabilities may be shown.
    """
    judged = result.judged()
    p = None if result.rule is None else result.rule.min_p
    chance = result.chance
    if not show:
        p = None if p is None else coarse_p(p)
    return {
        "block": block,
        "adapter": adapter,
        "place": place,
        "set": str(result.group),
        "id": result.item.id,
        **{name: getattr(judged, name) for name in _NAMES},
        "error": result.error,
        "view": result.view,
        "min_p": p,
        "decoded_equal": None if result.match is None else result.match.verbatim,
        "chance": None if chance is None else coarse_chance(chance, over=result.sampled),
        "prefix": result.item.prefix if show else None,
        "target": result.item.target if show else None,
    }


def judged_of(row: Mapping[str, Any]) -> Judged:
    """Return what is counted of a row."""
    found = {name: row[name] for name in _NAMES}
    found["verdict"] = Verdict(found["verdict"])
    found["flags"] = tuple(map(Flag, found["flags"]))
    found["not_asked"], found["tags"] = tuple(found["not_asked"]), tuple(found["tags"])
    return Judged(**found)


def group_of(row: Mapping[str, Any]) -> Group:
    """Return the set of a row."""
    return Group(row["set"])


if tuple(field.name for field in dataclasses.fields(Judged)) != _NAMES:  # pragma: no cover
    _MISSING = sorted(set(_NAMES) ^ {field.name for field in dataclasses.fields(Judged)})
    raise TypeError(f"the rows of bulk audits lack or have too many: {_MISSING}")
