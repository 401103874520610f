"""API keys in the registry: made, listed and revoked; a secret is returned once and never stored."""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

from lorecall.adapters.access.keys import (
    ApiKey,
    Scope,
    digest_secret,
    new_secret,
    parse_rate_limits,
    parse_scopes,
    parse_sources,
)
from lorecall.adapters.access.rate_limit import NO_LIMITS, RateLimits
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.core.refusals import safe_repr
from lorecall.adapters.registry.database import Database
from lorecall.adapters.registry.tables import KeyRow
from lorecall.adapters.registry.transitions import is_safe_identifier, plain_text, record_event
from sqlalchemy import select

logger = logging.getLogger("lorecall.registry")


class KeyNotFoundError(LorecallError):
    """No API key of that id."""

    exit_code = 2
    status = 404
    code = "key_not_found"


class Keys:
    """The API keys of a registry. A change raises the registry's revision, so servers notice it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unreadable: set[str] = set()

    def add(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        actor: str,
        patterns: Iterable[str] = ("*",),
        limits: RateLimits = NO_LIMITS,
        expires_at: datetime | None = None,
        sources: SourceList | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            The key and its secret, which is not stored.

        Raises:
            ApiKeyError: A pattern is malformed or there is no scope.
        """
        secret = new_secret()
        key = ApiKey(
            id=uuid.uuid4().hex,
            name=plain_text(name),
            digest=digest_secret(secret),
            scopes=frozenset(scopes),
            patterns=tuple(patterns),
            limits=limits,
            expires_at=expires_at,
            sources=sources,
        )
        with self._database.write() as (session, revision):
            row = KeyRow(
                id=key.id,
                name=key.name,
                digest=key.digest,
                scopes=sorted(key.scopes),
                patterns=list(key.patterns),
                limits=asdict(key.limits),
                created_at=datetime.now(UTC),
                created_by=plain_text(actor),
                expires_at=expires_at,
                sources=list(sources.entries) if sources is not None else None,
            )
            session.add(row)
            record_event(session, revision, actor, "add-key", "", "", key=key.id, key_name=name)
        return key, secret

    def revoke(self, key_id: str, *, actor: str) -> None:
        """End a key now; ending it again changes nothing.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        with self._database.write() as (session, revision):
            row = session.get(KeyRow, key_id) if is_safe_identifier(key_id) else None
            if row is None:
                raise KeyNotFoundError(f"there is no API key {safe_repr(key_id)}", param="id")
            if row.revoked_at is None:
                row.revoked_at = datetime.now(UTC)
                record_event(session, revision, actor, "revoke-key", "", "", key=key_id, key_name=row.name)

    def active(self) -> tuple[ApiKey, ...]:
        """The keys that are not revoked, sorted by name; `KeyRing` refuses those that have expired.

        A key that this release cannot read is left out, and named in the log once.
        """
        with self._database.read() as session:
            query = select(KeyRow).where(KeyRow.revoked_at.is_(None)).order_by(KeyRow.name, KeyRow.id)
            return tuple(key for row in session.scalars(query) if (key := self._read(row)) is not None)

    def exist(self) -> bool:
        """Whether there is a key that is not revoked, also if this release cannot read it."""
        with self._database.read() as session:
            query = select(KeyRow.id).where(KeyRow.revoked_at.is_(None)).limit(1)
            return session.scalars(query).first() is not None

    def _read(self, row: KeyRow) -> ApiKey | None:
        try:
            return _key_of(row)
        except (LorecallError, TypeError, ValueError) as error:
            if row.id not in self._unreadable:
                logger.error(  # noqa: TRY400  the message says it all
                    "API key %s (%s) does not work here: %s. A newer release of lorecall may have made it: "
                    "upgrade this server, or revoke the key",
                    row.id,
                    safe_repr(row.name),
                    error,
                )
                self._unreadable.add(row.id)
            return None


def _key_of(row: KeyRow) -> ApiKey:
    stored: tuple[object, ...] = (row.scopes, row.patterns)  # JSON, so of any type
    if not all(isinstance(value, list) for value in stored):
        raise TypeError("its scopes and adapters are no lists")
    return ApiKey(
        id=row.id,
        name=row.name,
        digest=row.digest,
        scopes=parse_scopes(row.scopes),
        patterns=tuple(row.patterns),
        limits=parse_rate_limits(row.limits),
        expires_at=row.expires_at,
        sources=parse_sources(row.sources),
    )
