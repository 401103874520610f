"""Tombstones of removed audits; and the stored reports completed and sealed anew, over canonical JSON (RFC 8785).

A report whose signature was an HMAC loses it: a signature that others can check needs the private key, which is
not here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from lorecall.adapters.core.canonical_json import digest, exact

revision = "0008"
down_revision = "0007"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table, and seal one report after another."""
    op.create_table(
        "audit_tombstones",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("adapter", sa.String(128), nullable=False, index=True),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("candidate_set", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("seal", sa.String(64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("removed_at", _TIME, nullable=False, index=True),
        sa.Column("removed_by", sa.String(), nullable=False),
    )
    connection = op.get_bind()
    known = sa.MetaData()
    audits, snippets = (
        sa.Table(name, known, autoload_with=connection) for name in ("audits", "audit_snippets")
    )
    for audit_id, result in connection.execute(sa.select(audits.c.id, audits.c.result)).all():
        if "seal" not in result:
            continue
        query = sa.select(snippets.c.entry).where(snippets.c.audit_id == audit_id)
        entries = list(connection.execute(query.order_by(snippets.c.position)).scalars())
        sealed = _sealed(result, entries)
        connection.execute(sa.update(audits).where(audits.c.id == audit_id).values(result=sealed))


def _sealed(result: dict[str, Any], entries: list[Any]) -> dict[str, Any]:
    content = exact(_complete({name: value for name, value in result.items() if name != "seal"}))
    return {**content, "seal": {"sha256": digest({**content, "snippets": entries})}}


def _complete(content: dict[str, Any]) -> dict[str, Any]:
    """Return a report with what later releases ask for.

    It looked for nothing that only sampling gives, and said nothing of candidates that could not be scored, nor
    of how near the others came to a finding.
    """
    for name in ("summary", "controls", "own_candidates", "own_controls"):
        if content.get(name):
            counts = {"extractable": 0, **content[name]["verdicts"]}
            content[name] = {**content[name], "verdicts": counts}
    for name, least in (("membership", {"least_q": 1.0}), ("sequential", {"errors": 0})):
        if content.get(name):
            content[name] = {**least, **content[name]}
    return content


def downgrade() -> None:
    """Drop the table; the seals stay."""
    op.drop_table("audit_tombstones")
