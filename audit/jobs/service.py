"""The audit service: queues audits, shows their state and results, and capacity against recall."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from typing import Any, TypeVar

from lorecall.adapters.core.errors import AdapterNotFoundError, UsageError
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.audit.jobs.last_audits import LastAudits, deployed
from lorecall.audit.jobs.order import MAX_SNIPPETS, Order
from lorecall.audit.jobs.records import (
    AuditNotFoundError,
    AuditRecord,
    NewAudit,
    capacity_rows,
    new_id,
)
from lorecall.audit.jobs.references import References
from lorecall.audit.jobs.retention import describe_tombstone
from lorecall.audit.jobs.runner import Engines
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import ACTOR, OPEN, AuditStore, Entry
from lorecall.audit.law.capacity import SetLaws
from lorecall.audit.runs.estimate import estimate, probe
from lorecall.audit.runs.single import refuse
from lorecall.audit.scorer import AdapterVersion
from lorecall.audit.scorers.batches import batches
from lorecall.audit.verdicts import Group

R = TypeVar("R", bound=AuditRecord | None)
PAGE = 200
"""Audits that are read at a time."""
MOST_SETS = 100
"""Candidate sets that are shown at once."""
Sees = Callable[[str], bool]
"""Whether the caller sees an adapter of that name."""


@dataclass(frozen=True, slots=True)
class AuditService:
    """What the HTTP routes call; from threads, since it waits for the database and the engine.

    Attributes:
        store: The audits.
        spool: The texts of the open ones.
        engines: What knows the served adapters.
        queued: Called when an audit was queued, to wake the worker.
        max_snippets: The most snippets of one audit that a caller asks for.
        references: Reads what orders name by address; None where they must send all.
        laws: The laws fitted to the audits.
        live: Returns the live version of each name; None to read the registry.
    """

    store: AuditStore
    spool: Spool
    engines: Engines
    queued: Callable[[], None] = field(default=lambda: None)
    max_snippets: int = MAX_SNIPPETS
    references: References | None = None
    laws: SetLaws = field(default_factory=SetLaws)
    live: Callable[[Collection[str]], Mapping[str, str | None]] | None = None

    def pinned(self, order: Order) -> Order:
        """Return an order whose files by address are those that lie there now.

        Raises:
            UsageError: This service reads none.
            SourceRefusedError: One may not be read, or is not there.
        """
        if order.texts.reference is None:
            return order
        if self.references is None:
            raise UsageError("this service reads no files by address", hint="send them", param="data")
        reference = self.references.pinned(order.texts.reference)
        return replace(order, texts=replace(order.texts, reference=reference))

    def submit(self, order: Order, sees: Sees, actor: str) -> AuditRecord:
        """Queue an audit of the live version of a name.

        Raises:
            AdapterNotFoundError: There is no such adapter, or the caller does not see it.
            AdapterError: It cannot be audited by prompt scores.
        """
        return self._queue(order, self._served(order, sees), actor, self.store.add)

    def estimate(self, order: Order, sees: Sees) -> dict[str, Any]:
        """Return what an audit would cost, measured on a few of its candidates. Raises like `submit`.

        Raises:
            UsageError: The order names files by address, or none of the candidates tried could be scored.
        """
        self._served(order, sees)
        if order.texts.reference is not None:
            raise UsageError("files by address are read when the audit runs", hint="send them", param="data")
        settings = order.settings.audit_settings(order.texts.system, order.texts.template)
        with self.engines.scorer(order.adapter) as scorer:
            found = probe(scorer, order.adapter, order.texts.sets[Group.CANDIDATES].items, settings)
        if found is None:
            raise UsageError("none of the candidates tried could be scored", param="candidates")
        return {**asdict(estimate(order.texts.sets, settings, found)), "measured": asdict(found)}

    def _served(self, order: Order, sees: Sees) -> AdapterVersion:
        if not sees(order.adapter):
            raise AdapterNotFoundError(f"no adapter {order.adapter[:128]!r}", param="adapter")
        adapter = self.engines.adapter(order.adapter)
        refuse(adapter)
        return adapter

    def admit(self, order: Order, adapter: AdapterVersion) -> AuditRecord:
        """Queue the audit that decides whether a version goes live; asked again, return the open one.

        Raises:
            AdapterNotFoundError: There is no such name or version.
            ConflictError: The version is in no state to be audited.
        """
        return self._queue(order, adapter, ACTOR, lambda new: self.store.admit(new, self.spool.has))

    def renew(self, order: Order, adapter: AdapterVersion, terms: str) -> bool:
        """Queue an audit that renews a stale verdict; return False if there was one for the same terms before.

        Args:
            order: The audit, of the operator's own snippets.
            adapter: The live version.
            terms: The digest of what is served now.

        Raises:
            AdapterError: It cannot be audited by prompt scores.
        """
        refuse(adapter)
        return self._queue(order, adapter, ACTOR, self.store.add_renewal, renews=terms) is not None

    def _queue(
        self,
        order: Order,
        adapter: AdapterVersion,
        actor: str,
        add: Callable[[NewAudit], R],
        renews: str = "",
    ) -> R:
        """Write the texts, then the audit: a worker that sees the audit finds them."""
        new = NewAudit(
            id=new_id(),
            adapter=adapter.name,
            version=adapter.version,
            rank=adapter.rank,
            effective_parameters=adapter.effective_parameters,
            candidate_set=order.candidate_set,
            inputs=order.inputs,
            settings=order.settings.model_dump(mode="json"),
            total=sum(map(len, order.asked.values())),
            created_by=actor,
            renews=renews,
        )
        self.spool.write(new.id, order.texts)
        try:
            record = add(new)
        except Exception:
            self.spool.remove(new.id)
            raise
        if record is None or record.id != new.id:
            self.spool.remove(new.id)
        self.queued()
        return record

    def get(self, audit_id: str, sees: Sees) -> AuditRecord:
        """Return one audit.

        Raises:
            AuditNotFoundError: There is none, or it is of an adapter that the caller does not see.
        """
        record = self.store.get(audit_id)
        if not sees(record.adapter):
            raise AuditNotFoundError(f"there is no audit {audit_id[:64]!r}", param="id")
        return record

    def audits(
        self, sees: Sees, adapter: str | None, limit: int, before: str | None = None
    ) -> list[AuditRecord]:
        """Return the newest audits that the caller sees, at most `limit`; or those older than one.

        Raises like `get`.
        """
        last = None if before is None else self.get(before, sees)
        found: list[AuditRecord] = []
        while len(found) < limit:
            page = self.store.audits(adapters=[adapter] if adapter else (), limit=PAGE, before=last)
            found += [record for record in page if sees(record.adapter)]
            if len(page) < PAGE:
                break
            last = page[-1]
        return found[:limit]

    def cancel(self, audit_id: str, sees: Sees) -> AuditRecord:
        """Stop an audit; its entries stay, and a version that it was to admit is quarantined.

        Raises like `get`.
        """
        self.get(audit_id, sees)
        record = self.store.cancel(audit_id)
        self.spool.remove(audit_id)
        return record

    def removed(self, sees: Sees, adapter: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the tombstones that the caller sees as JSON objects, at most `limit`, the newest first."""
        found = self.store.tombstones(adapter)
        return [describe_tombstone(one) for one in islice((o for o in found if sees(o.adapter)), limit)]

    def remove(self, audit_id: str, sees: Sees, actor: str) -> AuditRecord:
        """Remove an audit and its entries, after cancelling it if it is open. Raises like `get`."""
        record = self.get(audit_id, sees)
        self.store.remove(audit_id, actor)
        self.spool.remove(audit_id)
        return record

    def snippets(self, audit_id: str, sees: Sees, offset: int, limit: int) -> list[Entry]:
        """Return the entries recorded so far, from a position on. Raises like `get`."""
        self.get(audit_id, sees)
        return self.store.entries(audit_id, offset, limit)

    def report(self, audit_id: str, sees: Sees) -> dict[str, Any]:
        """Return the JSON values of the report of an audit that is done.

        Raises:
            AuditNotFoundError: As in `get`.
            ConflictError: It is not done.
        """
        record = self.get(audit_id, sees)
        if record.state is not AuditState.DONE:
            raise ConflictError(
                f"audit {audit_id} is {record.state}: {record.done} of {record.total} snippets",
                hint="the report is there once it is done" if record.state in OPEN else "ask for another one",
            )
        return {**record.result, "snippets": self.store.entries(audit_id)}

    def capacity(self, sees: Sees, adapters: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return one row for each audit that is done, of some adapters or of all, oldest first."""
        done = self.store.audits(adapters=adapters, state=AuditState.DONE)
        return capacity_rows(record for record in reversed(done) if sees(record.adapter))

    def set_laws(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the law of each candidate set of `capacity`'s rows, or why there is none; see `SetLaws`.

        It rests on the audits of versions that are live.
        """
        live = self._live({str(row["adapter"]) for row in rows})
        return self._laws([row for row in rows if live.get(row["adapter"]) == row["version"]])

    def deployed_sets(self, sees: Sees, candidate_set: str | None = None) -> list[dict[str, Any]]:
        """Return the sets that live versions were audited on, or one of them, each with a few of their rows.

        Which audits these are is told without reading what any found; see `deployed`.
        """
        seen = [one for one in LastAudits(self.store.database).finished() if sees(one.adapter)]
        asked = [one for one in seen if candidate_set in (None, one.candidate_set)]
        sets = deployed(asked, self._live({one.adapter for one in asked}))[:MOST_SETS]
        shown_ids = [one.id for _, few in sets for one in few]
        records = chain.from_iterable(map(self.store.some, batches(shown_ids, PAGE)))
        rows = {row["audit_id"]: row for row in capacity_rows(records)}
        found = []
        for adapters, few in sets:
            shown = [rows[one.id] for one in few if one.id in rows]
            if shown:
                one = {key: shown[-1][key] for key in ("candidate_set", "candidates", "snippets")}
                found.append({**one, "adapters": adapters, "rows": shown})
        return found

    def set_law(self, candidate_set: str, sees: Sees) -> dict[str, Any]:
        """Return the law of the rows that `deployed_sets` shows of a set, or why there is none.

        Raises:
            AuditNotFoundError: No live version that the caller sees was audited on it.
        """
        found = self.deployed_sets(sees, candidate_set)
        if not found:
            raise AuditNotFoundError(f"no live adapter was asked the set {candidate_set[:64]!r}", param="set")
        return self._laws(found[0]["rows"])[0]

    def _laws(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.laws.of(rows, lambda audit_id, limit: self.store.entries(audit_id, 0, limit))

    def _live(self, names: Collection[str]) -> Mapping[str, str | None]:
        return (self.live or LastAudits(self.store.database).live)(names)
