"""What the audits' gauges are made of: the version audited last, and the worst of its candidate sets."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.audit.jobs.records import AuditRecord
from lorecall.server.observability.audit_metrics import AuditMetrics, findings
from lorecall.server.observability.metrics import AdapterLabels
from prometheus_client import CollectorRegistry

START = datetime(2026, 11, 23, tzinfo=UTC)


def done(hour: int, recited: int, *, of: int = 10, **fields: Any) -> AuditRecord:
    """An audit that ended so many hours after the start and found so many recited."""
    verdicts = {"certified": recited, "recalled": 0}
    summary = {
        "snippets": of, "tokens": 9 * of, "tokens_over_half": 0, "verdicts": verdicts, "delta_loss": 1.0,
        "recited": {"of": of},
    }  # fmt: skip
    ended = START + timedelta(hours=hour)
    record = AuditRecord(
        str(hour), "acme", "v1", 8, 8000, "set-a", {"candidates": {"name": "c.jsonl"}}, {}, False, {},
        AuditState.DONE,
        of, of, 1.0, {"summary": summary}, "", "", 0, ended, "me", None, ended,
    )  # fmt: skip
    return replace(record, **fields)


def test_the_worst_set_counts() -> None:
    """A small clean set after a leaking one does not make the adapter clean."""
    (found,) = findings([done(2, 0, candidate_set="set-b"), done(1, 7)])
    assert (found.recall_ratio, found.certified) == (0.7, 7)
    assert found.finished == (START + timedelta(hours=2)).timestamp()


def test_of_each_set_the_latest_audit_counts() -> None:
    """What an earlier audit of the same set said is over."""
    (found,) = findings([done(2, 1), done(1, 7)])
    assert found.recall_ratio == 0.1


def test_only_the_version_audited_last_counts() -> None:
    """A leak of the version before is not blamed on the new one, and rank and parameters are the new one's."""
    new = done(3, 0, version="v2", rank=2, effective_parameters=2000)
    (found,) = findings([new, done(2, 9, candidate_set="set-b"), done(1, 9)])
    assert (found.recall_ratio, found.rank, found.effective_parameters) == (0.0, 2, 2000)


def test_a_result_of_a_newer_release_takes_no_gauge_down() -> None:
    """What this release cannot read is left out; the other adapters keep their gauges."""
    (found,) = findings([done(2, 1, adapter="new", result={"summary": {}}), done(1, 7)])
    assert found.adapter == "acme"


def test_nothing_to_blame_is_no_recall() -> None:
    """Where the base knows every candidate there is no rate to speak of."""
    (found,) = findings([done(1, 0, of=0)])
    assert found.recall_ratio is None
    registry = CollectorRegistry()
    AuditMetrics(registry, AdapterLabels(1))._findings = [found]
    assert registry.get_sample_value("lorecall_audit_recall_ratio", {"adapter": "acme", "rank": "8"}) is None


def test_adapters_beyond_the_cap_have_no_gauges() -> None:
    """The labels are bounded by the server's cap."""
    registry = CollectorRegistry()
    metrics = AuditMetrics(registry, AdapterLabels(1))
    metrics._findings = findings([done(1, 5), done(1, 5, adapter="other-one")])
    value = registry.get_sample_value
    assert value("lorecall_audit_certified", {"adapter": "acme", "rank": "8"}) == 5
    assert value("lorecall_audit_certified", {"adapter": "other-one", "rank": "8"}) is None


class Store:
    """A store of audits in a list, which notes how many results it gives out."""

    def __init__(self, *records: AuditRecord) -> None:
        self.records = list(records)
        self.read = 0
        self.database = self

    def changed(self) -> object:
        """Always unequal, as PostgreSQL's answer: the gauges must not rest on it alone."""
        return object()

    def counts(self) -> dict[AuditState, int]:
        """How many are done."""
        return {AuditState.DONE: len(self.records)}

    def last_end(self) -> datetime | None:
        """When the last one ended."""
        return max((one.finished_at for one in self.records if one.finished_at), default=None)

    def audits(
        self, *, state: AuditState, limit: int, ended_after: datetime | None = None
    ) -> tuple[AuditRecord, ...]:
        """Those that ended later, newest first."""
        assert state is AuditState.DONE
        found = [
            one for one in self.records if ended_after is None or (one.finished_at or START) > ended_after
        ]
        newest = sorted(found, key=lambda one: one.created_at, reverse=True)[:limit]
        self.read += len(newest)
        return tuple(newest)


def test_the_result_of_an_audit_is_read_once() -> None:
    """Results are large and many: after an audit its own is read, after a removal all of them."""
    registry = CollectorRegistry()
    metrics = AuditMetrics(registry, AdapterLabels(9))
    store: Any = Store(done(1, 7), done(2, 0, adapter="globex"))
    labels = {"adapter": "acme", "rank": "8"}

    def certified() -> float | None:
        metrics.refresh(store)
        return registry.get_sample_value("lorecall_audit_certified", labels)

    assert (certified(), store.read) == (7, 2)
    assert (certified(), store.read) == (7, 2)
    store.records.append(done(3, 1))
    assert (certified(), store.read) == (1, 3)
    store.records.pop()
    assert (certified(), store.read) == (7, 5)
    store.records[0] = done(4, 2)  # one removed and one ended between two looks
    assert certified() == 2
    store.records.clear()
    assert certified() is None


def test_the_last_renewal_of_the_audited_version_says_whether_it_passed() -> None:
    """Not one of the version before, and not an audit that somebody asked for."""
    renewed: dict[str, Any] = {"renews": "t1", "result": {**done(1, 0).result, "gate": {"passed": False}}}
    (found,) = findings([done(2, 0), done(1, 1, **renewed)])
    assert found.renewal_passed is False
    (found,) = findings([done(2, 0), done(1, 1, version="v0", **renewed)])
    assert found.renewal_passed is None
    (found,) = findings([done(2, 0)])
    assert found.renewal_passed is None


def test_the_audits_of_a_removed_adapter_take_no_label() -> None:
    """They stay in the registry; the label is for one that is there."""
    registry = CollectorRegistry()
    label = AdapterLabels(1)
    metrics = AuditMetrics(registry, label)
    metrics._findings = findings([done(2, 5, adapter="gone"), done(1, 5)])
    metrics.show_only(lambda name: name == "acme")
    assert registry.get_sample_value("lorecall_audit_certified", {"adapter": "gone", "rank": "8"}) is None
    assert registry.get_sample_value("lorecall_audit_certified", {"adapter": "acme", "rank": "8"}) == 5
