"""Training records hold known fields with bounded values only: older servers took whatever a file held."""

import json
import math
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_LONGEST = 16_384
_KNOWN = frozenset({
    "schema_version", "data_digest", "base_digest", "scheme", "method", "rank", "layers", "modules", "seed",
    "epochs", "steps", "lr", "batch_size", "stop_over", "stopped_early", "pairs", "inexact_boundaries",
    "target_tokens", "tokens_over_half", "base_tokens_over_half", "loss", "base_loss", "min_p", "created_with",
    "mitigation",
})  # fmt: skip


def upgrade() -> None:
    """Keep the known fields of each record; of one that cannot be read, the base's digest."""
    connection = op.get_bind()
    # As text: a column of JSON fails for all rows where one cannot be parsed.
    query = "SELECT name, version, base_digest, CAST(training AS TEXT) AS record FROM adapter_versions"
    update = "UPDATE adapter_versions SET training = :record WHERE name = :name AND version = :version"
    training = sa.bindparam("record", type_=sa.JSON())
    for row in connection.execute(sa.text(query)).mappings().all():
        kept = _kept(row["record"])
        if kept is None:
            kept = {"base_digest": row["base_digest"][:128]} if row["base_digest"] else {}
        values = {"record": kept, "name": row["name"], "version": row["version"]}
        connection.execute(sa.text(update).bindparams(training), values)


def _kept(text: str) -> dict[str, Any] | None:
    """Return the known fields of a record; None if it is too long, too deep or not finite."""
    if len(text) > _LONGEST:
        return None
    try:
        record = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        text.encode()
        json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return {key: value for key, value in record.items() if key in _KNOWN} if _shallow(record, 64) else None


def _shallow(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_shallow(one, depth - 1) for one in inner)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _refuse(_constant: str) -> Any:
    raise ValueError


def downgrade() -> None:
    """Leave the records as they are."""
