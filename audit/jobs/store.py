"""The queue of audits in the registry's database, with their progress and results."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from lorecall.adapters.core.refusals import safe_repr
from lorecall.adapters.registry.audit_tables import AuditRow, AuditSnippetRow, AuditState
from lorecall.adapters.registry.database import Database, next_revision
from lorecall.adapters.registry.records import record_of
from lorecall.adapters.registry.tables import State, VersionRow
from lorecall.adapters.registry.transitions import (
    ConflictError,
    find_version,
    is_safe_identifier,
    move_version,
    plain_text,
    record_event,
)
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord, NewAudit, Tombstone
from lorecall.audit.jobs.retention import RETENTION, bury, tombstones
from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

MAX_ATTEMPTS = 10
CLAIMED_AMONG = 100
ACTOR = "audit"
"""Who admits or quarantines a version after its audit, in the registry's events."""
OPEN = (AuditState.QUEUED, AuditState.RUNNING)
OVER = (AuditState.DONE, AuditState.FAILED, AuditState.CANCELLED)
Entry = dict[str, Any]
"""A snippet's entry in the report."""


def _now() -> datetime:
    return datetime.now(UTC)


class AuditStore:
    """Audits and their entries. A worker holds an audit for a lease; another goes on where a dead one stopped.

    Args:
        database: The registry's.
        clock: The time, UTC. Servers on one registry should agree on it to within a lease.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = _now) -> None:
        self.database = database
        self._clock = clock

    def add(self, new: NewAudit) -> AuditRecord:
        """Queue an audit."""
        with self.database.change() as session:
            return record_of(AuditRecord, self._insert(session, new, admits=False))

    def admit(self, new: NewAudit, ready: Callable[[str], bool]) -> AuditRecord:
        """Queue the audit that decides whether a version goes live, and put the version under audit.

        While such an audit of the version is open, that one is returned instead, unless nobody works on it and
        its texts are lost: then it is cancelled, and the new one takes its place.

        Args:
            new: The audit; its adapter and version are in the registry.
            ready: Whether the texts of an audit are here, by its id.

        Raises:
            AdapterNotFoundError: There is no such name or version.
            ConflictError: The version is in no state to be audited.
        """
        same = select(AuditRow).where(
            AuditRow.admits,
            AuditRow.adapter == new.adapter,
            AuditRow.version == new.version,
            AuditRow.state.in_(OPEN),
        )
        with self.database.change() as session:
            now = self._clock()
            row = session.scalars(same.with_for_update()).first()
            held = row is not None and row.lease_until is not None and row.lease_until >= now
            if row is not None and not held and not ready(row.id):
                _end(session, row, AuditState.CANCELLED, now, "its texts were lost")
            revision = next_revision(session)
            row = session.scalars(same).first()  # asked again: another server may have been quicker
            row = row or self._insert(session, new, admits=True)
            version = find_version(session, new.adapter, new.version)
            if version.state is not State.AUDITING:
                move_version(session, version, State.AUDITING, revision, audit_id=row.id)
                event = {"audit_id": row.id}
                record_event(session, revision, ACTOR, "auditing", new.adapter, new.version, **event)
            return record_of(AuditRecord, row)

    def add_renewal(self, new: NewAudit) -> AuditRecord | None:
        """Queue an audit that renews a stale verdict; None if the version had one for the same terms before.

        That one may wait, or be over in any way: no version is audited again and again for the same terms.
        """
        try:
            with self.database.change() as session:
                return record_of(AuditRecord, self._insert(session, new, admits=False))
        except IntegrityError:
            return None

    def _insert(self, session: Session, new: NewAudit, *, admits: bool) -> AuditRow:
        row = AuditRow(
            **asdict(new),
            admits=admits,
            run={},
            state=AuditState.QUEUED,
            done=0,
            seconds=0.0,
            result={},
            error="",
            worker="",
            attempts=0,
            created_at=self._clock(),
        )
        row.created_by = plain_text(new.created_by)
        session.add(row)
        return row

    def claim(
        self, worker: str, lease: timedelta, ready: Callable[[str], bool], *, admissions: bool = False
    ) -> AuditRecord | None:
        """Take the oldest audit that waits, or whose worker let its lease run out; None if there is none.

        An audit taken `MAX_ATTEMPTS` times without one recorded batch has failed.

        Args:
            worker: Who takes it.
            lease: For how long.
            ready: Whether this worker has the texts of an audit, by its id.
            admissions: Whether it can do audits that admit a version; those come first. Those that renew a
                verdict come last.
        """
        waiting = self._waiting(admissions=admissions)
        order = (AuditRow.admits.desc(), AuditRow.renews != "", AuditRow.created_at, AuditRow.id)
        with self.database.read() as session:  # to look for work writes and locks nothing
            ids = session.scalars(select(AuditRow.id).where(waiting).order_by(*order))
            here = list(islice(filter(ready, ids), CLAIMED_AMONG))
        if not here:
            return None
        query = select(AuditRow).where(waiting, AuditRow.id.in_(here)).order_by(*order)
        with self.database.change() as session:
            now = self._clock()
            for row in session.scalars(query.with_for_update(skip_locked=True)):
                if row.attempts < MAX_ATTEMPTS:
                    row.state, row.worker, row.attempts = AuditState.RUNNING, worker, row.attempts + 1
                    row.lease_until = now + lease
                    return record_of(AuditRecord, row)
                _end(session, row, AuditState.FAILED, now, f"given up after {row.attempts} attempts")
            return None

    def others_wait(self, ready: Callable[[str], bool], *, admissions: bool = False) -> bool:
        """Whether an audit waits that renews no verdict; the arguments are those of `claim`."""
        asked = and_(self._waiting(admissions=admissions), AuditRow.renews == "")
        with self.database.read() as session:
            return any(map(ready, session.scalars(select(AuditRow.id).where(asked))))

    def _waiting(self, *, admissions: bool) -> ColumnElement[bool]:
        free = or_(AuditRow.lease_until.is_(None), AuditRow.lease_until < self._clock())
        return and_(AuditRow.state.in_(OPEN), free, *(() if admissions else (~AuditRow.admits,)))

    def prepare(
        self, audit_id: str, worker: str, candidate_set: str, inputs: dict[str, Any], total: int
    ) -> AuditRecord:
        """Store what an order by reference turned out to hold. Raises like `record`."""
        with self.database.change() as session:
            row = _held(session, audit_id, worker)
            row.candidate_set, row.inputs, row.total = candidate_set, inputs, total
            return record_of(AuditRecord, row)

    def begin(self, audit_id: str, worker: str, run: dict[str, Any]) -> AuditRecord:
        """Store what the first batch fixes for all of them. Raises like `record`."""
        with self.database.change() as session:
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
        """Write one batch and move the cursor past it, in one transaction; the lease starts anew.

        Args:
            audit_id: The audit.
            worker: Who did the batch.
            cursor: The position of its first snippet in the audit.
            entries: The snippets' entries in the report, in order.
            lease: For how long the worker holds the audit from now on.
            seconds: Time spent on the batch.

        Raises:
            AuditNotFoundError: The audit was removed.
            ConflictError: It is over, another worker has it, or the cursor is elsewhere.
        """
        with self.database.change() as session:
            row = _held(session, audit_id, worker)
            if row.done != cursor:
                raise ConflictError(f"audit {audit_id} is at snippet {row.done}, not at {cursor}")
            session.execute(insert(AuditSnippetRow), _values(audit_id, cursor, entries))
            row.done, row.seconds, row.attempts = cursor + len(entries), row.seconds + seconds, 0
            row.lease_until = self._clock() + lease
            return record_of(AuditRecord, row)

    def renew(self, audit_id: str, worker: str, lease: timedelta) -> None:
        """Hold an audit for another lease. Raises like `record`."""
        with self.database.change() as session:
            _held(session, audit_id, worker).lease_until = self._clock() + lease

    def release(self, audit_id: str, worker: str, delay: timedelta = timedelta(0)) -> None:
        """Put an audit back into the queue, to be taken after a delay. Raises like `record`."""
        with self.database.change() as session:
            row = _held(session, audit_id, worker)
            row.state, row.worker = AuditState.QUEUED, ""
            row.lease_until = self._clock() + delay if delay else None

    def finish(
        self,
        audit_id: str,
        worker: str,
        result: dict[str, Any],
        entries: Sequence[Entry] = (),
        *,
        error: str = "",
    ) -> AuditRecord:
        """End an audit with its report, or with the error that stopped it. Raises like `record`.

        A version that it was to admit is quarantined in the same transaction unless the report's gate passed.

        Args:
            audit_id: The audit.
            worker: Who did it.
            result: The report without its snippets.
            entries: All snippets' entries as the report has them; they replace the recorded ones, because a
                verdict beside the controls is known only at the end.
            error: Why it failed, "" if it did not.
        """
        with self.database.change() as session:
            row = _held(session, audit_id, worker)
            if entries:
                session.execute(update(AuditSnippetRow), _values(audit_id, 0, entries))
            row.result = result
            _end(session, row, AuditState.FAILED if error else AuditState.DONE, self._clock(), error)
            return record_of(AuditRecord, row)

    def cancel(self, audit_id: str) -> AuditRecord:
        """Stop an audit; its entries stay. One that is over is not changed.

        A version that it was to admit is quarantined.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self.database.change() as session:
            row = _find(session, audit_id, lock=True)
            self._cancel(session, row)
            return record_of(AuditRecord, row)

    def remove(self, audit_id: str, actor: str) -> None:
        """Remove an audit with everything that it has recorded, but for a tombstone.

        A worker on it stops at its next batch.

        Args:
            audit_id: The audit.
            actor: Who removes it.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self.database.change() as session:
            row = _find(session, audit_id, lock=True)
            self._cancel(session, row)
            bury(session, row, self._clock(), actor)

    def expire(self, keep: timedelta) -> tuple[str, ...]:
        """Remove the audits that have been over for longer than `keep`, but for tombstones; return their ids."""
        old = and_(AuditRow.state.in_(OVER), AuditRow.finished_at < self._clock() - keep)
        with self.database.read() as session:  # without a write while there is nothing to do
            ids = session.scalars(select(AuditRow.id).where(old)).all()
        gone = []
        for audit_id in ids:  # one transaction each, so that no other change waits for long
            with self.database.change() as session:
                query = select(AuditRow).where(AuditRow.id == audit_id, old)
                row = session.scalars(query.with_for_update(skip_locked=True)).first()
                if row is not None:  # no other server was quicker
                    bury(session, row, self._clock(), RETENTION)
                    gone.append(audit_id)
        return tuple(gone)

    def tombstones(self, adapter: str | None = None) -> tuple[Tombstone, ...]:
        """What is left of the audits that were removed, of one adapter or of all, the newest first."""
        with self.database.read() as session:
            return tombstones(session, adapter)

    def _cancel(self, session: Session, row: AuditRow) -> None:
        if row.state in OPEN:
            _end(session, row, AuditState.CANCELLED, self._clock())

    def get(self, audit_id: str) -> AuditRecord:
        """One audit.

        Raises:
            AuditNotFoundError: There is no such audit.
        """
        with self.database.read() as session:
            return record_of(AuditRecord, _find(session, audit_id))

    def audits(
        self,
        *,
        adapters: Sequence[str] = (),
        state: AuditState | None = None,
        limit: int | None = None,
        before: AuditRecord | None = None,
        ended_after: datetime | None = None,
    ) -> tuple[AuditRecord, ...]:
        """Audits, newest first; of some adapters, in a state, ended after a time, or after one in this order."""
        with self.database.read() as session:
            query = select(AuditRow).order_by(AuditRow.created_at.desc(), AuditRow.id).limit(limit)
            if adapters:
                query = query.where(AuditRow.adapter.in_(adapters))
            if state is not None:
                query = query.where(AuditRow.state == state)
            if ended_after is not None:
                query = query.where(AuditRow.finished_at > ended_after)
            if before is not None:
                same = and_(AuditRow.created_at == before.created_at, AuditRow.id > before.id)
                query = query.where(or_(AuditRow.created_at < before.created_at, same))
            return tuple(record_of(AuditRecord, row) for row in session.scalars(query))

    def some(self, ids: Sequence[str]) -> tuple[AuditRecord, ...]:
        """Those of a few audits that are still there."""
        with self.database.read() as session:
            query = select(AuditRow).where(AuditRow.id.in_(ids))
            return tuple(record_of(AuditRecord, row) for row in session.scalars(query))

    def entries(self, audit_id: str, offset: int = 0, limit: int | None = None) -> list[Entry]:
        """The entries of an audit's snippets from a position on, in order."""
        with self.database.read() as session:
            query = (
                select(AuditSnippetRow.entry)
                .where(AuditSnippetRow.audit_id == audit_id, AuditSnippetRow.position >= offset)
                .order_by(AuditSnippetRow.position)
                .limit(limit)
            )
            return list(session.scalars(query))

    def counts(self) -> dict[AuditState, int]:
        """The number of audits in each state."""
        with self.database.read() as session:
            query = select(AuditRow.state, func.count()).group_by(AuditRow.state)
            found = {row[0]: row[1] for row in session.execute(query)}
            return {state: found.get(state, 0) for state in AuditState}

    def last_end(self) -> datetime | None:
        """When the audit that is done and ended last did so; None if there is none."""
        with self.database.read() as session:
            done = select(AuditRow.finished_at).where(AuditRow.state == AuditState.DONE)
            return session.scalars(done.order_by(AuditRow.finished_at.desc()).limit(1)).first()

    def ids(self) -> tuple[frozenset[str], frozenset[str]]:
        """The ids of the audits that are not over, in a state of a newer release too, and of those that are."""
        with self.database.read() as session:
            found = session.execute(select(AuditRow.id, AuditRow.state)).all()
            ended = frozenset(row[0] for row in found if row[1] in OVER)
            return frozenset(row[0] for row in found) - ended, ended


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


def _end(session: Session, row: AuditRow, state: AuditState, now: datetime, error: str = "") -> None:
    """End an audit. A version that waits for it and is not admitted is quarantined with the reason."""
    row.state, row.finished_at, row.lease_until, row.error = state, now, None, plain_text(error)
    reason = _objection(row) if row.admits else ""
    if not reason:
        return
    revision = next_revision(session)
    version = session.get(VersionRow, (row.adapter, row.version))
    if version is not None and version.state is State.AUDITING:
        move_version(session, version, State.QUARANTINED, revision, reason=reason, audit_id=row.id)
        event = {"reason": reason, "audit_id": row.id}
        record_event(session, revision, ACTOR, "quarantined", row.adapter, row.version, **event)


def _objection(row: AuditRow) -> str:
    """Return why an audit that is over does not admit its version, or ""."""
    if row.state is AuditState.CANCELLED:
        return "the audit was cancelled"
    if row.state is AuditState.FAILED:
        return f"the audit could not be done: {row.error}"
    return "" if row.result["gate"]["passed"] else "; ".join(row.result["gate"]["reasons"])
