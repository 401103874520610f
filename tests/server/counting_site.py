"""A server whose engine only counts: all else of the control plane is real, and answers over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy
from lorecall.audit.scorer import EngineInfo
from lorecall.audit.verdicts import Group
from lorecall.server.audits.admission import AuditGate
from lorecall.server.auth import own_key
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.http import adapters, audits, keys, page
from lorecall.server.http.gateway import Gateway
from lorecall.server.http.state import Serving
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Capacity, EngineSet
from lorecall.server.lifecycle.served_models import VersionedModels
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry

from tests.adapters import spoiling
from tests.audit.conftest import as_set, phone


class CountingEngine:
    """Holds the ids that were added and not removed."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    async def add_lora(self, request: Any) -> None:
        """Add an adapter."""
        self.held.add(request.lora_int_id)

    async def remove_lora(self, lora_id: int) -> None:
        """Remove one."""
        self.held.discard(lora_id)

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Answer the calls of the engine set."""
        del args
        return [{"slots": [], "memory": sorted(self.held)} if method.endswith("tiers") else True]


@dataclass
class Site:
    """A server whose engine only counts.

    Attributes:
        work: Its folder, from which adapters may be added.
        registry: Its registry.
        intake: Its intake.
        service: Its audits; no worker does them.
        secrets: The secret of each caller's key.
    """

    work: Path
    registry: Registry
    intake: AdapterPipeline
    service: AuditService
    secrets: dict[str, str]
    app: FastAPI = field(default_factory=FastAPI)

    def __post_init__(self) -> None:
        guard = KeyGuard(self.registry, (), None, always=True)
        self.metrics = Metrics(4, CollectorRegistry())
        models: Any = SimpleNamespace(lora_requests={}, base_names=frozenset({"base"}))
        unused: Any = None
        self.app.state.lorecall = Serving(
            models, unused, unused, EngineInfo("counting", "base"), guard, self.metrics
        )
        self.app.state.lorecall_audits = self.service
        for router in (adapters.router, audits.router, keys.router, own_key.router, page.router):
            self.app.include_router(router)
        self.app.add_middleware(Gateway, state=self.app.state)
        self.gate = AuditGate(self.service, Policy(), {Group.CANDIDATES: as_set((phone(1),))})

    async def plane(self, *, gated: bool) -> ControlPlane:
        """A control plane as a server has it that has just started."""
        numbers = iter(range(1, 1000))

        def request(name: str, info: Any) -> Any:
            return SimpleNamespace(lora_name=f"{name}@{info.version}", lora_int_id=next(numbers))

        held = EngineSet(CountingEngine(), request, Capacity(2, 4, 1.0), self.metrics)
        plane = ControlPlane(self.registry, self.intake, held, frozenset({"base"}), self.metrics)
        plane.gate = self.gate if gated else None
        for record in self.registry.adapters():
            await plane.follow(record.name)
        serving = self.app.state.lorecall
        serving.adapters = plane
        own: Any = SimpleNamespace(plane=plane)
        serving.models.load_lora_adapter = partial(VersionedModels.load_lora_adapter, own)
        serving.models.unload_lora_adapter = partial(VersionedModels.unload_lora_adapter, own)
        return plane

    def client(self, caller: str) -> httpx.AsyncClient:
        """A client with a caller's key; without one for a caller that has none."""
        headers = {"Authorization": f"Bearer {self.secrets[caller]}"} if caller in self.secrets else {}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://site", headers=headers)


def make_site(work: Path) -> Iterator[Site]:
    """Yield a server without adapters, with a key of each scope, and one of a stranger, who sees other names."""
    base = read_base_facts(spoiling.write_base(work / "base"))
    registry = Registry(f"sqlite:///{work / 'registry.db'}")
    sources = Sources(work / "staging", SourcePolicy(allowed=SourceList((str(work),))))
    intake = AdapterPipeline(sources, Store(work / "store"), registry, base, AdapterLimits(max_rank=8))
    service = AuditService(AuditStore(registry.database), Spool(work / "spool"), SimpleNamespace())
    secrets = {str(scope): registry.keys.add(scope, [scope], actor="ann")[1] for scope in Scope}
    both = [Scope.ADAPTERS, Scope.AUDIT]
    secrets["stranger"] = registry.keys.add("stranger", both, patterns=["globex-*"], actor="ann")[1]
    yield Site(work, registry, intake, service, secrets)
    registry.close()
