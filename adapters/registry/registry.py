"""The registry: names, their immutable versions, and who did what. One database for any number of servers."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.api_keys import Keys
from lorecall.adapters.registry.database import Database
from lorecall.adapters.registry.records import AdapterRecord, Changes, EventRecord, VersionRecord, record_of
from lorecall.adapters.registry.tables import AdapterRow, CounterRow, EventRow, State, VersionRow
from lorecall.adapters.registry.transitions import (
    ConflictError,
    activate_version,
    find_adapter,
    find_version,
    is_safe_identifier,
    move_version,
    no_adapter,
    plain_text,
    record_event,
    stage_version,
    validate_version,
)
from lorecall.adapters.validation.names import check_name
from sqlalchemy import and_, delete, exists, func, or_, select, tuple_, union
from sqlalchemy.orm import aliased

PRUNED = 1000
_KEY = tuple_(VersionRow.name, VersionRow.version)
_NEWER = aliased(VersionRow)
_FORGOTTEN = (
    select(VersionRow.name, VersionRow.version)
    .join(AdapterRow, AdapterRow.name == VersionRow.name)
    .where(
        VersionRow.state == State.RETIRED,
        VersionRow.version != func.coalesce(AdapterRow.previous_version, ""),
        ~exists().where(EventRow.name == VersionRow.name, EventRow.version == VersionRow.version),
        or_(
            AdapterRow.removed,
            exists().where(_NEWER.name == VersionRow.name, _NEWER.created_at > VersionRow.created_at),
        ),
    )
)
"""Versions that cannot go live any more, and of which no event is left."""


class Registry:
    """Adapters and their versions in a database; safe for threads, and for several servers at once.

    Every change is one transaction, is recorded with its actor, and raises the registry's revision by one.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/database`; the schema is brought up to date.
        keep: How long `prune` leaves events, and versions that nothing can make live any more.

    Attributes:
        database: Its database, which also holds the audits.
        keys: API keys.
    """

    def __init__(self, url: str, keep: timedelta = timedelta(days=365)) -> None:
        self.database = Database(url)
        self.keys = Keys(self.database)
        self._keep = keep
        self._counted: tuple[object, int] = (None, 0)

    def close(self) -> None:
        """Close the database's connections."""
        self.database.close()

    def revision(self) -> int:
        """The number of changes so far, those of keys included; cheap enough to poll."""
        changed = self.database.changed()
        if changed != self._counted[0]:
            with self.database.read() as session:
                self._counted = changed, session.scalars(select(CounterRow.value)).one()
        return self._counted[1]

    def changes(self, since: int) -> Changes:
        """The names changed after a revision; 0 for all. A change may come twice, but is never left out."""
        with self.database.read() as session:
            revision = session.scalars(select(CounterRow.value)).one()
            query = select(AdapterRow).where(AdapterRow.revision > since).order_by(AdapterRow.revision)
            return Changes(revision, tuple(record_of(AdapterRecord, row) for row in session.scalars(query)))

    def adapters(
        self, *, after: str = "", contains: str = "", limit: int | None = None
    ) -> tuple[AdapterRecord, ...]:
        """The names, sorted: those that follow `after` and contain a text in any case, at most `limit`."""
        query = select(AdapterRow).where(~AdapterRow.removed, AdapterRow.name > after)
        if contains:
            query = query.where(AdapterRow.name.icontains(plain_text(contains), autoescape=True))
        with self.database.read() as session:
            rows = session.scalars(query.order_by(AdapterRow.name).limit(limit))
            return tuple(record_of(AdapterRecord, row) for row in rows)

    def adapter(self, name: str) -> AdapterRecord:
        """One name.

        Raises:
            AdapterNotFoundError: There is none.
        """
        with self.database.read() as session:
            return record_of(AdapterRecord, find_adapter(session, name))

    def shown(self, name: str) -> tuple[AdapterRecord, VersionRecord]:
        """One name and the version that stands for it: the live one, or the newest; read in one statement.

        Raises:
            AdapterNotFoundError: There is no such name.
        """
        live = VersionRow.version == func.coalesce(AdapterRow.live_version, "")
        query = (
            select(AdapterRow, VersionRow)
            .join(VersionRow, VersionRow.name == AdapterRow.name)
            .where(AdapterRow.name == name, ~AdapterRow.removed)
            .order_by(live.desc(), VersionRow.created_at.desc())
            .limit(1)
        )
        with self.database.read() as session:
            found = session.execute(query).first() if is_safe_identifier(name) else None
        if found is None:
            raise no_adapter(name)
        return record_of(AdapterRecord, found[0]), record_of(VersionRecord, found[1])

    def wanted_versions(self) -> frozenset[str]:
        """The versions, of any name, that are not retired, or that `rollback` would go back to.

        They are read in one statement: between two, a rollback could exchange the live version and the one
        before, and neither would be found to hold the one that is live now.
        """
        with self.database.read() as session:
            moving = select(VersionRow.version).where(VersionRow.state != State.RETIRED)
            before = select(AdapterRow.previous_version).where(AdapterRow.previous_version.is_not(None))
            return frozenset(session.scalars(union(moving, before)))

    def versions(self, name: str, *, limit: int = 100) -> tuple[VersionRecord, ...]:
        """The newest versions of a name, newest first, with the live one and the one before it in any case.

        Raises:
            AdapterNotFoundError: There is no such name.
        """
        with self.database.read() as session:
            find_adapter(session, name)
        found = self.versions_of([name], limit=limit)
        if name not in found:  # removed meanwhile
            raise AdapterNotFoundError(f"there is no adapter {name!r}", param="name")
        return found[name]

    def versions_of(self, names: Sequence[str], *, limit: int = 100) -> dict[str, tuple[VersionRecord, ...]]:
        """The same for each of some names, at most a thousand; names that do not exist are left out."""
        newest_first = func.row_number().over(
            partition_by=VersionRow.name, order_by=VersionRow.created_at.desc()
        )
        placed = (
            select(VersionRow.name, VersionRow.version, newest_first.label("place"))
            .where(VersionRow.name.in_(names))
            .subquery()
        )
        query = (  # one statement: between two, a swap could show two live versions, or none
            select(VersionRow)
            .join(placed, and_(placed.c.name == VersionRow.name, placed.c.version == VersionRow.version))
            .join(AdapterRow, AdapterRow.name == VersionRow.name)
            .where(
                ~AdapterRow.removed,
                or_(
                    placed.c.place <= limit,
                    VersionRow.version == AdapterRow.live_version,
                    VersionRow.version == AdapterRow.previous_version,
                ),
            )
            .order_by(VersionRow.name, VersionRow.created_at.desc())
        )
        found: dict[str, list[VersionRecord]] = {}
        with self.database.read() as session:
            for row in session.scalars(query):
                found.setdefault(row.name, []).append(record_of(VersionRecord, row))
        return {name: tuple(versions) for name, versions in found.items()}

    def version(self, name: str, version: str) -> VersionRecord:
        """One version of a name.

        Raises:
            AdapterNotFoundError: There is no such name or version.
        """
        with self.database.read() as session:
            return record_of(VersionRecord, find_version(session, name, version))

    def events(
        self,
        name: str | None = None,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[EventRecord, ...]:
        """A page of what was done, oldest first; of one name or of all.

        Args:
            name: The name; None for all.
            after: The id of an event: the events that follow it.
            before: The id of an event: the events that precede it. Without either, the newest events.
            limit: How many.
        """
        query = select(EventRow).limit(limit)
        if name is not None:
            query = query.where(EventRow.name == name)
        if before is not None:
            query = query.where(EventRow.id < before)
        query = (
            query.order_by(EventRow.id.desc())
            if after is None
            else query.where(EventRow.id > after).order_by(EventRow.id)
        )
        with self.database.read() as session:
            found = tuple(record_of(EventRecord, row) for row in session.scalars(query))
        return found[::-1] if after is None else found

    def prune(self, now: datetime | None = None) -> int:
        """Delete the events that the registry has kept long enough, then the versions that have no event left.

        Such a version is retired, is not the one to go back to, and is not the newest of its name. Each
        transaction deletes `PRUNED` rows, so that no other change waits for long.

        Args:
            now: The time, UTC; None for that of the clock.

        Returns:
            How many rows were deleted.
        """
        old = select(EventRow.id).where(EventRow.at < (now or datetime.now(UTC)) - self._keep).limit(PRUNED)
        forgotten = _FORGOTTEN.limit(PRUNED)
        deleted = 0
        while True:
            with self.database.read() as session:  # without a write while there is nothing to do
                events, versions = session.scalars(old).all(), session.execute(forgotten).all()
            if events:
                with self.database.change() as session:
                    session.execute(delete(EventRow).where(EventRow.id.in_(events)))
            elif versions:
                with self.database.write() as (session, _):  # its lock: nobody stages one of them meanwhile
                    versions = session.execute(forgotten).all()
                    session.execute(delete(VersionRow).where(_KEY.in_([tuple(one) for one in versions])))
            else:
                return deleted
            deleted += len(events) or len(versions)

    def stage(self, name: str, version: str, *, source: str, actor: str) -> VersionRecord:
        """Add a stored version to a name, making the name if needed.

        A version that the name has already is returned unchanged, but a retired one is staged again.

        Raises:
            NameRefusedError: No adapter may have that name.
        """
        check_name(name)
        with self.database.write() as (session, revision):
            return record_of(VersionRecord, stage_version(session, revision, name, version, source, actor))

    def validated(self, name: str, version: str, info: Adapter, *, actor: str) -> VersionRecord:
        """Record what a staged version is: it passed validation.

        Raises:
            AdapterNotFoundError: There is no such name or version.
            ConflictError: The version is not staged.
        """
        with self.database.write() as (session, revision):
            row = find_version(session, name, version)
            return record_of(VersionRecord, validate_version(session, revision, row, info, actor))

    def taken_in(
        self, name: str, info: Adapter, *, source: str, actor: str, reason: str = ""
    ) -> VersionRecord:
        """Do `stage` and, of what that staged, `validated`, in one transaction: the adapter is validated already.

        The event of the staging keeps the reason.

        Raises:
            NameRefusedError: No adapter may have that name.
        """
        check_name(name)
        with self.database.write() as (session, revision):
            row = stage_version(session, revision, name, info.version, source, actor, reason)
            if row.state is State.STAGED:
                session.flush()
                validate_version(session, revision, row, info, actor)
            return record_of(VersionRecord, row)

    def remark(self, name: str, version: str, remark: str) -> VersionRecord:
        """Add a remark to a version, once.

        Raises:
            AdapterNotFoundError: There is no such name or version.
        """
        with self.database.write() as (session, _):
            row = find_version(session, name, version)
            if remark not in row.remarks:
                row.remarks = [*row.remarks, remark]
            return record_of(VersionRecord, row)

    def move(
        self, name: str, version: str, state: State, *, actor: str, reason: str = "", audit_id: str = ""
    ) -> VersionRecord:
        """Move a version to `auditing`, `quarantined` or `retired`; leaving `live`, its name has no version.

        Raises:
            AdapterNotFoundError: There is no such name or version.
            ConflictError: The step is not one of `TRANSITIONS`, or has its own method.
        """
        if state not in (State.AUDITING, State.QUARANTINED, State.RETIRED):
            raise ConflictError(
                f"a version does not move to {state} by itself", hint="stage, validated or activate"
            )
        with self.database.write() as (session, revision):
            row = find_version(session, name, version)
            move_version(session, row, state, revision, reason=reason, audit_id=audit_id)
            record_event(
                session, revision, actor, state.value, name, version, reason=reason, audit_id=audit_id
            )
            return record_of(VersionRecord, row)

    def activate(
        self,
        name: str,
        version: str,
        *,
        actor: str,
        audit_id: str = "",
        override: str = "",
    ) -> AdapterRecord:
        """Make a version the one that the name answers with, and retire the one before, in one transaction.

        Args:
            name: The name.
            version: A version of it that is validated, under audit, or the one that was live before.
            actor: Who does it.
            audit_id: The audit that allowed it.
            override: Why a quarantined version may go live nevertheless; recorded. The caller checks the scope.

        Raises:
            AdapterNotFoundError: There is no such name or version.
            ConflictError: The version is in no state to go live.
        """
        with self.database.write() as (session, revision):
            adapter = find_adapter(session, name)
            row = find_version(session, name, version)
            if adapter.live_version == version:
                return record_of(AdapterRecord, adapter)
            activate_version(session, adapter, row, revision, audit_id=audit_id, override=bool(override))
            detail = {"override": override} if override else {}
            record_event(session, revision, actor, "activate", name, version, audit_id=audit_id, **detail)
            return record_of(AdapterRecord, adapter)

    def rollback(self, name: str, *, actor: str, reason: str = "") -> AdapterRecord:
        """Swap a name back to the version before; a second rollback undoes the first.

        Raises:
            AdapterNotFoundError: There is no such name.
            ConflictError: There is nothing to go back to, or it is under audit, in quarantine or added again.
        """
        with self.database.write() as (session, revision):
            adapter = find_adapter(session, name)
            if adapter.previous_version is None:
                raise ConflictError(f"{name} has no version to go back to", hint="add a second version first")
            row = find_version(session, name, adapter.previous_version)
            if row.state is not State.RETIRED:
                raise ConflictError(
                    f"the version before of {name}, {row.version[:12]}, is {row.state}: {row.reason}",
                    hint="wait for its audit, or override it with a reason",
                )
            activate_version(session, adapter, row, revision)
            record_event(session, revision, actor, "rollback", name, row.version, reason=reason)
            return record_of(AdapterRecord, adapter)

    def pin(self, name: str, *, pinned: bool, actor: str, reason: str = "") -> AdapterRecord:
        """Set whether servers should keep an adapter loaded.

        Raises:
            AdapterNotFoundError: There is no such name.
        """
        with self.database.write() as (session, revision):
            adapter = find_adapter(session, name)
            if adapter.pinned != pinned:
                adapter.pinned, adapter.revision = pinned, revision
                action = "pin" if pinned else "unpin"
                record_event(session, revision, actor, action, name, "", reason=reason)
            return record_of(AdapterRecord, adapter)

    def remove(self, name: str, *, actor: str) -> None:
        """Retire all versions of a name and remove it. Added again, none of its versions can be rolled back to.

        Raises:
            AdapterNotFoundError: There is no such name.
        """
        with self.database.write() as (session, revision):
            adapter = find_adapter(session, name)
            for row in session.scalars(select(VersionRow).where(VersionRow.name == name)):
                row.state, row.was_live, row.reason = State.RETIRED, False, "the name was removed"
            adapter.live_version = adapter.previous_version = None
            adapter.removed, adapter.pinned, adapter.revision = True, False, revision
            record_event(session, revision, actor, "remove", name, "")

    def record_event(self, action: str, name: str, *, actor: str, version: str = "", **detail: Any) -> None:
        """Record an event that changes no name, such as a refused upload."""
        with self.database.write() as (session, revision):
            record_event(session, revision, actor, action, name, version, **detail)
