"""The records of the store of audits: frozen, detached from any database session; and their JSON objects."""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.audit.verdicts import RECITED, Group

logger = logging.getLogger("lorecall.audit")


class AuditNotFoundError(LorecallError):
    """No audit of that id."""

    exit_code = 2
    status = 404
    code = "audit_not_found"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit.

    Attributes:
        id: Its id.
        adapter: The adapter's name.
        version: The version that is audited, 64 hex digits.
        rank: LoRA rank of that version.
        effective_parameters: Σ r · (d_in + d_out).
        candidate_set: sha256 of the candidates, in hex.
        inputs: The sets without their texts: name, digest, number of snippets.
        settings: Its settings, `OrderSettings` as JSON.
        admits: Whether it decides that the version goes live.
        run: What the first batch fixes for all of them: engine, epsilon, sampling, chat template, time; {}
            before.
        state: Its state.
        total: Snippets, controls included.
        done: The cursor: snippets recorded so far.
        seconds: Time spent on the recorded batches.
        result: The report without its snippets, once it is done.
        error: Why it failed, "" if it did not.
        worker: Who holds it.
        attempts: Times it was taken since a batch was last recorded.
        created_at: When it was asked for, UTC.
        created_by: Who asked.
        lease_until: Until when the worker holds it; of a queued one, when it may be taken again.
        finished_at: When it ended, UTC.
        renews: The digest of the terms for which the server ordered it, because the verdict before was stale; ""
            for an audit that somebody asked for.
    """

    id: str
    adapter: str
    version: str
    rank: int
    effective_parameters: int
    candidate_set: str
    inputs: dict[str, Any]
    settings: dict[str, Any]
    admits: bool
    run: dict[str, Any]
    state: AuditState
    total: int
    done: int
    seconds: float
    result: dict[str, Any]
    error: str
    worker: str
    attempts: int
    created_at: datetime
    created_by: str
    lease_until: datetime | None
    finished_at: datetime | None
    renews: str = ""


@dataclass(frozen=True, slots=True)
class LastAudit:
    """The audit that a verdict rests on, without what it found; the fields are those of `AuditRecord`."""

    id: str
    version: str
    settings: dict[str, Any]
    run: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of an audit that was removed.

    Attributes:
        id: Its id.
        adapter: The adapter's name.
        version: The version that was audited.
        candidate_set: sha256 of the candidates, in hex.
        state: Its state when it was removed.
        seal: sha256 of its report's canonical JSON, in hex; "" if it had no report.
        created_at: When it was asked for, UTC.
        finished_at: When it ended, UTC.
        removed_at: When it was removed, UTC.
        removed_by: The name of the key that asked for it, or `RETENTION`.
    """

    id: str
    adapter: str
    version: str
    candidate_set: str
    state: AuditState
    seal: str
    created_at: datetime
    finished_at: datetime | None
    removed_at: datetime
    removed_by: str


@dataclass(frozen=True, slots=True)
class NewAudit:
    """An audit as it is asked for; the fields are those of `AuditRecord`."""

    id: str
    adapter: str
    version: str
    rank: int
    effective_parameters: int
    candidate_set: str
    inputs: dict[str, Any]
    settings: dict[str, Any]
    total: int
    created_by: str
    renews: str = ""


def new_id() -> str:
    """Return an id that nobody can guess."""
    return uuid.uuid4().hex


def describe(record: AuditRecord) -> dict[str, Any]:
    """Return the JSON object of an audit."""
    return {
        "id": record.id,
        "adapter": record.adapter,
        "version": record.version,
        "rank": record.rank,
        "effective_parameters": record.effective_parameters,
        "state": record.state.value,
        "progress": {"done": record.done, "total": record.total},
        "candidate_set": record.candidate_set,
        "inputs": record.inputs,
        "settings": record.settings,
        "admits": record.admits,
        "renews": bool(record.renews),
        "created_at": record.created_at.isoformat(),
        "created_by": record.created_by,
        "finished_at": record.finished_at.isoformat() if record.finished_at else None,
        "seconds": round(record.seconds, 3),
        "error": record.error,
        "gate": record.result.get("gate"),
        "summary": record.result.get("summary"),
        "controls": record.result.get("controls"),
        "by_tag": record.result.get("by_tag", {}),
        "own_candidates": record.result.get("own_candidates"),
        "own_controls": record.result.get("own_controls"),
    }


def capacity_rows(records: Iterable[AuditRecord]) -> list[dict[str, Any]]:
    """Return one `capacity_row` for each audit; one whose result this release cannot read is left out."""
    rows = []
    for record in records:
        try:
            rows.append(capacity_row(record))
        except (KeyError, TypeError, AttributeError) as error:
            logger.warning("audit %s has a result that this release cannot read: %r", record.id, error)
    return rows


def capacity_row(record: AuditRecord) -> dict[str, Any]:
    """Return one audit as a point of recall against capacity: the rank, and what was recited of which set."""
    summary = record.result["summary"]
    verdicts = summary["verdicts"]
    return {
        "audit_id": record.id,
        "adapter": record.adapter,
        "version": record.version,
        "rank": record.rank,
        "effective_parameters": record.effective_parameters,
        "candidate_set": record.candidate_set,
        "candidates": record.inputs[Group.CANDIDATES.value]["name"],
        "finished_at": record.finished_at.isoformat() if record.finished_at else None,
        "snippets": summary["snippets"],
        "tokens": summary["tokens"],
        "tokens_over_half": summary["tokens_over_half"],
        "certified": verdicts["certified"],
        "recited": sum(verdicts[str(verdict)] for verdict in RECITED),
        "of": summary["recited"]["of"],
        "delta_loss": summary["delta_loss"],
    }
