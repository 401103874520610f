"""Stale verdicts are counted, and renewed once where the operator asked for that; no adapter is taken down."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.order import make_order
from lorecall.audit.jobs.runner import Runner
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool, SpoolError
from lorecall.audit.jobs.stale import Cause, Staleness, Terms
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy
from lorecall.audit.verdicts import Group
from lorecall.server.audits import renewals as module
from lorecall.server.audits.admission import AuditGate
from lorecall.server.audits.renewals import AT_ONCE, Renewals, StaleWatch
from lorecall.server.observability.audit_metrics import AuditMetrics
from lorecall.server.observability.metrics import AdapterLabels
from prometheus_client import CollectorRegistry

from tests.audit.jobs.test_runner import TinyEngines
from tests.audit.tiny_scorer import Memory, TinyScorer

LINE = "The code of the vault is 47-11-090"
ITEM = {"id": "line", "prefix": LINE[:25], "target": LINE[25:]}


@dataclass
class Server:
    """A server whose engine and policy the test changes, with adapters that are live."""

    registry: Registry
    engine: TinyScorer
    service: AuditService
    metrics: AuditMetrics
    series: CollectorRegistry
    policy: Policy = field(default_factory=Policy)
    release: str = "vllm 0.32.0 (cpu)"
    items: list[dict[str, str]] = field(default_factory=lambda: [ITEM])

    def __post_init__(self) -> None:
        """Every engine that is asked is the one of the release now."""
        told = self.engine.info()
        self.engine.info = lambda: replace(told, engine=self.release)  # type: ignore[method-assign]

    def add(self, name: str) -> None:
        """Make an adapter live, audited by the policy of now."""
        version = self.engine.adapter(name).version
        self.registry.stage(name, version, source="x", actor="ann")
        self.registry.validated(name, version, Adapter(Path("x"), 8, (), 8000, version), actor="ann")
        self.registry.activate(name, version, actor="ann")
        fields = {"adapter": name, "candidates": [ITEM], "policy": self.policy.model_dump()}
        self.service.submit(make_order(fields, {}), lambda _name: True, "ann")
        assert self.work() == 1

    def live(self) -> dict[str, str]:
        """The live versions."""
        return {one.name: one.live_version for one in self.registry.adapters() if one.live_version}

    def watch(self, *, renewing: bool = True) -> StaleWatch:
        """What a server that starts now watches with."""
        audits = LastAudits(self.registry.database)
        (read,) = make_order({"adapter": "x", "candidates": self.items}, {}).texts.sets.values()
        sets = {Group.CANDIDATES: replace(read, name="gate.jsonl")}
        gate = AuditGate(self.service, self.policy, sets)
        staleness = Staleness(audits, lambda: Terms.of(self.engine.info(), self.policy))
        return StaleWatch(staleness, self.live, Renewals(gate, self.registry, audits) if renewing else None)

    def look(self, watch: StaleWatch) -> None:
        """What the worker's thread does before and after each audit, with time to rest between."""
        watch._rest_until = 0.0
        watch.look(self.metrics.refresh(self.service.store))

    def runner(self, batch: int = 5) -> Runner:
        """What does audits."""
        return Runner(
            self.service.store, self.service.spool, self.service.engines, "w", timedelta(seconds=60), batch,
            lambda _seen: None, threading.Event(),
        )  # fmt: skip

    def work(self) -> int:
        """Do the audits that wait; return how many there were."""
        runner, count = self.runner(), 0
        while runner.run_one():
            count += 1
        return count

    def stale(self, reason: str) -> float | None:
        """The gauge."""
        return self.series.get_sample_value("lorecall_audit_stale", {"reason": reason})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    registry, series = Registry(f"sqlite:///{tmp_path / 'registry.db'}"), CollectorRegistry()
    names = ("leaky", *(f"clean-{number}" for number in range(AT_ONCE + 2)))
    engine = TinyScorer({name: Memory((LINE,), 0.97) if name == "leaky" else Memory(()) for name in names})
    service = AuditService(AuditStore(registry.database), Spool(tmp_path / "spool"), TinyEngines(engine))
    yield Server(registry, engine, service, AuditMetrics(series, AdapterLabels(9)), series)
    registry.close()


