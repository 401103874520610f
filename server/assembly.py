"""Wires a running server: registry, store, keys, control plane, metrics."""

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from lorecall.adapters.access.rate_limit import RateLimiter
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.shared_store import SharedStore
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.stale import Staleness, Terms
from lorecall.audit.policy.policy_file import load_policy
from lorecall.audit.scorer import EngineInfo
from lorecall.server.audits.admission import AuditGate, check_answerable, gate_framings, operator_sets
from lorecall.server.audits.engines import OwnEngine
from lorecall.server.audits.renewals import Renewals, StaleWatch
from lorecall.server.audits.wiring import AuditParts, make_audits, make_limits
from lorecall.server.auth.engine_guard import guard_engine
from lorecall.server.auth.keyring import KeyGuard, check_exposure, is_loopback
from lorecall.server.engine.common.served_modules import why_not_served
from lorecall.server.http.state import Serving
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Capacity, EngineSet
from lorecall.server.lifecycle.follower import Follower
from lorecall.server.lifecycle.load_checks import LoadChecks
from lorecall.server.lifecycle.served_models import VersionedModels
from lorecall.server.observability.metering import meter
from lorecall.server.observability.metrics import Metrics
from lorecall.server.scoring.base_scores import MOST_ROWS, BaseScores
from lorecall.server.scoring.score import EngineScoring, fast_scores
from lorecall.server.settings import ServerSettings
from prometheus_client import REGISTRY

logger = logging.getLogger("vllm.lorecall")

STAGING = "downloads"
Background = list[Coroutine[Any, Any, None]]


async def build_serving(
    engine_client: Any, models: VersionedModels, engine: EngineInfo, args: Namespace, settings: ServerSettings
) -> tuple[Serving, Background]:
    """Return what the routes share, with the registry's adapters loaded, and the background work.

    Raises:
        UsageError: A setting is wrong, or the server would serve others without keys.
    """
    registry = await asyncio.to_thread(settings.open_registry)
    guard = await asyncio.to_thread(make_guard, registry, settings, args)
    metrics = Metrics(settings.metrics_adapters)
    meter(engine_client, metrics, engine.base)
    engine_set = EngineSet(engine_client, models.new_request, capacity(engine_client, settings), metrics)
    facts = await asyncio.to_thread(base_facts, args.model, models.base_names.union(settings.names_of_base()))
    modules = await adapted_modules(engine_client)
    intake = make_pipeline(registry, facts, engine_client, settings, modules, keyed=guard.enforced)
    plane = ControlPlane(registry, intake, engine_set, models.base_names, metrics)
    models.follow(plane)
    metrics.show_adapters(plane.samples, models.base_names)
    metrics.show_residency(plane.residency, engine.base)
    config = engine_client.vllm_config
    scoring = EngineScoring(
        engine_client,
        **fast_scores(config),
        by_priority=config.scheduler_config.policy == "priority",
        chat_params=served_chat(args),
        base_scores=BaseScores(MOST_ROWS if config.cache_config.enable_prefix_caching else 0),
    )
    guard_engine(engine_client, engine_set.hold, shared_cache=settings.prefix_cache == "shared")
    serving = Serving(
        models,
        plane,
        scoring,
        engine,
        guard,
        metrics,
        make_limits(settings),
        settings.open_metrics,
        settings.max_adapter_bytes,
        settings.max_body_bytes,
        settings.max_items,
    )

    async def epsilon() -> float:
        return (await serving.measured()).epsilon or 0.0

    plane.load_checks = LoadChecks(scoring.known_text, settings.load_checks, epsilon, metrics)
    await serving.limits.limiter.check()
    follower = Follower(plane, metrics, settings.poll_seconds, guard.reload)
    background: Background = [follower.run(), close_at_the_end(intake, serving.limits.limiter)]
    try:
        await follower.catch_up()
        await follower.settled()
    except BaseException:  # the start was stopped: under `vllm serve` the process waits for its threads
        intake.stop()
        raise
    return serving, background


def served_chat(args: Namespace) -> Any:
    """Return vLLM's parameters of a chat as its own routes use them: the chat template and its arguments."""
    from vllm.renderers import ChatParams
    from vllm.renderers.chat_utils import load_chat_template

    try:
        from vllm.entrypoints.common.cli_args import resolve_default_chat_template_kwargs
    except ImportError:  # vLLM 0.32
        from vllm.entrypoints.launchers.cli_args import resolve_default_chat_template_kwargs
    return ChatParams(
        load_chat_template(args.chat_template),
        args.chat_template_content_format,
        resolve_default_chat_template_kwargs(args) or {},
    )


async def close_at_the_end(intake: AdapterPipeline, limiter: RateLimiter) -> None:
    """Wait until the server stops; then end its downloads, whose threads it would wait for, and leave Redis."""
    try:
        await asyncio.Event().wait()
    finally:
        intake.stop()
        await limiter.aclose()


def build_audits(
    serving: Serving, settings: ServerSettings
) -> tuple[AuditService, Coroutine[Any, Any, None]]:
    """Return the audit service, and the work that is to run beside the routes.

    Raises:
        UsageError: The policy or a set of `--require-audit` cannot be read.
    """
    plane = serving.adapters
    own = OwnEngine(asyncio.get_running_loop(), plane, serving.scoring, serving.measured)
    keyed, label = serving.keys.enforced, serving.metrics.label
    parts = make_audits(plane.registry, own, settings, REGISTRY, label, own, keyed=keyed)
    gate: AuditGate | None = None
    if settings.require_audit is not None:
        tokenizer = serving.scoring.engine_client.get_tokenizer()
        chat = bool(getattr(tokenizer, "chat_template", None))
        plane.gate = gate = make_gate(parts.service, settings.require_audit, settings, chat=chat)
    watch_verdicts(serving, parts, gate, settings)

    async def work() -> None:
        parts.worker.start()
        try:
            await asyncio.Event().wait()
        finally:
            parts.stop.set()  # without waiting: its batch needs the loop that ends here

    return parts.service, work()


