"""Removal of audits: what they recorded goes, and a tombstone with the report's seal stays."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from lorecall.adapters.registry.audit_tables import AuditRow, AuditSnippetRow, AuditTombstoneRow
from lorecall.adapters.registry.records import record_of
from lorecall.adapters.registry.transitions import plain_text
from lorecall.audit.jobs.records import Tombstone
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

RETENTION = "retention"
"""Who removes what LORECALL_AUDITS_DAYS asks to."""


def bury(session: Session, row: AuditRow, now: datetime, actor: str) -> None:
    """Remove an audit with its entries, and leave a tombstone, in the session's transaction."""
    same = ("id", "adapter", "version", "candidate_set", "state", "created_at", "finished_at")
    session.add(
        AuditTombstoneRow(
            **{name: getattr(row, name) for name in same},
            seal=row.result.get("seal", {}).get("sha256", ""),
            removed_at=now,
            removed_by=plain_text(actor),
        )
    )
    session.execute(delete(AuditSnippetRow).where(AuditSnippetRow.audit_id == row.id))
    session.delete(row)


def tombstones(session: Session, adapter: str | None) -> tuple[Tombstone, ...]:
    """Return the tombstones of all audits or of one adapter's, the newest first."""
    query = select(AuditTombstoneRow).order_by(AuditTombstoneRow.removed_at.desc(), AuditTombstoneRow.id)
    if adapter is not None:
        query = query.where(AuditTombstoneRow.adapter == adapter)
    return tuple(record_of(Tombstone, row) for row in session.scalars(query))


def describe_tombstone(one: Tombstone) -> dict[str, Any]:
    """Return the JSON object of a tombstone."""
    times = {name: value.isoformat() for name, value in asdict(one).items() if isinstance(value, datetime)}
    return {**asdict(one), "state": one.state.value, **times}