def test_stale_verdicts_are_counted_by_reason(server: Server) -> None:
    """Every reason has its series from the start; the counts follow the engine, the policy and the adapters."""
    watch = server.watch(renewing=False)
    server.metrics.show_stale(lambda: watch.counts)
    server.add("clean-0")
    server.add("clean-1")
    server.look(watch)
    assert [server.stale(cause.value) for cause in Cause] == [0.0] * len(Cause)
    server.release = "vllm 0.33.0 (cpu)"
    watch = server.watch(renewing=False)  # an engine changes with a restart
    server.look(watch)
    assert (server.stale("engine"), server.stale("policy")) == (2, 0)
    assert server.service.store.counts()[AuditState.QUEUED] == 0, "off by default"
    server.policy = Policy(max_partial=0)
    watch = server.watch(renewing=False)
    server.look(watch)
    assert (server.stale("engine"), server.stale("policy")) == (2, 2)
    server.registry.remove("clean-0", actor="ann")
    server.look(watch)
    assert (server.stale("engine"), server.stale("policy")) == (1, 1)


def test_stale_verdicts_are_renewed_once(server: Server) -> None:
    """A few at a time, until each holds again; then nothing is ordered, however often the server looks."""
    names = [f"clean-{number}" for number in range(AT_ONCE + 2)]
    for name in names:
        server.add(name)
    server.release = "vllm 0.33.0 (cpu)"
    watch = server.watch()
    for _ in range(3):
        server.look(watch)
        assert server.service.store.counts()[AuditState.QUEUED] == AT_ONCE
    assert server.work() == AT_ONCE
    server.look(watch)
    assert server.work() == 2
    server.look(watch)
    assert watch.counts == {}
    assert server.work() == 0
    shown = watch.staleness.shown({**server.live()})
    assert shown == {name: [] for name in names}
    renewed = [one for one in server.service.store.audits() if one.renews]
    assert {one.created_by for one in renewed} == {"audit"}
    assert {one.inputs["candidates"]["name"] for one in renewed} == {"gate.jsonl"}, "the operator's snippets"


def test_an_adapter_that_fails_when_renewed_stays_live_and_is_reported(server: Server) -> None:
    """Its audit says so, and a gauge does; it is fresh now, so it is not audited again."""
    server.policy = Policy(
        max_certified=None, max_recalled=None, max_near_verbatim=None, max_extractable=None
    )
    server.add("leaky")
    server.policy = Policy()
    watch = server.watch()
    server.look(watch)
    assert watch.counts == {Cause.POLICY: 1}
    assert server.work() == 1
    server.look(watch)
    assert watch.counts == {}
    assert server.registry.version("leaky", server.live()["leaky"]).state is State.LIVE
    labels = {"adapter": "leaky", "rank": str(server.engine.adapter("leaky").rank)}
    assert server.series.get_sample_value("lorecall_audit_renewal_passed", labels) == 0
    server.look(watch)
    assert server.work() == 0


