"""Audits in the database: the cursor and the snippets move together, and one worker has an audit at a time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from lorecall.adapters.registry.audit_tables import AuditRow, AuditSnippetRow, AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.audit.jobs.records import AuditNotFoundError, AuditRecord, NewAudit, new_id
from lorecall.audit.jobs.retention import RETENTION, describe_tombstone
from lorecall.audit.jobs.store import MAX_ATTEMPTS, AuditStore
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from tests.audit.jobs.conftest import Clock

LEASE = timedelta(seconds=60)


@pytest.fixture
def store(registry: Registry, clock: Clock) -> AuditStore:
    """An empty store, once on each kind of database."""
    return AuditStore(registry.database, clock)


def order(store: AuditStore, adapter: str = "acme", total: int = 4) -> AuditRecord:
    """Queue an audit."""
    inputs = {"candidates": {"name": "c.jsonl", "digest": "d" * 64, "snippets": total}}
    return store.add(
        NewAudit(new_id(), adapter, "a" * 64, 8, 8000, "s" * 64, inputs, {"seed": 1}, total, "me")
    )


def entries(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "verdict": "clear", "tokens": [{"p": 0.1 + 0.2}]} for name in names]


def claimed(store: AuditStore, worker: str) -> AuditRecord:
    record = store.claim(worker, LEASE, lambda _id: True)
    assert record is not None
    return record


def running(store: AuditStore, worker: str) -> AuditRecord:
    """Queue an audit, and have a worker take it."""
    order(store)
    return claimed(store, worker)


def test_an_audit_is_done_batch_by_batch(store: AuditStore) -> None:
    """Queued, claimed, recorded, finished; entries come back in order, their numbers exact."""
    queued = order(store)
    assert (queued.state, queued.done, queued.total) == (AuditState.QUEUED, 0, 4)
    record = claimed(store, "w")
    assert (record.id, record.state, record.worker) == (queued.id, AuditState.RUNNING, "w")
    store.begin(record.id, "w", {"epsilon": {"value": 0.1}})
    store.record(record.id, "w", 0, entries("1", "2", "3"), LEASE, 1.5)
    last = store.record(record.id, "w", 3, entries("4"), LEASE, 0.5)
    assert (last.done, last.seconds, last.run) == (4, 2.0, {"epsilon": {"value": 0.1}})
    done = store.finish(record.id, "w", {"summary": {}})
    assert (done.state, done.error, store.get(record.id)) == (AuditState.DONE, "", done)
    assert store.entries(record.id) == entries("1", "2", "3", "4")
    assert [entry["id"] for entry in store.entries(record.id, 1, 2)] == ["2", "3"]
    assert store.claim("w", LEASE, lambda _id: True) is None


def test_a_batch_is_recorded_once(store: AuditStore) -> None:
    """A second writer with an old cursor changes nothing, neither cursor nor snippets."""
    record = running(store, "w")
    store.record(record.id, "w", 0, entries("1", "2"), LEASE, 1.0)
    with pytest.raises(ConflictError, match="at snippet 2, not at 0"):
        store.record(record.id, "w", 0, entries("1", "2"), LEASE, 1.0)
    assert store.get(record.id).done == len(store.entries(record.id)) == 2


def test_cursor_and_snippets_move_together(store: AuditStore) -> None:
    """A batch that the database refuses half-way leaves nothing of it, and the error quotes nothing of it."""
    record = running(store, "w")
    store.record(record.id, "w", 0, entries("1"), LEASE, 1.0)
    in_the_way = AuditSnippetRow(audit_id=record.id, position=2, verdict="clear", entry={})
    with store.database.change() as session:
        session.add(in_the_way)
    with pytest.raises(IntegrityError) as caught:
        store.record(record.id, "w", 1, entries("zebra", "3"), LEASE, 1.0)
    assert "zebra" not in str(caught.value)
    assert store.get(record.id).done == 1
    assert len(store.entries(record.id, 0, 2)) == 2, "the first snippet, and the one that stood in the way"


def test_a_dead_workers_audit_is_taken_over(store: AuditStore, clock: Clock) -> None:
    """When a lease runs out another worker goes on from the cursor, and the first one can write no more."""
    record = running(store, "dead")
    store.record(record.id, "dead", 0, entries("1", "2"), LEASE, 1.0)
    clock.now += LEASE
    assert store.claim("next", LEASE, lambda _id: True) is None, "the lease holds to its end"
    clock.now += timedelta(seconds=1)
    taken = claimed(store, "next")
    assert (taken.id, taken.done) == (record.id, 2)
    for step in (
        lambda: store.record(record.id, "dead", 2, entries("3"), LEASE, 1.0),
        lambda: store.renew(record.id, "dead", LEASE),
        lambda: store.finish(record.id, "dead", {}),
    ):
        with pytest.raises(ConflictError, match="held by next"):
            step()
    store.record(record.id, "next", 2, entries("3"), LEASE, 1.0)


def test_a_renewed_lease_holds(store: AuditStore, clock: Clock) -> None:
    """A slow batch does not lose the audit."""
    record = running(store, "slow")
    for _ in range(4):
        clock.now += LEASE * 0.9
        store.renew(record.id, "slow", LEASE)
        assert store.claim("other", LEASE, lambda _id: True) is None


def test_an_audit_that_never_moves_ends(store: AuditStore, clock: Clock) -> None:
    """After some attempts without one recorded batch an audit has failed; a batch starts the count anew."""
    order(store)
    for _ in range(MAX_ATTEMPTS - 1):
        record = claimed(store, "w")
        clock.now += 2 * LEASE
    store.record(claimed(store, "w").id, "w", 0, entries("1"), LEASE, 1.0)
    clock.now += 2 * LEASE
    for _ in range(MAX_ATTEMPTS):
        claimed(store, "w")
        clock.now += 2 * LEASE
    assert store.claim("w", LEASE, lambda _id: True) is None
    failed = store.get(record.id)
    assert (failed.state, failed.done) == (AuditState.FAILED, 1)
    assert "given up" in failed.error


def test_an_audit_is_given_back(store: AuditStore, clock: Clock) -> None:
    """At once, or only after a delay."""
    record = running(store, "a")
    store.release(record.id, "a")
    claimed(store, "b")
    store.release(record.id, "b", timedelta(seconds=30))
    assert store.claim("c", LEASE, lambda _id: True) is None
    clock.now += timedelta(seconds=31)
    claimed(store, "c")


def test_a_worker_takes_only_what_it_has_the_texts_of(store: AuditStore) -> None:
    """The oldest of those that it can do."""
    first, second = order(store), order(store)
    assert store.claim("w", LEASE, lambda _id: False) is None
    taken = store.claim("w", LEASE, lambda audit_id: audit_id == second.id)
    assert taken is not None
    assert taken.id == second.id
    assert claimed(store, "w").id == first.id


def test_a_cancelled_audit_stops_and_a_removed_one_is_gone(store: AuditStore) -> None:
    """What was recorded stays after the first and not after the second; the worker can write after neither."""
    record = running(store, "w")
    store.record(record.id, "w", 0, entries("1"), LEASE, 1.0)
    assert store.cancel(record.id).state is AuditState.CANCELLED
    assert store.cancel(record.id).state is AuditState.CANCELLED
    with pytest.raises(ConflictError, match="cancelled"):
        store.record(record.id, "w", 1, entries("2"), LEASE, 1.0)
    assert len(store.entries(record.id)) == 1
    store.remove(record.id, "ann")
    assert store.entries(record.id) == []
    for step in (store.get, store.cancel, lambda audit_id: store.remove(audit_id, "ann")):
        with pytest.raises(AuditNotFoundError):
            step(record.id)
    with pytest.raises(AuditNotFoundError):
        store.record(record.id, "w", 1, entries("2"), LEASE, 1.0)


def finished(store: AuditStore, adapter: str) -> AuditRecord:
    """An audit that is done, with a report."""
    order(store, adapter)
    record = claimed(store, "w")
    store.record(record.id, "w", 0, entries("1", "2", "3", "4"), LEASE, 1.0)
    return store.finish(record.id, "w", {"gate": {"passed": True}, "seal": {"sha256": "5e" * 32}})


def test_a_removed_audit_leaves_a_tombstone(store: AuditStore, clock: Clock) -> None:
    """Its report's seal, when it was removed and by whom; of one that has no report, no seal."""
    done, waiting = finished(store, "acme"), order(store, "globex")
    store.remove(waiting.id, "bob")
    clock.now += timedelta(days=1)
    store.remove(done.id, "ann\0")
    assert [(t.id, t.seal, t.state, t.removed_by) for t in store.tombstones()] == [
        (done.id, "5e" * 32, AuditState.DONE, "ann"),
        (waiting.id, "", AuditState.CANCELLED, "bob"),
    ]
    last = store.tombstones("acme")[0]
    assert (last.finished_at, last.removed_at) == (done.finished_at, clock.now)
    assert (last.version, last.candidate_set) == (done.version, done.candidate_set)
    assert describe_tombstone(last)["removed_at"] == clock.now.isoformat()


