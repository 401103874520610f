"""A server is wired as its settings say."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.access.fleet_limits import make_buckets
from lorecall.adapters.access.rate_limit import RateLimiter
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.audit.jobs.order import make_order
from lorecall.audit.policy.policy import Policy
from lorecall.audit.scorer import AdapterVersion, EngineInfo
from lorecall.server.assembly import close_at_the_end, make_pipeline, watch_verdicts
from lorecall.server.audits.admission import AuditGate
from lorecall.server.audits.wiring import make_audits
from lorecall.server.observability.metrics import AdapterLabels
from lorecall.server.settings import ServerSettings
from prometheus_client import CollectorRegistry

from tests.adapters import spoiling
from tests.redis_server import MissingRedisError, Redis, running_redis


def client(device: str, model_type: str = "llama") -> Any:
    """VLLM's client of an engine, as far as the pipeline asks it."""
    config = SimpleNamespace(lora_config=None, device_config=SimpleNamespace(device_type=device))
    model = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    return SimpleNamespace(vllm_config=config, model_config=model, get_tokenizer=lambda: None)


@pytest.mark.parametrize(
    ("device", "model_type", "scored", "templates"),
    [("cpu", "llama", True, "all"), ("cuda", "llama", False, "all"), ("cpu", "gpt_oss", True, "none")],
)
def test_the_engine_says_what_it_can(
    tmp_path: Path, device: str, model_type: str, templates: str, *, scored: bool
) -> None:
    """On a GPU adapters of the head are not taken, and it is said why; for gpt-oss vLLM renders no template."""
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    settings = ServerSettings(store=tmp_path / "store", adapter_templates="all")
    try:
        made = make_pipeline(
            registry, facts, client(device, model_type), settings, frozenset({"q_proj"}), keyed=False
        )
    finally:
        registry.close()
    assert made._limits.vocabulary_scored is scored
    because = made._limits.why_not_served
    assert ("vllm#51594" in because["lm_head"]) is not scored
    assert ("experts" in because) is scored
    assert made._templates == templates


@pytest.mark.parametrize("keyed", [True, False])
def test_the_settings_say_where_adapters_may_come_from(tmp_path: Path, *, keyed: bool) -> None:
    """Prefixes and roots are allowed; other places, the store and the shared folder are not."""
    models, store = tmp_path / "models", tmp_path / "models/store"
    spoiling.write_adapter(models / "acme")
    settings = ServerSettings(
        store=store,
        sources="hf://acme/*, s3://bucket/acme/",
        local_roots=str(models),
        shared="memory://shelf/of",
    )
    engine = client("cpu")
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    try:
        sources = make_pipeline(registry, facts, engine, settings, frozenset(), keyed=keyed)._sources
        for source in ("hf://acme/model@v1", "s3://bucket/acme/model", str(models / "acme")):
            sources.check(source)
        for source in (
            "hf://other/model", "s3://bucket/other", "s3://bucket", str(tmp_path),
            "memory://shelf/of/" + "a" * 64, str(store), str(store / ("a" * 64)), "https://example.org/adapter.zip",
        ):  # fmt: skip
            with pytest.raises(RefusedError, match="does not read"):
                sources.check(source)
    finally:
        registry.close()


def test_the_end_of_a_server_leaves_redis(tmp_path: Path) -> None:
    """Its downloads are stopped, and no connection stays open."""
    stopped: list[bool] = []
    intake: Any = SimpleNamespace(stop=lambda: stopped.append(True))

    async def run(server: Redis) -> None:
        limiter = RateLimiter(make_buckets(server.url))
        await limiter.check()
        work = asyncio.create_task(close_at_the_end(intake, limiter))
        await asyncio.sleep(0)
        assert (server.connected(), stopped) == (1, [])
        work.cancel()
        await asyncio.wait([work])

    try:
        with running_redis(tmp_path) as server:
            asyncio.run(run(server))
            assert (server.connected(), stopped) == (0, [True])
    except MissingRedisError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("renewing", [False, True])
def test_stale_verdicts_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, renewing: bool
) -> None:
    """The list asks for them, the worker's rounds count them, and order renewals where the setting says so."""
    (tmp_path / "policy.yaml").write_text("schema_version: 1\n")
    monkeypatch.setenv("LORECALL_REQUIRE_AUDIT", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("LORECALL_REAUDIT_STALE", str(renewing))
    settings, series = ServerSettings(store=tmp_path / "store"), CollectorRegistry()
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    engines: Any = SimpleNamespace(adapter=lambda name: AdapterVersion(name, "v1", 8, 8000))
    parts = make_audits(registry, engines, settings, series, AdapterLabels(9), keyed=False)
    order = make_order({"adapter": "acme", "candidates": [{"id": "1", "prefix": "a", "target": "b"}]}, {})
    asked = parts.service.submit(order, lambda _name: True, "ann")
    parts.service.store.claim("w", timedelta(seconds=60), lambda _id: True)
    parts.service.store.begin(asked.id, "w", {"engine": asdict(EngineInfo("vllm 1", "base"))})
    parts.service.store.finish(asked.id, "w", {})
    registry.stage("acme", "v1", source="x", actor="ann")
    live = {"acme": "v1"}
    plane: Any = SimpleNamespace(registry=registry, live_versions=lambda: live, registered=live.__contains__)
    serving: Any = SimpleNamespace(adapters=plane, info=lambda: EngineInfo("vllm 2", "base"))
    gate = AuditGate(parts.service, Policy(max_partial=0), order.texts.sets)
    watch_verdicts(serving, parts, gate, settings)
    parts.worker._refresh()
    said = {"acme": ["engine changed: from vllm 1 to vllm 2"], "never": None}
    shown = plane.staleness.shown({"acme": "v1", "never": "v2"})
    assert {name: why and why[:1] for name, why in shown.items()} == said
    counted = {
        reason: series.get_sample_value("lorecall_audit_stale", {"reason": reason})
        for reason in ("engine", "policy", "base")
    }
    assert counted == {"engine": 1, "policy": 1, "base": 0}
    assert [one.renews != "" for one in parts.service.store.audits(state=AuditState.QUEUED)] == [
        True
    ] * renewing
    registry.close()
