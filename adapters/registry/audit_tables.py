"""The tables of audits, in the registry's database: the one queue of work that servers share."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from lorecall.adapters.registry.tables import Model, TextEnum
from sqlalchemy import BigInteger, Double, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column


class AuditState(StrEnum):
    """The state of an audit."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AuditRow(Model):
    """An audit that was asked for: its worker, its progress, what it found; no candidate's text."""

    __tablename__ = "audits"
    __table_args__ = (
        Index("ix_audits_state_finished_at", "state", "finished_at"),
        Index("ix_audits_last", "adapter", "state", "version", "admits", "renews", "finished_at", "id"),
        Index(
            "one_renewal", "renews", "adapter", "version", unique=True, sqlite_where=text("renews <> ''"),
            postgresql_where=text("renews <> ''"),
        ),
    )  # fmt: skip
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int]
    effective_parameters: Mapped[int] = mapped_column(BigInteger)
    candidate_set: Mapped[str] = mapped_column(String(64), index=True)
    inputs: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    admits: Mapped[bool]
    run: Mapped[dict[str, Any]]
    state: Mapped[AuditState] = mapped_column(TextEnum(AuditState))
    total: Mapped[int]
    done: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)
    result: Mapped[dict[str, Any]]
    error: Mapped[str]
    worker: Mapped[str]
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(index=True)
    created_by: Mapped[str]
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    renews: Mapped[str] = mapped_column(String(64))


class AuditTombstoneRow(Model):
    """What is left of an audit that was removed: what it was of, its report's seal, and who removed it when."""

    __tablename__ = "audit_tombstones"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(64))
    candidate_set: Mapped[str] = mapped_column(String(64))
    state: Mapped[AuditState] = mapped_column(TextEnum(AuditState))
    seal: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    removed_at: Mapped[datetime] = mapped_column(index=True)
    removed_by: Mapped[str]


class AuditSnippetRow(Model):
    """The result of one snippet: its entry in the report, written in the transaction that moves the cursor."""

    __tablename__ = "audit_snippets"
    audit_id: Mapped[str] = mapped_column(ForeignKey("audits.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    verdict: Mapped[str] = mapped_column(String(16))
    entry: Mapped[dict[str, Any]]