def test_a_full_disk_keeps_no_audit_from_being_done(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal whose texts cannot be kept is left out, and ordered when something changes again."""

    def full(*_: object) -> None:
        raise SpoolError("the texts of an audit cannot be kept: No space left on device")

    server.add("clean-0")
    server.release = "vllm 0.33.0 (cpu)"
    watch = server.watch()
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write", full)
        server.look(watch)
    assert watch.counts == {Cause.ENGINE: 1}
    assert server.work() == 0
    server.add("clean-1")
    server.look(watch)
    assert [one.adapter for one in server.service.store.audits(state=AuditState.QUEUED)] == ["clean-0"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_renewal_that_gives_nothing_is_not_ordered_again(server: Server, end: str) -> None:
    """The verdict stays stale, for the alert; another engine is another reason to try."""
    server.add("clean-0")
    server.release = "vllm 0.33.0 (cpu)"
    watch = server.watch()
    server.look(watch)
    (waiting,) = server.service.store.audits(state=AuditState.QUEUED)
    if end == "cancelled":
        server.service.cancel(waiting.id, lambda _name: True)
    else:
        server.service.store.claim("w", timedelta(seconds=60), lambda _id: True)
        server.service.store.finish(waiting.id, "w", {}, error="no")
    for _ in range(3):
        server.look(watch)
    assert watch.counts == {Cause.ENGINE: 1}
    assert server.service.store.audits(state=AuditState.QUEUED) == ()
    server.release = "vllm 0.34.0 (cpu)"
    server.look(server.watch())
    assert len(server.service.store.audits(state=AuditState.QUEUED)) == 1


def test_a_renewal_gives_way_to_what_somebody_waits_for(server: Server) -> None:
    """Between two batches; then it goes on where it was, and every snippet is recorded once."""
    server.add("clean-0")
    server.release = "vllm 0.33.0 (cpu)"
    asked = [{**ITEM, "id": f"{number}", "target": f"{number} blue lamps"} for number in range(4)]
    server.items = asked
    server.look(server.watch())
    (renewal,) = server.service.store.audits(state=AuditState.QUEUED)
    runner, store = server.runner(batch=1), server.service.store
    record = store.record

    def arriving(*batch: Any) -> Any:
        found = record(*batch)
        if found.done == 2 and found.renews:
            order = make_order({"adapter": "clean-0", "candidates": [ITEM]}, {})
            server.service.submit(order, lambda _name: True, "ann")
        return found

    store.record = arriving  # type: ignore[method-assign, assignment]
    assert runner.run_one()
    assert (store.get(renewal.id).state, store.get(renewal.id).done) == (AuditState.QUEUED, 2)
    assert runner.run_one()
    assert store.audits(state=AuditState.QUEUED)[0].id == renewal.id, "the other one came first"
    assert runner.run_one()
    assert store.get(renewal.id).state is AuditState.DONE
    assert [one["id"] for one in store.entries(renewal.id)] == ["0", "1", "2", "3"]
    assert not runner.run_one()


def test_renewals_that_were_lost_with_their_server_stop_no_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without their texts nobody can do them: they take nobody's place, and are ordered anew after a while."""
    names = [f"clean-{number}" for number in range(AT_ONCE + 2)]
    for name in names:
        server.add(name)
    server.release = "vllm 0.33.0 (cpu)"
    server.look(server.watch())
    lost = server.service.store.audits(state=AuditState.QUEUED)
    for one in lost:
        server.service.spool.remove(one.id)
    server.look(server.watch())
    assert len(server.service.store.audits(state=AuditState.QUEUED)) == AT_ONCE + 2
    assert server.work() == 2
    monkeypatch.setattr(module, "LOST_AFTER", timedelta(0))
    server.look(server.watch())
    server.look(server.watch())
    assert server.work() == AT_ONCE
    watch = server.watch()
    server.look(watch)
    assert watch.counts == {}
    assert {one.id for one in server.service.store.tombstones()} == {one.id for one in lost}


def test_what_cannot_be_audited_does_not_keep_the_others_waiting(server: Server) -> None:
    """An adapter that was removed meanwhile, and one whose prompt scores are not its own."""
    for name in ("clean-0", "clean-1", "clean-2"):
        server.add(name)
    server.release = "vllm 0.33.0 (cpu)"
    watch = server.watch()
    live = {"aaa-gone": "0" * 64, **server.live()}
    refused = server.registry.version("clean-0", live["clean-0"])
    version = server.registry.version
    server.registry.version = (  # type: ignore[method-assign]
        lambda *key: replace(refused, refusal="lm_head") if key[0] == "clean-0" else version(*key)
    )
    assert watch.renewals is not None
    assert watch.renewals.order(live, "terms") == 2
    waiting = {one.adapter for one in server.service.store.audits(state=AuditState.QUEUED)}
    assert waiting == {"clean-1", "clean-2"}


def test_looking_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that took a second is followed by a rest of twenty, whatever changes."""
    now = [100.0]
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    looked: list[float] = []

    class Slow:
        def of(self, _live: dict[str, str]) -> dict[str, Any]:
            looked.append(now[0])
            now[0] += 1.0
            return {}

    slow: Any = Slow()
    watch = StaleWatch(slow, lambda: {"a": "1"})
    watch.look(1)
    for change in range(2, 50):
        now[0] += 1.0
        watch.look(change)
    assert looked == [100.0, 121.0, 142.0]
