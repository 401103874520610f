"""Metrics of audits: counters of this process, and gauges of every adapter's latest audits."""

from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.audit.jobs.records import AuditRecord
from lorecall.audit.jobs.service import capacity_rows
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.records import SnippetResult, Verdict
from lorecall.audit.reports.report import Report
from lorecall.server.observability.metrics import OTHER, AdapterLabels
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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
    """

    adapter: str
    rank: int
    effective_parameters: int
    recall_ratio: float | None
    certified: int
    finished: float


def findings(done: Iterable[AuditRecord]) -> list[AdapterFindings]:
    """Return one entry for each adapter.

    It covers the version that was audited last, and of that version the last audit on each candidate set.

    Args:
        done: Audits that are done, newest first.
    """
    latest: dict[str, dict[str, AuditRecord]] = {}
    for record in done:
        sets = latest.setdefault(record.adapter, {})
        version = next(iter(sets.values())).version if sets else record.version
        if record.version == version:
            sets.setdefault(record.candidate_set, record)
    found = (_findings(adapter, list(sets.values())) for adapter, sets in sorted(latest.items()))
    return [one for one in found if one is not None]


def _findings(adapter: str, records: Sequence[AuditRecord]) -> AdapterFindings | None:
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
    )


class AuditMetrics(Collector):
    """The audits' Prometheus metrics.

    Args:
        registry: The Prometheus registry.
        label: Limits the adapters that have gauges.
    """

    def __init__(self, registry: CollectorRegistry, label: AdapterLabels) -> None:
        self._label = label
        self._counts: dict[AuditState, int] = {}
        self._ended: object = None
        self._findings: list[AdapterFindings] = []
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

    def refresh(self, store: AuditStore) -> None:
        """Read the gauges' values from the database, so that a scrape need not wait for it.

        The results, which are many and large, are read again only after an audit has ended or was removed.
        """
        self._counts = store.counts()
        ended = (self._counts[AuditState.DONE], store.last_end())
        if ended != self._ended:
            self._findings = findings(store.audits(state=AuditState.DONE, limit=NEWEST_AUDITS))
            self._ended = ended

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; adapters beyond the cap have none."""
        jobs = GaugeMetricFamily("lorecall_audit_jobs", "Audits in the registry, by state.", labels=["state"])
        for state in AuditState:
            jobs.add_metric([state.value], float(self._counts.get(state, 0)))
        yield jobs
        families = {
            key: GaugeMetricFamily(f"lorecall_audit_{key}", text, labels=["adapter", "rank"])
            for key, text in {
                "recall_ratio": "Share of candidates recited, of the worst set of an adapter's latest audits.",
                "certified": "Candidates certified, of the worst set of an adapter's latest audits.",
                "effective_parameters": "Effective parameters of the version that was audited last.",
                "last_timestamp_seconds": "When an adapter's last audit ended, as Unix time.",
            }.items()
        }
        for one in self._findings:
            if self._label(one.adapter) == OTHER:
                continue
            values = {
                "recall_ratio": one.recall_ratio,
                "certified": one.certified,
                "effective_parameters": one.effective_parameters,
                "last_timestamp_seconds": one.finished,
            }
            for key, value in values.items():
                if value is not None:
                    families[key].add_metric([one.adapter, str(one.rank)], float(value))
        yield from families.values()
