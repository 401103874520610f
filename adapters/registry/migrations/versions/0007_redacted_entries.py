"""Take out of stored audits whose texts are not shown what a text could be had back from.

Token ids, the first characters of texts, exact probabilities and ranks, and the template of the framing. The
reports are sealed anew, without a signature: the key is not here.
"""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _share(p: float) -> float:
    return (math.ceil(p * 100.0) if p > 0.5 else math.floor(p * 100.0)) / 100.0


_ROUNDED: dict[str, Callable[[float], float]] = {
    "min_p": _share,
    "base_min_p": _share,
    "loss": lambda nats: round(nats, 2),
    "base_loss": lambda nats: round(nats, 2),
    "delta_loss": lambda nats: round(nats, 2),
    "run_bits": lambda bits: float(round(bits)),
    "base_bits": lambda bits: float(round(bits)),
    "log10_pz": lambda value: round(value, 1),
    "log10_n50": lambda value: round(value, 1),
}


def upgrade() -> None:
    """Scrub one audit after another."""
    connection = op.get_bind()
    known = sa.MetaData()
    audits, snippets = (
        sa.Table(name, known, autoload_with=connection) for name in ("audits", "audit_snippets")
    )
    for row in connection.execute(sa.select(audits.c.id, audits.c.settings, audits.c.result)).all():
        settings = {name: value for name, value in row.settings.items() if name != "template"}
        entries = _scrub(connection, snippets, row.id, shown=bool(settings.get("show_text")))
        result = _sealed(row.result, entries) if row.result else row.result
        connection.execute(sa.update(audits).where(audits.c.id == row.id).values(result=result))
        connection.execute(sa.update(audits).where(audits.c.id == row.id).values(settings=settings))


def _scrub(
    connection: sa.Connection, snippets: sa.Table, audit_id: str, *, shown: bool
) -> list[dict[str, Any]]:
    """Scrub the entries of one audit, of which those with shown texts lose only a field; return them."""
    query = sa.select(snippets).where(snippets.c.audit_id == audit_id).order_by(snippets.c.position)
    scrubbed = []
    for row in connection.execute(query).all():
        scrubbed.append(_without_starts(row.entry) if shown else _entry(_without_starts(row.entry)))
        own = (snippets.c.audit_id == audit_id) & (snippets.c.position == row.position)
        connection.execute(sa.update(snippets).where(own).values(entry=scrubbed[-1]))
    return scrubbed


def _without_starts(entry: dict[str, Any]) -> dict[str, Any]:
    texts = {name: {k: v for k, v in entry[name].items() if k != "start"} for name in ("prefix", "target")}
    return {**entry, **texts}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    entry["tokens"] = [
        {
            "p": _share(token["p"]),
            "rank": 1 if token["rank"] == 1 else 10 ** math.ceil(math.log10(token["rank"])),
            "base_p": None if token["base_p"] is None else _share(token["base_p"]),
        }
        for token in entry["tokens"]
    ]
    entry["views"] = [
        {**view, "min_p": None if view["min_p"] is None else _share(view["min_p"])} for view in entry["views"]
    ]
    for name, rounded in _ROUNDED.items():
        if entry.get(name) is not None:
            entry[name] = rounded(entry[name])
    return entry


def _sealed(result: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Bring a report to schema 2.0 and seal it."""
    bounds = {
        "missed": 1.0,
        "false_discovery_rate": 1.0,
        "answer_tokens": 0,
        "system": None,
        "template": None,
    }
    content = {name: value for name, value in result.items() if name != "seal"}
    content |= {"schema_version": "2.0", "membership": None, "settings": bounds | result["settings"]}
    whole = {**content, "snippets": entries}
    canonical = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    seal = {"sha256": hashlib.sha256(canonical.encode()).hexdigest(), "signature": ""}
    return {**content, "seal": seal}


def downgrade() -> None:
    """Leave the data as it is: what was taken out is gone."""
