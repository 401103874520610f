"""The audit that each adapter's verdict rests on, and the audits that renew a stale one, from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from lorecall.adapters.registry.audit_tables import AuditRow, AuditState
from lorecall.adapters.registry.database import Database
from lorecall.audit.jobs.records import LastAudit
from lorecall.audit.jobs.store import OPEN
from lorecall.audit.scorers.batches import batches
from sqlalchemy import Select, func, or_, select

PAGE = 500
"""Names whose audits are looked for in one statement."""
_COLUMNS = tuple(getattr(AuditRow, field.name) for field in fields(LastAudit))


@dataclass(frozen=True, slots=True)
class LastAudits:
    """Reads which audits count, and what they rest on; what they found is not read."""

    database: Database

    def of(self, live: Mapping[str, str]) -> dict[str, LastAudit]:
        """Return the audit that the verdict on each name rests on; a name without one that is done is left out.

        It is one of the live version, or of another one where that has none: the newest of those that the server
        ordered itself, or the newest of any where it ordered none.

        Args:
            live: The live version of each name.
        """
        found = {}
        for names in batches(list(live), PAGE):
            chosen: dict[str, str] = {}
            with self.database.read() as session:
                for audit_id, name, version in session.execute(_newest(names)):
                    if name not in chosen or version == live[name]:
                        chosen[name] = audit_id
                query = select(AuditRow.adapter, *_COLUMNS).where(AuditRow.id.in_(chosen.values()))
                for name, *values in session.execute(query):
                    found[name] = LastAudit(*values)
        return found

    def renewed(self, terms: str) -> frozenset[tuple[str, str]]:
        """Return the adapters and versions that had a renewal for these terms, however it ended."""
        with self.database.read() as session:
            query = select(AuditRow.adapter, AuditRow.version).where(AuditRow.renews == terms)
            return frozenset((row[0], row[1]) for row in session.execute(query))

    def open_renewals(self) -> tuple[tuple[str, datetime, datetime | None], ...]:
        """Return (id, when it was ordered, until when a worker holds it) of each renewal that waits or runs."""
        columns = (AuditRow.id, AuditRow.created_at, AuditRow.lease_until)
        with self.database.read() as session:
            query = select(*columns).where(AuditRow.state.in_(OPEN), AuditRow.renews != "")
            return tuple((row[0], row[1], row[2]) for row in session.execute(query))


def _newest(names: Sequence[str]) -> Select[Any]:
    """Select the audit that counts of each version of some names, the newest first.

    The index `ix_audits_last` has all that this reads.
    """
    own = or_(AuditRow.admits, AuditRow.renews != "")
    place = func.row_number().over(
        partition_by=(AuditRow.adapter, AuditRow.version), order_by=(own.desc(), AuditRow.finished_at.desc())
    )
    done = (
        select(AuditRow.id, AuditRow.adapter, AuditRow.version, AuditRow.finished_at, place.label("place"))
        .where(AuditRow.adapter.in_(names), AuditRow.state == AuditState.DONE)
        .subquery()
    )
    query = select(done.c.id, done.c.adapter, done.c.version).where(done.c.place == 1)
    return query.order_by(done.c.finished_at.desc())
