"""Which audits count: what each adapter's verdict rests on, what renews a stale one, what of a set is live."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from lorecall.adapters.registry.audit_tables import AuditRow, AuditState
from lorecall.adapters.registry.database import Database
from lorecall.adapters.registry.tables import AdapterRow
from lorecall.audit.jobs.records import LastAudit
from lorecall.audit.jobs.store import OPEN
from lorecall.audit.scorers.batches import batches
from sqlalchemy import Select, func, or_, select

PAGE = 500
"""Names whose audits are looked for in one statement."""
_COLUMNS = tuple(getattr(AuditRow, field.name) for field in fields(LastAudit))
MOST_SHOWN = 12
"""Adapters of one set that are shown beside each other."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An audit that is done, without what it found; the fields are those of `AuditRecord`."""

    id: str
    adapter: str
    version: str
    rank: int
    effective_parameters: int
    candidate_set: str


def deployed(audits: Iterable[Finished], live: Mapping[str, str | None]) -> list[tuple[int, list[Finished]]]:
    """Return for each set how many live versions were asked it, and the newest audits of some, by rank.

    Where a set was asked of more than `MOST_SHOWN` they are the ones of each rank that were audited last, and of
    more ranks than that some. The sets asked of most adapters come first.

    Args:
        audits: The oldest first.
        live: The live version of each name.
    """
    sets: dict[str, dict[str, Finished]] = {}
    for one in audits:
        if live.get(one.adapter) == one.version:
            newest = sets.setdefault(one.candidate_set, {})
            newest.pop(one.adapter, None)  # the one audited last stands last
            newest[one.adapter] = one
    found = [(len(newest), _few(list(newest.values()))) for newest in sets.values()]
    return sorted(found, key=lambda one: one[0], reverse=True)


def _few(audits: list[Finished]) -> list[Finished]:
    if len(audits) > MOST_SHOWN:
        audits = [one for _, one in sorted({one.rank: one for one in audits}.items())]
        steps = min(MOST_SHOWN, len(audits))
        last = len(audits) - 1
        audits = [audits[at * last // max(steps - 1, 1)] for at in range(steps)]
    return sorted(audits, key=lambda one: (one.rank, one.effective_parameters, one.adapter))


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

    def finished(self) -> list[Finished]:
        """Return all audits that are done, the oldest first."""
        columns = (getattr(AuditRow, field.name) for field in fields(Finished))
        query = select(*columns).where(AuditRow.state == AuditState.DONE)
        with self.database.read() as session:
            return [
                Finished(*row) for row in session.execute(query.order_by(AuditRow.created_at, AuditRow.id))
            ]

    def live(self, names: Collection[str]) -> dict[str, str | None]:
        """Return the live version of those names that the registry has ever known, None where nothing is live."""
        found: dict[str, str | None] = {}
        for page in batches(list(names), PAGE):
            query = select(AdapterRow.name, AdapterRow.live_version).where(AdapterRow.name.in_(page))
            with self.database.read() as session:
                found |= {row[0]: row[1] for row in session.execute(query)}
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