def watch_verdicts(
    serving: Serving, parts: AuditParts, gate: AuditGate | None, settings: ServerSettings
) -> None:
    """Show which verdicts are stale, and have them renewed if the operator asks for that."""
    plane, audits = serving.adapters, LastAudits(serving.adapters.registry.database)
    policy = None if gate is None else gate.policy
    staleness = Staleness(audits, lambda: Terms.of(serving.info(), policy))
    renewals = Renewals(gate, plane.registry, audits) if gate is not None and settings.reaudit_stale else None
    watch = StaleWatch(staleness, plane.live_versions, renewals)
    plane.staleness = staleness
    parts.metrics.show_stale(lambda: watch.counts)
    parts.metrics.show_only(plane.registered)
    parts.watchers.append(watch.look)


def make_gate(audits: AuditService, policy: Path, settings: ServerSettings, *, chat: bool) -> AuditGate:
    """Return the gate that holds audits against a policy file; `chat`: whether the base has a chat template.

    Raises:
        UsageError: The policy or a set cannot be read, no audit of the gate can meet the policy, or a setting of
            the gate is wrong.
    """
    sets = operator_sets(settings.audit_candidates, settings.audit_controls)
    framings = gate_framings(settings.audit_framings, chat_template=chat)
    rules = load_policy(policy)
    check_answerable(rules, sets, framings)
    return AuditGate(audits, rules, sets, framings)


def make_guard(registry: Registry, settings: ServerSettings, args: Namespace) -> KeyGuard:
    """Return the valid API keys; warn where none are required.

    Raises:
        UsageError: Others could reach a server without keys, or two kinds of keys exclude each other.
    """
    given = args.api_key or [os.environ.get("VLLM_API_KEY", "")]
    upstream = tuple(("--api-key", secret) for secret in given if secret)
    local = bool(args.uds) or is_loopback(args.host)
    guard = KeyGuard(registry, (*settings.secrets(), *upstream), settings.api_keys_file, always=not local)
    if upstream and len(upstream) < guard.count:
        raise UsageError(
            "vLLM's --api-key (or VLLM_API_KEY) would turn every other key away",
            hint="give it as LORECALL_ADMIN_KEY instead",
            param="api_key",
        )
    if not args.uds:
        check_exposure(args.host, guard)
    if not guard.enforced:
        logger.warning("no API keys: whoever can reach this loopback address may do everything")
    return guard


def capacity(engine_client: Any, settings: ServerSettings) -> Capacity:
    """Return the engine's capacity for adapters."""
    lora = engine_client.vllm_config.lora_config
    if lora is None:
        return Capacity(0, 0, settings.drain_seconds)
    return Capacity(lora.max_loras, lora.max_cpu_loras or lora.max_loras, settings.drain_seconds)


def base_facts(model: str, names: frozenset[str]) -> BaseFacts:
    """Return the facts of the base that adapters must match; vLLM has downloaded a hub model by now.

    Raises:
        BaseModelError: Its weights are no safetensors.
    """
    directory = Path(model)
    if not directory.is_dir():
        from huggingface_hub import snapshot_download

        directory = Path(snapshot_download(model, local_files_only=True))
    return read_base_facts(directory, [model, *names])


async def adapted_modules(engine_client: Any) -> frozenset[str]:
    """Return the last parts of the names of the modules that the engine applies adapters to."""
    if engine_client.vllm_config.lora_config is None:
        return frozenset()
    workers = await engine_client.collective_rpc("lorecall_adapted_modules")
    return frozenset(name for worker in workers for name in worker)


def renders_jinja(engine_client: Any) -> bool:
    """Return whether vLLM renders this base's chats by a Jinja template: not those of gpt-oss and of Mistral."""
    from vllm.utils.mistral import is_mistral_tokenizer

    harmony = engine_client.model_config.hf_config.model_type == "gpt_oss"
    return not harmony and not is_mistral_tokenizer(engine_client.get_tokenizer())


def make_pipeline(
    registry: Registry,
    facts: BaseFacts,
    engine_client: Any,
    settings: ServerSettings,
    modules: frozenset[str],
    *,
    keyed: bool,
) -> AdapterPipeline:
    """Return the pipeline that fetches, stores, validates and registers adapters of these modules."""
    lora = engine_client.vllm_config.lora_config
    on_cpu = engine_client.vllm_config.device_config.device_type == "cpu"
    policy = SourcePolicy(
        allowed=settings.allowed_sources(keyed=keyed),
        barred=SourceList((str(settings.store.absolute()), *filter(None, [settings.shared]))),
        max_bytes=settings.max_adapter_bytes,
        download_seconds=settings.download_seconds,
    )
    limits = AdapterLimits(
        max_rank=lora.max_lora_rank if lora is not None else 0,
        served_modules=modules,
        why_not_served=why_not_served(on_cpu=on_cpu),
        half=str(getattr(lora, "lora_dtype", "")) not in ("torch.float32", "torch.bfloat16"),
        vocabulary_scored=on_cpu,
    )
    store = Store(settings.store, max_bytes=settings.max_adapter_bytes)
    shared = SharedStore(settings.shared) if settings.shared else None
    templates = settings.adapter_templates if renders_jinja(engine_client) else "none"
    sources = Sources(settings.store / STAGING, policy)
    return AdapterPipeline(sources, store, registry, facts, limits, shared, templates)
