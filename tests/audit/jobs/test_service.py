"""The service between the routes and the store: orders leave nothing behind when they fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.adapters.registry.audit_tables import AuditRow
from lorecall.adapters.registry.database import Database, RegistryUnavailableError
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs import service as service_module
from lorecall.audit.jobs.order import make_order
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord, describe
from lorecall.audit.jobs.service import AuditService, Sees
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.scorer import AdapterVersion, Scorer
from sqlalchemy import update

from tests.audit.tiny_scorer import Memory, TinyScorer

ORDER = make_order({"adapter": "acme", "candidates": [{"prefix": "a ", "target": "b c"}]}, {})

START = datetime(2026, 11, 23, tzinfo=UTC)


@dataclass
class Engines:
    """An engine in memory."""

    engine: TinyScorer

    def adapter(self, name: str) -> AdapterVersion:
        """The version that is served."""
        return self.engine.adapter(name)

    @contextmanager
    def scorer(self, _name: str) -> Iterator[Scorer]:
        """The engine."""
        yield self.engine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AuditService]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    engine = TinyScorer({"acme": Memory(()), "head": Memory(())}, refusals={"head": "it trains lm_head"})
    yield AuditService(AuditStore(registry.database), Spool(tmp_path / "spool"), Engines(engine))
    registry.close()


def test_a_refused_order_keeps_nothing(service: AuditService, tmp_path: Path) -> None:
    """Unseen, unknown or not to be audited: no row, no text on the disk."""
    head = make_order({"adapter": "head", "candidates": [{"prefix": "a ", "target": "b c"}]}, {})
    with pytest.raises(AdapterNotFoundError):
        service.submit(ORDER, lambda _name: False, "me")
    with pytest.raises(AdapterError):
        service.submit(head, lambda _name: True, "me")
    assert service.store.audits() == ()
    assert list((tmp_path / "spool").iterdir()) == []


def test_texts_go_when_the_database_takes_no_order(
    service: AuditService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are on the disk before the audit is in the database; without the one the other goes."""

    def away(_self: Database) -> None:
        assert len(list((tmp_path / "spool").iterdir())) == 1
        raise RegistryUnavailableError("away")

    monkeypatch.setattr(Database, "change", away)
    with pytest.raises(RegistryUnavailableError):
        service.submit(ORDER, lambda _name: True, "me")
    assert list((tmp_path / "spool").iterdir()) == []


def test_cancelling_forgets_the_texts(service: AuditService, tmp_path: Path) -> None:
    """At once, and so does removing."""

    def remove(audit_id: str, sees: Sees) -> AuditRecord:
        return service.remove(audit_id, sees, "ann")

    for step in (service.cancel, remove):
        record = service.submit(ORDER, lambda _name: True, "me")
        with pytest.raises(AuditNotFoundError):
            step(record.id, lambda _name: False)
        assert service.spool.has(record.id)
        step(record.id, lambda _name: True)
        assert list((tmp_path / "spool").iterdir()) == []


def test_a_result_of_a_newer_release_takes_no_list_down(
    service: AuditService, caplog: pytest.LogCaptureFixture
) -> None:
    """What this release cannot read is left out of the capacity with a word in the log; lists show the audit."""
    record = service.submit(ORDER, lambda _name: True, "me")
    with service.store.database.change() as session:
        session.execute(
            update(AuditRow).values(state="done", result={"summary": {"verdicts": {"foreseen": 3}}})
        )
    assert service.capacity(lambda _name: True) == []
    assert record.id in caplog.text
    assert [describe(one)["state"] for one in service.audits(lambda _name: True, None, 10)] == ["done"]


def test_audits_are_listed_in_pages(service: AuditService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes once and newest first, however many there are that the caller does not see."""
    monkeypatch.setattr(service_module, "PAGE", 3)
    made = [service.submit(ORDER, lambda _name: True, "me").id for _ in range(8)]
    with service.store.database.change() as session:
        session.execute(update(AuditRow).where(AuditRow.id.in_(made[2:7])).values(adapter="other"))
        session.execute(update(AuditRow).where(AuditRow.id.in_(made[4:6])).values(created_at=START))
    every = [one.id for one in service.audits(lambda _name: True, None, 100)]
    assert sorted(every) == sorted(made)
    pages: list[str] = []
    while page := service.audits(lambda _name: True, None, 2, pages[-1] if pages else None):
        pages += [one.id for one in page]
    assert pages == every
    seen = [one.id for one in service.audits(lambda name: name == "acme", None, 100)]
    assert seen == [made[7], made[1], made[0]]
    assert [one.id for one in service.audits(lambda name: name == "acme", None, 1, made[7])] == [made[1]]
    with pytest.raises(AuditNotFoundError):
        service.audits(lambda name: name == "acme", None, 1, made[3])