def test_audits_are_kept_as_long_as_the_setting_says(store: AuditStore, clock: Clock) -> None:
    """Counted from their end, whatever that was; what waits or runs stays, however old."""
    done, waiting = finished(store, "acme"), order(store, "acme")
    store.cancel(order(store, "globex").id)
    keep = timedelta(days=30)
    clock.now += keep
    assert store.expire(keep) == ()
    clock.now += timedelta(seconds=1)
    assert len(store.expire(keep)) == 2
    assert store.expire(keep) == ()
    assert [record.id for record in store.audits()] == [waiting.id]
    assert store.entries(done.id) == []
    assert {stone.removed_by for stone in store.tombstones()} == {RETENTION}
    assert [stone.seal for stone in store.tombstones("acme")] == ["5e" * 32]


@pytest.mark.parametrize("audit_id", ["", "nope", "a\0b", "é", "x" * 1000])
def test_an_unknown_id_is_not_found(store: AuditStore, audit_id: str) -> None:
    """Whatever the text, the answer is 404 and not a failure of the database."""
    with pytest.raises(AuditNotFoundError):
        store.get(audit_id)


def test_audits_are_listed_newest_first_and_counted(store: AuditStore, clock: Clock) -> None:
    """By adapter, by state, cut to a limit."""
    made = []
    for adapter in ("a", "b", "a"):
        made.append(order(store, adapter).id)
        clock.now += timedelta(seconds=1)
    store.cancel(made[0])
    assert [record.id for record in store.audits()] == made[::-1]
    assert [record.id for record in store.audits(adapters=["a"])] == [made[2], made[0]]
    assert [record.id for record in store.audits(state=AuditState.CANCELLED)] == [made[0]]
    assert [record.id for record in store.audits(limit=1)] == [made[2]]
    assert store.counts() == {**dict.fromkeys(AuditState, 0), AuditState.QUEUED: 2, AuditState.CANCELLED: 1}
    assert store.ids() == (frozenset(made[1:]), frozenset(made[:1]))


