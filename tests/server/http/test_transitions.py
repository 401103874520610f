"""Every state of a version, every route that could change it, every kind of key: what happens is in one table.

The registry, its SQLite file, the intake, the control plane, the gate and the gateway are the real ones; the
engine only counts. One name has two versions: OLD, which is live, and THE one that is in the state in question and
that a rollback would go back to.
"""

import asyncio
import io
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.scorer import EngineInfo
from lorecall.server.audits.admission import AuditGate
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.http import adapters, audits
from lorecall.server.http.gateway import Gateway
from lorecall.server.http.state import Serving
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Capacity, EngineSet
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry

from tests.adapters import spoiling
from tests.audit.conftest import as_set, phone

NAME, REMOVED, NEVER = "acme", "removed", "never live"
STATES = (*(str(state) for state in State), NEVER, REMOVED)
"""`retired` was live before, and is what a rollback goes back to; `never live` is retired, too, and is not."""

# Where THE version stands after a request, and which version the name answers with: what callers see changed.
LIVE, UNDER_AUDIT, QUARANTINED, GONE = (
    ("live", "THE"),
    ("auditing", "OLD"),
    ("quarantined", "OLD"),
    ("gone", "-"),
)
BACK, FIRST_AUDIT = ("retired", "OLD"), ("auditing", "-")
Cell = tuple[int, tuple[str, str] | None]
"""An answer's status, and the outcome; None where nothing may change."""

ADDED: dict[str, Cell] = {
    "staged": (201, LIVE), "validated": (201, LIVE), "auditing": (409, None), "live": (201, None),
    "quarantined": (409, None), "retired": (201, LIVE), NEVER: (201, LIVE), REMOVED: (201, LIVE),
}  # fmt: skip
GATED: dict[str, Cell] = {
    "staged": (201, UNDER_AUDIT), "validated": (201, UNDER_AUDIT), "auditing": (201, None), "live": (201, None),
    "quarantined": (201, UNDER_AUDIT), "retired": (201, UNDER_AUDIT), NEVER: (201, UNDER_AUDIT),
    REMOVED: (201, FIRST_AUDIT),
}  # fmt: skip
ROLLED_BACK: dict[str, Cell] = {
    "staged": (409, None), "validated": (409, None), "auditing": (409, None), "live": (200, BACK),
    "quarantined": (409, None), "retired": (200, LIVE), NEVER: (409, None), REMOVED: (404, None),
}  # fmt: skip
OVERRIDDEN: dict[str, Cell] = {
    "staged": (409, None), "validated": (200, LIVE), "auditing": (200, LIVE), "live": (200, None),
    "quarantined": (200, LIVE), "retired": (200, LIVE), NEVER: (409, None), REMOVED: (404, None),
}  # fmt: skip
PINNED: dict[str, Cell] = {**dict.fromkeys(STATES, (200, None)), REMOVED: (404, None)}
DELETED: dict[str, Cell] = {**dict.fromkeys(STATES, (200, GONE)), REMOVED: (404, None)}
CANCELLED: dict[str, Cell] = {
    **dict.fromkeys(STATES, (404, None)), "auditing": (200, QUARANTINED), "quarantined": (200, None),
}  # fmt: skip
LOADED_ANEW: dict[str, Cell] = {**dict.fromkeys(STATES, (400, None)), REMOVED: (200, LIVE)}

# The keys that may use a route. Every other one is refused and changes nothing; `admin` includes the others.
OF_ADAPTERS, OF_AUDITS, OF_ADMIN = {"adapters", "admin"}, {"audit", "admin"}, {"admin"}
CALLERS = ("nobody", "infer", "adapters", "audit", "admin", "stranger")
"""`stranger` may use adapters and audits, of other names; `nobody` has no key."""


@dataclass(frozen=True)
class Route:
    """A request that may change a state.

    Attributes:
        send: Method, path and body, with {the}, {audit} and {source} to fill in; bytes are an archive.
        allowed: Who may send it.
        open: What it does, by state, on a server without a gate.
        gated: The same on one that audits first.
        unseen: The status for a stranger, who does not see the name.
    """

    send: tuple[str, str, dict[str, Any] | None]
    allowed: set[str]
    open: dict[str, Cell]
    gated: dict[str, Cell]
    unseen: int = 404


def answered(status: int, cells: dict[str, Cell]) -> dict[str, Cell]:
    """The same outcomes under another status of success."""
    return {state: (status if code < 400 else code, outcome) for state, (code, outcome) in cells.items()}


