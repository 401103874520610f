"""Keeps count of stale verdicts, and orders those audits again where the operator asked for that."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.records import AuditNotFoundError
from lorecall.audit.jobs.spool import SpoolError
from lorecall.audit.jobs.stale import Cause, Staleness
from lorecall.audit.jobs.store import ACTOR
from lorecall.audit.scorer import AdapterVersion
from lorecall.server.audits.admission import AuditGate

logger = logging.getLogger("lorecall.audit")

AT_ONCE = 4
"""Renewals of one server that wait or run at a time: each keeps its texts on disk."""
LOST_AFTER = timedelta(days=1)
"""After how long a renewal that nobody works on, and whose texts are not here, is ordered anew."""
SHARE = 0.05
"""Share of the time that may go into looking for stale verdicts, however many adapters and changes there are."""


@dataclass(frozen=True, slots=True)
class Renewals:
    """Orders audits that renew stale verdicts: as the gate would, but an adapter stays live whatever they find.

    Attributes:
        gate: What admits adapters: its snippets are asked, its policy is held against the result.
        registry: The adapters.
        audits: Which renewals there were.
    """

    gate: AuditGate
    registry: Registry
    audits: LastAudits

    def order(self, stale: Mapping[str, str], terms: str) -> int:
        """Order renewals until `AT_ONCE` are open; return how many were ordered.

        Args:
            stale: The live version of each name whose verdict is stale.
            terms: The digest of what is served now: a version gets one renewal for it, however that ends.
        """
        free = AT_ONCE - self._open()
        if free <= 0:
            return 0
        had = self.audits.renewed(terms)
        wanted = (one for one in sorted(stale.items()) if one not in had)
        ordered = (name for name, version in wanted if self._order(name, version, terms))
        return sum(1 for _ in islice(ordered, free))

    def _open(self) -> int:
        """Return how many renewals wait or run; one that was lost with its server's texts is removed."""
        audits, now, count = self.gate.audits, datetime.now(UTC), 0
        for audit_id, ordered, held_until in self.audits.open_renewals():
            if audits.spool.has(audit_id) or (held_until is not None and held_until > now):
                count += 1
            elif ordered < now - LOST_AFTER:
                with suppress(AuditNotFoundError):  # another server was quicker
                    audits.store.remove(audit_id, ACTOR)
        return count

    def _order(self, name: str, version: str, terms: str) -> bool:
        try:
            record = self.registry.version(name, version)
            adapter = AdapterVersion(
                name, version, record.rank, record.effective_parameters, record.refusal, record.training
            )
            return self.gate.audits.renew(self.gate.order(name), adapter, terms)
        except (AdapterNotFoundError, AdapterError) as error:  # removed, or prompt scores are not its own
            logger.debug("the stale verdict on %s cannot be renewed: %s", name, error.message)
        except SpoolError as error:  # such as a full disk, which must not keep other audits waiting
            logger.warning("the stale verdict on %s is not renewed now: %s", name, error.message)
        return False


@dataclass(slots=True)
class StaleWatch:
    """Looks for stale verdicts whenever audits, or live versions, have changed.

    Attributes:
        staleness: Tells which verdicts are stale.
        live: Returns the live version of each name.
        renewals: Orders the audits again; None to leave that to the operator.
        counts: How many live adapters have a stale verdict, by cause.
    """

    staleness: Staleness
    live: Callable[[], dict[str, str]]
    renewals: Renewals | None = None
    counts: Counter[Cause] = field(default_factory=Counter)
    _seen: object = None
    _rest_until: float = 0.0

    def look(self, audits: object) -> None:
        """Count again, and order renewals, if something changed; it reads the database.

        Args:
            audits: Anything that compares unequal after an audit began, ended or was removed.
        """
        live, started = self.live(), time.monotonic()
        if (audits, live) == self._seen or started < self._rest_until:
            return
        stale = {name: causes for name, causes in self.staleness.of(live).items() if causes}
        self.counts = Counter(cause for causes in stale.values() for cause in causes)
        if self.renewals is not None and stale:
            terms = self.staleness.now().digest
            ordered = self.renewals.order({name: live[name] for name in stale}, terms)
            if ordered:
                logger.info("%d stale verdicts; %d audits were ordered again", len(stale), ordered)
        self._seen = (audits, live)
        self._rest_until = time.monotonic() + (time.monotonic() - started) / SHARE
