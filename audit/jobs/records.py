"""The records of the store of audits: frozen, detached from any database session."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.registry.audit_tables import AuditState


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
