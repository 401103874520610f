"""An audit that admits a version: in the same queue, and the version never goes live or stays open without it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.audit.jobs.records import AuditRecord, NewAudit, new_id
from lorecall.audit.jobs.store import MAX_ATTEMPTS, AuditStore

from tests.audit.jobs.conftest import Clock

A, B = "a" * 64, "b" * 64
LEASE = timedelta(seconds=60)
PASSED: dict[str, Any] = {"gate": {"passed": True, "reasons": []}}
REFUSED: dict[str, Any] = {"gate": {"passed": False, "reasons": ["2 certified", "1 recalled"]}}
Step = Callable[[AuditStore, AuditRecord], object]


@pytest.fixture
def store(registry: Registry, clock: Clock) -> AuditStore:
    """A store beside a registry with two versions of one name that could go live."""
    for version in (A, B):
        registry.stage("acme", version, source="x", actor="test")
        registry.validated("acme", version, Adapter(Path("x"), 8, (), 8000, version), actor="test")
    return AuditStore(registry.database, clock)


def new(version: str = A, adapter: str = "acme") -> NewAudit:
    return NewAudit(new_id(), adapter, version, 8, 8000, "s" * 64, {}, {}, 4, "audit")


def here(_id: str) -> bool:
    """Every text is in the spool."""
    return True


def lost(_id: str) -> bool:
    """No text is in the spool."""
    return False


def taken(store: AuditStore, worker: str = "w") -> AuditRecord:
    """Have a worker that can admit versions take an audit."""
    record = store.claim(worker, LEASE, here, admissions=True)
    assert record is not None
    return record


def version_of(registry: Registry, record: AuditRecord) -> VersionRecord:
    return registry.version(record.adapter, record.version)


def test_a_version_waits_for_its_audit(registry: Registry, store: AuditStore) -> None:
    """Asked for, it is under audit and names the audit; both in one change that other servers see."""
    before = registry.revision()
    record = store.admit(new(), here)
    assert (record.state, record.admits, record.adapter, record.version) == (
        AuditState.QUEUED, True, "acme", A,
    )  # fmt: skip
    waiting = version_of(registry, record)
    assert (waiting.state, waiting.audit_id) == (State.AUDITING, record.id)
    assert registry.revision() == before + 1
    event = registry.events("acme")[-1]
    assert (event.actor, event.action, event.detail) == ("audit", "auditing", {"audit_id": record.id})


def test_open_work_is_not_asked_for_twice(registry: Registry, store: AuditStore, clock: Clock) -> None:
    """The same version has one audit while it is open, and a new one afterwards."""
    first = store.admit(new(), here)
    assert store.admit(new(), here) == first
    clock.now += timedelta(seconds=1)
    other = store.admit(new(B), here)
    claimed = taken(store)
    assert claimed.id == first.id, "the oldest comes first"
    assert store.admit(new(), here).id == first.id
    store.finish(first.id, "w", {}, error="broken")
    again = store.admit(new(), here)
    assert again.id != first.id
    assert {record.id for record in store.audits(adapters=["acme"])} == {again.id, other.id, first.id}
    assert store.get(first.id).state is AuditState.FAILED
    assert version_of(registry, again).audit_id == again.id


def test_texts_sent_again_revive_an_audit_that_lost_them(
    registry: Registry, store: AuditStore, clock: Clock
) -> None:
    """Nobody could do it any more, so another takes its place; one that somebody works on is left alone."""
    first = store.admit(new(), here)
    second = store.admit(new(), lost)
    assert second.id != first.id
    assert (store.get(first.id).state, store.get(first.id).error) == (
        AuditState.CANCELLED, "its texts were lost",
    )  # fmt: skip
    assert (version_of(registry, second).state, version_of(registry, second).audit_id) == (
        State.AUDITING, second.id,
    )  # fmt: skip
    assert taken(store, "elsewhere").id == second.id
    assert store.admit(new(), lost).id == second.id
    clock.now += 2 * LEASE
    assert store.admit(new(), lost).id not in (first.id, second.id)


def test_only_who_can_admit_takes_admissions(store: AuditStore, clock: Clock) -> None:
    """A worker without an engine of its own leaves them, and does the others; who can does them first."""
    plain = store.add(new())
    clock.now += timedelta(seconds=1)
    admitting = store.admit(new(B), here)
    assert taken(store).id == admitting.id
    store.release(admitting.id, "w")
    record = store.claim("w", LEASE, here)
    assert record is not None
    assert record.id == plain.id
    assert store.claim("w", LEASE, here) is None


def test_what_fails_the_gate_is_quarantined(registry: Registry, store: AuditStore) -> None:
    """With the gate's reasons and the audit, in one transaction with the audit's end; and may be tried again."""
    record = store.admit(new(), here)
    taken(store)
    done = store.finish(record.id, "w", REFUSED)
    assert done.state is AuditState.DONE
    version = version_of(registry, record)
    assert (version.state, version.reason) == (State.QUARANTINED, "2 certified; 1 recalled")
    assert version.audit_id == record.id
    event = registry.events("acme")[-1]
    assert (event.actor, event.action) == ("audit", "quarantined")
    assert version_of(registry, store.admit(new(), here)).state is State.AUDITING


def test_what_passed_is_left_to_who_activates_it(registry: Registry, store: AuditStore) -> None:
    """The end of an audit that passed changes nothing of a version that is live already."""
    record = store.admit(new(), here)
    taken(store)
    registry.activate("acme", A, actor="audit", audit_id=record.id)
    store.finish(record.id, "w", PASSED)
    assert version_of(registry, record).state is State.LIVE


def ends_in_an_error(store: AuditStore, record: AuditRecord) -> object:
    taken(store)
    return store.finish(record.id, "w", {}, error="the engine refuses it")


def kills_its_workers(store: AuditStore, _record: AuditRecord) -> object:
    for _ in range(MAX_ATTEMPTS):
        taken(store)
        store._clock.now += 2 * LEASE  # type: ignore[attr-defined]
    return store.claim("w", LEASE, here, admissions=True)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ends_in_an_error, "the audit could not be done: the engine refuses it"),
        (kills_its_workers, "the audit could not be done: given up after 10 attempts"),
        (lambda store, record: store.cancel(record.id), "the audit was cancelled"),
        (lambda store, record: store.remove(record.id, "ann"), "the audit was cancelled"),
    ],
)
def test_nothing_stays_under_audit(registry: Registry, store: AuditStore, step: Step, reason: str) -> None:
    """However an audit ends without a result, its version is quarantined with the reason."""
    record = store.admit(new(), here)
    step(store, record)
    version = version_of(registry, record)
    assert (version.state, version.reason, version.audit_id) == (State.QUARANTINED, reason, record.id)
    assert store.claim("w", LEASE, here, admissions=True) is None


def test_a_decision_that_came_first_stands(registry: Registry, store: AuditStore) -> None:
    """What an operator let go live during the audit stays live after it; a removed name stays removed."""
    record = store.admit(new(), here)
    registry.activate("acme", A, actor="ann", override="public")
    taken(store)
    store.finish(record.id, "w", REFUSED)
    assert version_of(registry, record).state is State.LIVE
    other = store.admit(new(B), here)
    registry.remove("acme", actor="ann")
    store.cancel(other.id)
    with pytest.raises(AdapterNotFoundError):
        version_of(registry, other)


def test_what_cannot_be_audited_leaves_no_audit(registry: Registry, store: AuditStore) -> None:
    """An unknown name, an unknown version, and one that is retired."""
    for wrong in (new(adapter="nobody"), new("f" * 64)):
        with pytest.raises(AdapterNotFoundError):
            store.admit(wrong, here)
    registry.move("acme", B, State.RETIRED, actor="test")
    with pytest.raises(ConflictError):
        store.admit(new(B), here)
    assert store.audits() == ()
    assert version_of(registry, store.admit(new(), here)).state is State.AUDITING


def test_a_version_added_again_during_its_audit_waits_for_it(registry: Registry, store: AuditStore) -> None:
    """Its name was removed, and it was added once more: the open audit is still about the same bytes."""
    record = store.admit(new(), here)
    registry.remove("acme", actor="ann")
    registry.stage("acme", A, source="x", actor="test")
    registry.validated("acme", A, Adapter(Path("x"), 8, (), 8000, A), actor="test")
    assert store.admit(new(), here).id == record.id
    assert (version_of(registry, record).state, version_of(registry, record).audit_id) == (
        State.AUDITING, record.id,
    )  # fmt: skip
