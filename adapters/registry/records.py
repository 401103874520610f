"""What the registry answers: frozen records, detached from any database session."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from lorecall.adapters.registry.tables import Model, State

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """A name.

    Attributes:
        name: What requests give as `model`.
        live_version: The version it answers with; None while it has none.
        previous_version: What `rollback` goes back to; None if nothing.
        pinned: Whether servers should keep it loaded.
        removed: Whether it was removed (only `changes` returns those).
        revision: The registry's revision when it last changed.
    """

    name: str
    live_version: str | None
    previous_version: str | None
    pinned: bool
    removed: bool
    revision: int


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version under one name.

    Attributes:
        name: The name.
        version: 64 hex digits, sha256 over configuration and weights.
        state: Its state.
        reason: Why it is quarantined or retired; "" otherwise.
        audit_id: The audit that it waits for, or that decided last; "" for none.
        was_live: Whether it ever went live under this name since the name was added.
        rank: Its largest LoRA rank; this and the facts below are 0 or empty until it is validated.
        effective_parameters: Σ r · (d_in + d_out).
        base_digest: The base that it was trained on; "" if unknown.
        refusal: Why its scores would not be its own in the engine that took it in; "" if they are.
        training: The training record that came with it under this name; {} for none.
        remarks: What its owner should know of how it is served, in sentences.
        chat_template: The Jinja template that its chats are rendered with under this name; "" for the base's.
        source: Where it came from.
        created_at: When it was added, UTC.
        created_by: Who added it.
    """

    name: str
    version: str
    state: State
    reason: str
    audit_id: str
    was_live: bool
    rank: int
    effective_parameters: int
    base_digest: str
    refusal: str
    training: dict[str, Any]
    remarks: list[str]
    chat_template: str
    source: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Who did what, and when; `version` is "" where an event concerns the name alone."""

    id: int
    revision: int
    at: datetime
    actor: str
    action: str
    name: str
    version: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed: the revision to ask from next time, and the names changed since, removed ones included."""

    revision: int
    adapters: tuple[AdapterRecord, ...]


def record_of(kind: type[R], row: Model) -> R:
    """Copy a row into the record that has the same fields."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})  # type: ignore[arg-type]  # a record


def shown_version(
    adapter: AdapterRecord, versions: Sequence[VersionRecord], version: str | None = None
) -> VersionRecord:
    """Return the version that stands for a name: the one asked for, the live one, or the newest."""
    wanted = version or adapter.live_version
    return next((one for one in versions if one.version == wanted), versions[0])
