"""Audits in the registry's database: who works on which, how far it is, and what it found."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lorecall.adapters.core.refusals import safe_repr
from lorecall.adapters.registry.audit_tables import AuditRow, AuditSnippetRow, AuditState
from lorecall.adapters.registry.database import Database
from lorecall.adapters.registry.records import record_of
from lorecall.adapters.registry.transitions import ConflictError, is_safe_identifier, plain_text
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord, NewAudit
from sqlalchemy import delete, func, insert, or_, select
from sqlalchemy.orm import Session

MAX_ATTEMPTS = 10
OPEN = (AuditState.QUEUED, AuditState.RUNNING)
Entry = dict[str, Any]
"""A snippet's entry in the report."""


def _now() -> datetime:
    return datetime.now(UTC)


class AuditStore:
    """Audits and their snippets. A worker holds an audit for a lease; another goes on where a dead one stopped.

    Args:
        database: The registry's.
        clock: The time, UTC. Servers on one registry should agree on it to within a lease.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = _now) -> None:
        self._database = database
        self._clock = clock

    def add(self, new: NewAudit) -> AuditRecord:
        """Queue an audit."""
        with self._database.change() as session:
            row = self._row(new)
            session.add(row)
            return record_of(AuditRecord, row)

    def keep(self, new: NewAudit, result: dict[str, Any], entries: Sequence[Entry]) -> AuditRecord:
        """Keep an audit that was done elsewhere, in place of one of the same id."""
        with self._database.change() as session:
            session.execute(delete(AuditSnippetRow).where(AuditSnippetRow.audit_id == new.id))
            session.execute(delete(AuditRow).where(AuditRow.id == new.id))
            row = self._row(new)
            session.add(row)
            session.flush()
            if entries:
                session.execute(insert(AuditSnippetRow), _values(new.id, 0, entries))
            row.done, row.result, row.seconds = len(entries), result, float(result["seconds"])
            _end(row, AuditState.DONE, self._clock())
            return record_of(AuditRecord, row)

    def _row(self, new: NewAudit) -> AuditRow:
        return AuditRow(
            id=new.id,
            adapter=new.adapter,
            version=new.version,
            rank=new.rank,
            effective_parameters=new.effective_parameters,
            candidate_set=new.candidate_set,
            inputs=new.inputs,
            settings=new.settings,
            run={},
            state=AuditState.QUEUED,
            total=new.total,
            done=0,
            seconds=0.0,
            result={},
            error="",
            worker="",
            attempts=0,
            created_at=self._clock(),
            created_by=plain_text(new.created_by),
        )

    def claim(self, worker: str, lease: timedelta, ready: Callable[[str], bool]) -> AuditRecord | None:
        """Take the oldest audit that waits, or whose worker let its lease run out; None if there is none.

        Args:
            worker: Who takes it.
            lease: For how long.
            ready: Whether this worker has the texts of an audit, by its id.
        """
        with self._database.change() as session:
            now = self._clock()
            free = or_(AuditRow.lease_until.is_(None), AuditRow.lease_until < now)
            query = select(AuditRow).where(AuditRow.state.in_(OPEN), free)
            rows = session.scalars(
                query.order_by(AuditRow.created_at, AuditRow.id).with_for_update(skip_locked=True)
            )
            for row in rows:
                if not ready(row.id):
                    continue
                if row.attempts < MAX_ATTEMPTS:
                    row.state, row.worker, row.attempts = AuditState.RUNNING, worker, row.attempts + 1
                    row.lease_until = now + lease
                    return record_of(AuditRecord, row)
                _end(row, AuditState.FAILED, now, error=f"given up after {row.attempts} attempts")
            return None

    def begin(self, audit_id: str, worker: str, run: dict[str, Any]) -> AuditRecord:
        """Fix what holds for all batches. Raises like `record`."""
        with self._database.change() as session:
            row = _held(session, audit_id, worker)
            row.run = run
            return record_of(AuditRecord, row)

    def record(
        self,
        audit_id: str,
        worker: str,
        cursor: int,
        entries: Sequence[Entry],
        lease: timedelta,
        seconds: float,
    ) -> AuditRecord:
        """Write one batch and move the cursor behind it, in one transaction; the lease starts anew.

        Args:
            audit_id: The audit.
            worker: Who did the batch.
            cursor: The position of its first snippet.
            entries: The snippets' entries in the report, in order.
            lease: For how long the worker holds the audit from now on.
            seconds: Time spent on the batch.

        Raises:
            AuditNotFoundError: There is no such audit any more.
            ConflictError: It is over, somebody else has it, or the cursor is elsewhere.
        """
        with self._database.change() as session:
            row = _held(session, audit_id, worker)
            if row.done != cursor:
                raise ConflictError(f"audit {audit_id} is at snippet {row.done}, not at {cursor}")
            session.execute(insert(AuditSnippetRow), _values(audit_id, cursor, entries))
            row.done, row.seconds, row.attempts = cursor + len(entries), row.seconds + seconds, 0
            row.lease_until = self._clock() + lease
            return record_of(AuditRecord, row)

    def renew(self, audit_id: str, worker: str, lease: timedelta) -> None:
        """Hold an audit longer. Raises like `record`."""
        with self._database.change() as session:
            _held(session, audit_id, worker).lease_until = self._clock() + lease

    def release(self, audit_id: str, worker: str, delay: timedelta = timedelta(0)) -> None:
        """Give an audit back, to be taken up by anybody after a delay. Raises like `record`."""
        with self._database.change() as session:
            row = _held(session, audit_id, worker)
            row.state, row.worker = AuditState.QUEUED, ""
            row.lease_until = self._clock() + delay if delay else None

    def finish(self, audit_id: str, worker: str, result: dict[str, Any], *, error: str = "") -> AuditRecord:
        """End an audit with its result, or with the error that stopped it. Raises like `record`."""
        with self._database.change() as session:
            row = _held(session, audit_id, worker)
            _end(row, AuditState.FAILED if error else AuditState.DONE, self._clock(), error=error)
            row.result = result
            return record_of(AuditRecord, row)

    def cancel(self, audit_id: str) -> AuditRecord:
        """Stop an audit; what it has recorded stays. One that is over stays as it is.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self._database.change() as session:
            row = _find(session, audit_id, lock=True)
            if row.state in OPEN:
                _end(row, AuditState.CANCELLED, self._clock())
            return record_of(AuditRecord, row)

    def remove(self, audit_id: str) -> None:
        """Remove an audit with everything that it has recorded; a worker on it stops at its next batch.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self._database.change() as session:
            row = _find(session, audit_id, lock=True)
            session.execute(delete(AuditSnippetRow).where(AuditSnippetRow.audit_id == audit_id))
            session.delete(row)

    def get(self, audit_id: str) -> AuditRecord:
        """One audit.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self._database.read() as session:
            return record_of(AuditRecord, _find(session, audit_id))

    def audits(
        self, *, adapter: str | None = None, state: AuditState | None = None, limit: int | None = None
    ) -> tuple[AuditRecord, ...]:
        """Audits, newest first; of one adapter, or in one state."""
        with self._database.read() as session:
            query = select(AuditRow).order_by(AuditRow.created_at.desc(), AuditRow.id).limit(limit)
            if adapter is not None:
                query = query.where(AuditRow.adapter == adapter)
            if state is not None:
                query = query.where(AuditRow.state == state)
            return tuple(record_of(AuditRecord, row) for row in session.scalars(query))

    def entries(self, audit_id: str, offset: int = 0, limit: int | None = None) -> list[Entry]:
        """The entries of an audit's snippets from a position on, in order."""
        with self._database.read() as session:
            query = (
                select(AuditSnippetRow.entry)
                .where(AuditSnippetRow.audit_id == audit_id, AuditSnippetRow.position >= offset)
                .order_by(AuditSnippetRow.position)
                .limit(limit)
            )
            return list(session.scalars(query))

    def counts(self) -> dict[AuditState, int]:
        """How many audits stand in each state."""
        with self._database.read() as session:
            query = select(AuditRow.state, func.count()).group_by(AuditRow.state)
            found = {row[0]: row[1] for row in session.execute(query)}
            return {state: found.get(state, 0) for state in AuditState}

    def ids(self) -> tuple[frozenset[str], frozenset[str]]:
        """The ids of the audits that are not over, and of those that are."""
        with self._database.read() as session:
            found = session.execute(select(AuditRow.id, AuditRow.state)).all()
            open_ids = frozenset(row[0] for row in found if row[1] in OPEN)
            return open_ids, frozenset(row[0] for row in found) - open_ids


def _values(audit_id: str, cursor: int, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [
        {"audit_id": audit_id, "position": cursor + i, "verdict": entry["verdict"], "entry": entry}
        for i, entry in enumerate(entries)
    ]


def _find(session: Session, audit_id: str, *, lock: bool = False) -> AuditRow:
    row = (
        session.get(AuditRow, audit_id, with_for_update=lock or None)
        if is_safe_identifier(audit_id)
        else None
    )
    if row is None:
        raise AuditNotFoundError(f"there is no audit {safe_repr(audit_id)}", param="id")
    return row


def _held(session: Session, audit_id: str, worker: str) -> AuditRow:
    row = _find(session, audit_id, lock=True)
    if row.state is not AuditState.RUNNING or row.worker != worker:
        raise ConflictError(
            f"audit {audit_id} is {row.state}, held by {row.worker or 'nobody'}, not by {worker}"
        )
    return row


def _end(row: AuditRow, state: AuditState, now: datetime, *, error: str = "") -> None:
    row.state, row.finished_at, row.lease_until, row.error = state, now, None, plain_text(error)
