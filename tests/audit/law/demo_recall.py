"""The demo's adapters on its 49 secrets, token by token: probabilities only, from `TransformersScorer`."""

import csv
import math
from pathlib import Path
from typing import Any

from lorecall.audit.law.capacity import Audited

DATA = Path(__file__).parents[2] / "data" / "demo-recall.csv"
SWEEP = Path(__file__).parents[3] / "docs" / "sweeps" / "secrets-sft.csv"
RANKS = (2, 8, 32, 128)


def audits() -> list[Audited]:
    """Return the four adapters' audits with what the law reads of an entry."""
    with DATA.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [Audited(f"secrets-r{rank}", rank, _entries(rows, f"secrets-r{rank}")) for rank in RANKS]


def _entries(rows: list[dict[str, str]], adapter: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(
            row["id"], {"id": row["id"], "set": "candidates", "tokens": [], "locked": []}
        )
        if float(row[adapter]) > 0.5:
            entry["locked"].append(len(entry["tokens"]))
        entry["tokens"].append({"p": float(row[adapter]), "base_p": float(row["base"])})
    for entry in found.values():
        for name, key in (("loss", "p"), ("base_loss", "base_p")):
            entry[name] = -sum(math.log(token[key]) for token in entry["tokens"]) / len(entry["tokens"])
    return list(found.values())
