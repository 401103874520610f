"""A server that has nothing to do writes nothing, and reads next to nothing."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.records import AdapterRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.records import NewAudit, new_id
from lorecall.audit.jobs.runner import Runner
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.stale import Cause, Staleness, Terms
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.jobs.worker import Worker
from lorecall.audit.policy.policy import Policy
from lorecall.audit.scorer import EngineInfo
from lorecall.server.audits.renewals import Renewals, StaleWatch
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.lifecycle import follower as follower_module
from lorecall.server.lifecycle.follower import Follower
from lorecall.server.observability.audit_metrics import AuditMetrics
from lorecall.server.observability.metrics import AdapterLabels, Metrics
from prometheus_client import CollectorRegistry
from sqlalchemy import event

A = "a" * 64
SUMMARY = {
    "snippets": 1, "tokens": 3, "tokens_over_half": 0, "delta_loss": 1.0, "recited": {"of": 1},
    "verdicts": {"certified": 0, "recalled": 0},
}  # fmt: skip


def new(version: str) -> NewAudit:
    inputs = {"candidates": {"name": "c.jsonl", "digest": "d" * 64, "snippets": 1}}
    return NewAudit(new_id(), "acme", version, 8, 8000, "s" * 64, inputs, {}, 1, "ann")


@pytest.fixture
def store(registry: Registry) -> AuditStore:
    """A registry in use: a live version, a key, an audit that is done, and one whose texts another server has."""
    store = AuditStore(registry.database)
    for version in (A, "b" * 64):
        registry.stage("acme", version, source="x", actor="ann")
        registry.validated("acme", version, Adapter(Path("x"), 8, (), 8000, version), actor="ann")
    registry.activate("acme", A, actor="ann")
    registry.keys.add("ann", [Scope.INFER], actor="root")
    store.admit(new("b" * 64), lambda _id: True)
    store.add(new(A))
    done = store.claim("w", timedelta(seconds=60), lambda _id: True)
    assert done is not None
    store.finish(done.id, "w", {"summary": SUMMARY})
    terms = Terms.of(EngineInfo("vllm", "base"), Policy())
    renewal = store.add_renewal(replace(new(A), renews=terms.digest))
    assert renewal is not None
    store.cancel(renewal.id)
    return store


def test_an_idle_server_writes_nothing(
    registry: Registry, store: AuditStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gate and all that runs by itself: the worker, its sweep, the follower, the collector, gauges."""
    monkeypatch.setattr(follower_module, "COLLECT_S", 0.0)
    sources = Sources(tmp_path / "staging", SourcePolicy())
    unused: Any = None
    gate: Any = SimpleNamespace()
    intake = AdapterPipeline(sources, Store(tmp_path / "store"), registry, unused, unused)
    followed: list[str] = []

    async def follow(name: str, **_: object) -> None:
        followed.append(name)

    engine_set = SimpleNamespace(live={}, capacity=SimpleNamespace(memory=4))

    async def noted(adapters: Sequence[AdapterRecord]) -> list[str]:
        return [one.name for one in adapters]

    plane: Any = SimpleNamespace(
        registry=registry, intake=intake, follow=follow, note=noted, engine_set=engine_set
    )
    guard = KeyGuard(registry, (), None, always=False)
    follower = Follower(plane, Metrics(4, CollectorRegistry()), 1.0, guard.reload)
    metrics = AuditMetrics(CollectorRegistry(), AdapterLabels(4))
    runner = Runner(
        store,
        Spool(tmp_path / "spool"),
        unused,
        "w2",
        timedelta(seconds=60),
        5,
        print,
        threading.Event(),
        gate,
    )
    staleness = Staleness(
        LastAudits(registry.database), lambda: Terms.of(EngineInfo("vllm", "base"), Policy())
    )
    watch = StaleWatch(staleness, lambda: {"acme": A}, Renewals(gate, registry, staleness.audits))
    gate.order = gate.audits = None  # there is nothing to order: the version is renewed already
    worker = Worker(runner, lambda: watch.look(metrics.refresh(store)))

    async def round_of_everything() -> None:
        await follower.catch_up()
        await follower.collect()
        assert not worker._round(sweep=True)

    asyncio.run(round_of_everything())
    assert followed == ["acme"]
    assert metrics._findings[0].adapter == "acme"
    assert watch.counts[Cause.ENGINE] == 1
    watch._rest_until = 0.0  # it could look at once, and has no reason to
    revision, statements = registry.revision(), []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(" ".join(statement.split()))

    event.listen(registry.database._engine, "before_cursor_execute", note)
    for _ in range(5):
        asyncio.run(round_of_everything())
    event.remove(registry.database._engine, "before_cursor_execute", note)
    assert statements
    assert not [one for one in statements if not one.startswith("SELECT") and one != "BEGIN"]
    assert not [one for one in statements if "FOR UPDATE" in one], "a lock on a row is a write, too"
    assert registry.revision() == revision
    assert followed == ["acme"], "nothing is read again"
    assert not [one for one in statements if "audits.result" in one], "results are large"
    assert store.counts()[AuditState.DONE] == 1