def test_a_state_of_a_newer_release_takes_no_list_down(store: AuditStore) -> None:
    """Such an audit is shown, is nobody's to do here, and keeps its texts: it is not over."""
    new, other = order(store), order(store)
    with store.database.change() as session:
        session.execute(update(AuditRow).where(AuditRow.id == new.id).values(state="paused"))
    assert {record.id: str(record.state) for record in store.audits()} == {
        new.id: "paused", other.id: "queued",
    }  # fmt: skip
    assert store.ids() == (frozenset({new.id, other.id}), frozenset())
    assert store.counts()[AuditState.QUEUED] == 1
    assert claimed(store, "w").id == other.id
    assert store.claim("w", LEASE, lambda _id: True) is None
    assert str(store.cancel(new.id).state) == "paused"
    store.remove(new.id, "ann")
    assert str(store.tombstones()[0].state) == "paused"


def test_workers_share_without_doubling(store: AuditStore, registry_url: str, clock: Clock) -> None:
    """Twelve audits, three workers that claim at once on connections of their own: each goes to exactly one."""
    wanted = [order(store).id for _ in range(12)]

    def work(worker: int) -> list[str]:
        mine = Registry(registry_url)
        own, taken = AuditStore(mine.database, clock), []
        while record := own.claim(f"w{worker}", LEASE, lambda _id: True):
            taken.append(record.id)
        mine.close()
        return taken

    with ThreadPoolExecutor(3) as pool:
        taken = [audit_id for part in pool.map(work, range(3)) for audit_id in part]
    assert sorted(taken) == sorted(wanted)
