"""Metrics of audits: counters of this process, and gauges of every adapter's latest audits."""

from collections import Counter as Counted
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.audit.jobs.records import AuditRecord, capacity_rows
from lorecall.audit.jobs.stale import Cause
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.records import SnippetResult
from lorecall.audit.reports.report import Report
from lorecall.audit.verdicts import Verdict
from lorecall.server.observability.metrics import OTHER, AdapterLabels
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from datetime import datetime

NEWEST_AUDITS = 2000
"""How many of the newest audits the gauges are computed from."""


@dataclass(frozen=True, slots=True)
class AdapterFindings:
    """What the latest audits of an adapter found; of several candidate sets, the worst.

    Attributes:
        adapter: Its name.
        rank: LoRA rank of the version that was audited last.
        effective_parameters: Effective LoRA parameters of that version.
        recall_ratio: Recited candidates over those that could be blamed on it, in [0, 1]; None if there are none.
        certified: Candidates certified.
        finished: When its last audit ended, in seconds since the epoch.
        renewal_passed: Whether the last renewal of that version met the policy; None if there was none.
    """

    adapter: str
    rank: int
    effective_parameters: int
    recall_ratio: float | None
    certified: int
    finished: float
    renewal_passed: bool | None = None


def findings(done: Iterable[AuditRecord]) -> list[AdapterFindings]:
    """Return one entry for each adapter.

    It covers the version that was audited last, and of that version the last audit on each candidate set.

    Args:
        done: Audits that are done, newest first.
    """
    latest: dict[str, dict[str, AuditRecord]] = {}
    renewals: dict[str, AuditRecord] = {}
    for record in done:
        if record.renews:
            renewals.setdefault(record.adapter, record)
        sets = latest.setdefault(record.adapter, {})
        version = next(iter(sets.values())).version if sets else record.version
        if record.version == version:
            sets.setdefault(record.candidate_set, record)
    found = (
        _findings(adapter, list(sets.values()), renewals.get(adapter))
        for adapter, sets in sorted(latest.items())
    )
    return [one for one in found if one is not None]


def _findings(
    adapter: str, records: Sequence[AuditRecord], renewal: AuditRecord | None
) -> AdapterFindings | None:
    rows = capacity_rows(records)
    if not rows:
        return None
    ended = [record.finished_at.timestamp() for record in records if record.finished_at is not None]
    return AdapterFindings(
        adapter,
        records[0].rank,
        records[0].effective_parameters,
        max((row["recited"] / row["of"] for row in rows if row["of"]), default=None),
        max(row["certified"] for row in rows),
        max(ended, default=0.0),
        _passed(renewal) if renewal is not None and renewal.version == records[0].version else None,
    )


def _passed(record: AuditRecord) -> bool | None:
    gate = record.result.get("gate")
    return bool(gate["passed"]) if gate else None


def _slim(record: AuditRecord) -> AuditRecord:
    """Return an audit without what the gauges do not need of its result, which is large."""
    kept: dict[str, Any] = {
        name: record.result[name] for name in ("summary", "gate") if name in record.result
    }
    return replace(record, result=kept)


class AuditMetrics(Collector):
    """The audits' Prometheus metrics.

    Args:
        registry: The Prometheus registry.
        label: Limits the adapters that have gauges.
    """

    def __init__(self, registry: CollectorRegistry, label: AdapterLabels) -> None:
        self._label = label
        self._changed: object = None
        self._counts: dict[AuditState, int] = {}
        self._ended: tuple[int, datetime | None] = (0, None)
        self._done: list[AuditRecord] = []
        self._findings: list[AdapterFindings] = []
        self._stale: Callable[[], Mapping[Cause, int]] | None = None
        self._known: Callable[[str], bool] = lambda _name: True
        self._snippets = Counter(
            "lorecall_audit_snippets", "Snippets of done audits, by verdict.", ["verdict"], registry=registry
        )
        for verdict in Verdict:
            self._snippets.labels(str(verdict))
        self._tokens = Counter(
            "lorecall_audit_tokens_scored", "Target tokens that audits have scored.", registry=registry
        )
        registry.register(self)

    def seen(self, results: Sequence[SnippetResult]) -> None:
        """Count the tokens of a batch."""
        self._tokens.inc(sum(result.judged().tokens for result in results))

    def ended(self, report: Report) -> None:
        """Count the verdicts of an audit that is done: before its end nothing is known to be `partial`."""
        for verdict, count in Counted(snippet.verdict for snippet in report.snippets).items():
            self._snippets.labels(str(verdict)).inc(count)

    def show_stale(self, counts: Callable[[], Mapping[Cause, int]]) -> None:
        """Add the gauge of stale verdicts; `counts` returns the number of live adapters by cause."""
        self._stale = counts

    def show_only(self, known: Callable[[str], bool]) -> None:
        """Leave out the gauges of adapters that are not known: one that was removed keeps its audits."""
        self._known = known

    def refresh(self, store: AuditStore) -> object:
        """Read the gauges' values from the database, so that a scrape need not wait for it.

        Of the results, which are many and large, only those of audits that ended since are read; all of them are
        read again after one was removed.

        Returns:
            A value that compares unequal after an audit was queued, begun, ended or removed.
        """
        changed = store.database.changed()
        if changed == self._changed:
            return self._counts, self._ended
        self._counts = store.counts()
        (before, last), ended = self._ended, (self._counts[AuditState.DONE], store.last_end())
        if ended != self._ended:
            new = store.audits(state=AuditState.DONE, limit=NEWEST_AUDITS, ended_after=last)
            known = self._done if before + len(new) == ended[0] else []
            if len(known) != len(self._done):
                new = store.audits(state=AuditState.DONE, limit=NEWEST_AUDITS)
            by_time = sorted([*map(_slim, new), *known], key=lambda one: one.created_at, reverse=True)
            self._done, self._ended = by_time[:NEWEST_AUDITS], ended
            self._findings = findings(self._done)
        self._changed = changed
        return self._counts, ended

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; adapters beyond the cap have none."""
        jobs = GaugeMetricFamily("lorecall_audit_jobs", "Audits in the registry, by state.", labels=["state"])
        for state in AuditState:
            jobs.add_metric([state.value], float(self._counts.get(state, 0)))
        yield jobs
        if self._stale is not None:
            counts = self._stale()
            stale = GaugeMetricFamily(
                "lorecall_audit_stale",
                "Live adapters whose last audit no longer holds, by what changed since.",
                labels=["reason"],
            )
            for cause in Cause:
                stale.add_metric([cause.value], float(counts.get(cause, 0)))
            yield stale
        families = {
            key: GaugeMetricFamily(f"lorecall_audit_{key}", text, labels=["adapter", "rank"])
            for key, text in {
                "recall_ratio": "Share of candidates recited, of the worst set of an adapter's latest audits.",
                "certified": "Candidates certified, of the worst set of an adapter's latest audits.",
                "effective_parameters": "Effective parameters of the version that was audited last.",
                "last_timestamp_seconds": "When an adapter's last audit ended, as Unix time.",
                "renewal_passed": "Whether the audit that renewed an adapter's stale verdict met the policy.",
            }.items()
        }
        for one in self._findings:
            if not self._known(one.adapter) or self._label(one.adapter) == OTHER:
                continue
            values = {
                "recall_ratio": one.recall_ratio,
                "certified": one.certified,
                "effective_parameters": one.effective_parameters,
                "last_timestamp_seconds": one.finished,
                "renewal_passed": one.renewal_passed,
            }
            for key, value in values.items():
                if value is not None:
                    families[key].add_metric([one.adapter, str(one.rank)], float(value))
        yield from families.values()