LOAD = {"lora_name": NAME, "lora_path": "{source}"}
ROUTES = {
    "add": Route(("POST", "/v1/adapters", {"name": NAME, "source": "{source}"}), OF_ADAPTERS, ADDED, GATED, 403),
    "upload": Route(("POST", f"/v1/adapters/{NAME}/archive", None), OF_ADAPTERS, ADDED, GATED),
    "load": Route(
        ("POST", "/v1/load_lora_adapter", {**LOAD, "load_inplace": True}), OF_ADAPTERS,
        answered(200, ADDED), answered(200, GATED), 403,
    ),
    "load anew": Route(
        ("POST", "/v1/load_lora_adapter", LOAD), OF_ADAPTERS,
        LOADED_ANEW, LOADED_ANEW | {REMOVED: (200, FIRST_AUDIT)}, 403,
    ),
    "rollback": Route(("POST", f"/v1/adapters/{NAME}/rollback", {}), OF_ADAPTERS, ROLLED_BACK, ROLLED_BACK),
    "override": Route(
        ("POST", f"/v1/adapters/{NAME}/override", {"version": "{the}", "reason": "public"}), OF_ADMIN,
        OVERRIDDEN, OVERRIDDEN, 403,
    ),
    "pin": Route(("POST", f"/v1/adapters/{NAME}/pin", {"pinned": True}), OF_ADAPTERS, PINNED, PINNED),
    "delete": Route(("DELETE", f"/v1/adapters/{NAME}", {}), OF_ADAPTERS, DELETED, DELETED),
    "unload": Route(("POST", "/v1/unload_lora_adapter", {"lora_name": NAME}), OF_ADAPTERS, DELETED, DELETED),
    "cancel the audit": Route(("POST", "/v1/audits/{audit}/cancel", {}), OF_AUDITS, CANCELLED, CANCELLED),
    "delete the audit": Route(("DELETE", "/v1/audits/{audit}", {}), OF_AUDITS, CANCELLED, CANCELLED),
}  # fmt: skip


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
        work: Its folder, with the adapters `the` and `old`.
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
        self.versions = {"THE": read_adapter(self.work / "the").version}
        self.versions["OLD"] = read_adapter(self.work / "old").version
        guard = KeyGuard(self.registry, (), None, always=True)
        self.metrics = Metrics(4, CollectorRegistry())
        models: Any = SimpleNamespace(lora_requests={}, base_names=frozenset({"base"}))
        unused: Any = None
        self.app.state.lorecall = Serving(
            models, unused, unused, EngineInfo("counting", "base"), guard, self.metrics
        )
        self.app.state.lorecall_audits = self.service
        for router in (adapters.router, audits.router):
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
        await plane.follow(NAME)
        self.app.state.lorecall.adapters = plane
        return plane

    async def bring_to(self, state: str) -> None:
        """Bring THE version into a state, through the steps that lead there."""
        registry, the, old = self.registry, self.versions["THE"], self.versions["OLD"]
        for version in (old, the):
            self.intake.add(NAME, str(self.work / ("the" if version == the else "old")), actor="ann")
            if version == the and state == NEVER:
                registry.move(NAME, the, State.RETIRED, actor="ann")
            else:
                registry.activate(NAME, version, actor="ann")
        if state not in (NEVER, "live"):
            registry.rollback(NAME, actor="ann")
        if state in ("staged", "validated", "auditing", "quarantined"):
            registry.stage(NAME, the, source=str(self.work / "the"), actor="ann")
        if state in ("validated", "auditing", "quarantined"):
            registry.validated(NAME, the, read_adapter(self.work / "the"), actor="ann")
        if state in ("auditing", "quarantined"):
            await self.gate.admit(registry.version(NAME, the), {})
        if state == "quarantined":
            self.service.cancel(registry.version(NAME, the).audit_id, lambda _name: True)
        if state == REMOVED:
            registry.remove(NAME, actor="ann")

    def found(self) -> tuple[str, str]:
        """Where THE version stands, and the name of the one that is live."""
        try:
            the = self.registry.version(NAME, self.versions["THE"])
            live = self.registry.adapter(NAME).live_version
        except AdapterNotFoundError:
            return ("gone", "-")
        return (
            str(the.state),
            next((name for name, version in self.versions.items() if version == live), "-"),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server without adapters, with a key of each kind."""
    work = tmp_path_factory.mktemp("site")
    base = read_base_facts(spoiling.write_base(work / "base"))
    spoiling.write_adapter(work / "the", rank=2)
    spoiling.write_adapter(work / "old", rank=4)
    registry = Registry(f"sqlite:///{work / 'registry.db'}")
    sources = Sources(work / "staging", SourcePolicy(local_roots=(work,)))
    intake = AdapterPipeline(sources, Store(work / "store"), registry, base, AdapterLimits(max_rank=8))
    service = AuditService(AuditStore(registry.database), Spool(work / "spool"), SimpleNamespace())  # type: ignore[arg-type]
    secrets = {str(scope): registry.keys.add(scope, [scope], actor="ann")[1] for scope in Scope}
    both = [Scope.ADAPTERS, Scope.AUDIT]
    secrets["stranger"] = registry.keys.add("stranger", both, patterns=["globex-*"], actor="ann")[1]
    yield Site(work, registry, intake, service, secrets)
    registry.close()


def filled(value: Any, words: dict[str, str]) -> Any:
    """Put words into a body or a path."""
    if isinstance(value, dict):
        return {key: filled(inner, words) for key, inner in value.items()}
    return value.format(**words) if isinstance(value, str) else value


async def asked(site: Site, route: Route, caller: str) -> int:
    """Send a route's request with a caller's key, and return the status of the answer."""
    method, path, body = route.send
    try:
        audit = site.registry.version(NAME, site.versions["THE"]).audit_id
    except AdapterNotFoundError:
        audit = ""
    words = {"the": site.versions["THE"], "audit": audit or "0" * 32, "source": str(site.work / "the")}
    headers = {"Authorization": f"Bearer {site.secrets[caller]}"} if caller in site.secrets else {}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        file.add(site.work / "the", "the")
    sent = {"content": archive.getvalue()} if body is None else {"json": filled(body, words)}
    transport = httpx.ASGITransport(site.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://site", headers=headers) as client:
        answer = await client.request(method, filled(path, words), **sent)  # type: ignore[arg-type]
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
    return answer.status_code


async def in_each(
    site: Site, state: str, *, gated: bool
) -> AsyncIterator[tuple[str, str, Route, ControlPlane]]:
    """Yield every route and caller, each with a fresh server whose version is in the state."""
    live = sqlite3.connect(site.work / "registry.db")
    empty, ready = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    live.backup(empty)
    try:
        await site.bring_to(state)
        live.backup(ready)
        for name, route in ROUTES.items():
            for caller in CALLERS:
                ready.backup(live)
                yield name, caller, route, await site.plane(gated=gated)
    finally:
        empty.backup(live)
        for connection in (live, empty, ready):
            connection.close()


@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
@pytest.mark.parametrize("state", STATES)
def test_every_route_and_key(site: Site, state: str, gated: bool) -> None:  # noqa: FBT001
    """Who may not call a route changes nothing by it; for who may, the table says what changes."""

    async def walk() -> list[str]:
        wrong = []
        async for name, caller, route, plane in in_each(site, state, gated=gated):
            before, revision = site.found(), site.registry.revision()
            status = await asked(site, route, caller)
            after = site.found()
            if caller in route.allowed:
                expected, outcome = (route.gated if gated else route.open)[state]
                right = (status, after) == (expected, outcome or before)
            else:
                expected = 401 if caller == "nobody" else route.unseen if caller == "stranger" else 403
                right = (status, after, site.registry.revision()) == (expected, before, revision)
            held = plane.engine_set.live.get(NAME)
            live = "-" if held is None else next(n for n, v in site.versions.items() if v == held.version)
            if not right or live != after[1]:
                wrong.append(f"{name} by {caller}: {status}, {before} -> {after}, engine {live}")
        return wrong

    assert asyncio.run(walk()) == []


def test_the_walk_is_whole() -> None:
    """Every state has a row in every table, and every route under our names is in the walk."""
    assert all(set(cells) == set(STATES) for route in ROUTES.values() for cells in (route.open, route.gated))
    sent = {(route.send[0], route.send[1].replace(NAME, "{name}")) for route in ROUTES.values()}
    ours = {
        (method, route.path.replace("{audit_id}", "{audit}"))
        for router in (adapters.router, audits.router)
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
        if method != "GET"
    }
    assert ours - sent == {("POST", "/v1/audits")}, "a new audit of a live version changes no state"
