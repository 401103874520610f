"""The tables of the registry."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class State(StrEnum):
    """The state of a version; `transitions.TRANSITIONS` says which state may follow which."""

    STAGED = "staged"
    VALIDATED = "validated"
    AUDITING = "auditing"
    LIVE = "live"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class TextEnum(TypeDecorator[Any]):
    """A string enumeration, stored as plain text.

    A text that no member has was written by a newer release. It is read as a value of the enumeration that equals
    no member, so that one such row takes no list down, and no step takes it for a state that it is not.
    """

    impl = String(16)
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text of a member."""
        del dialect
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """Return the member, or a value outside of the enumeration that shows the unknown text."""
        del dialect
        if value is None:
            return None
        try:
            return self.kind(value)
        except ValueError:
            unknown = str.__new__(self.kind, value)
            unknown._name_ = unknown._value_ = value
            return unknown


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time in UTC, with its zone; SQLite does not store the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a value from the database with its zone."""
        del dialect
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Model(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        State: TextEnum(State),
    }


class CounterRow(Model):
    """One row: the revision. Writers lock it, so revisions are committed in their order."""

    __tablename__ = "registry_revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class AdapterRow(Model):
    """A name and the version that it points at. A removed name stays as a row, so that other servers notice."""

    __tablename__ = "adapters"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    live_version: Mapped[str | None] = mapped_column(String(64))
    previous_version: Mapped[str | None] = mapped_column(String(64))
    pinned: Mapped[bool]
    removed: Mapped[bool]
    revision: Mapped[int] = mapped_column(index=True)


class VersionRow(Model):
    """One version under one name: its facts and its state."""

    __tablename__ = "adapter_versions"
    __table_args__ = (
        ForeignKeyConstraint(["name"], ["adapters.name"]),
        Index(
            "one_live_version", "name", unique=True, sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
    )  # fmt: skip
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[State]
    reason: Mapped[str]
    audit_id: Mapped[str]
    was_live: Mapped[bool]
    rank: Mapped[int]
    effective_parameters: Mapped[int] = mapped_column(BigInteger)
    base_digest: Mapped[str]
    refusal: Mapped[str]
    training: Mapped[dict[str, Any]]
    remarks: Mapped[list[str]]
    chat_template: Mapped[str]
    source: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class EventRow(Model):
    """Who did what, and when."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_name_id", "name", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int]
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]]


class KeyRow(Model):
    """An API key: the digest of its secret, never the secret."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    patterns: Mapped[list[str]]
    limits: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    sources: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
