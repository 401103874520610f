"""An engine that records what it holds, and the parts of a server over it that need no real one."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store, StoredVersion
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Capacity, EngineSet
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry

from tests.adapters import spoiling


class RecordingEngine:
    """Keeps the ids that were added and not removed; refuses what it is told to."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.refuse = self.take = False
        self.keep = False
        self.asked = 0

    async def add_lora(self, request: Any) -> None:
        """Add an adapter."""
        if self.take:
            self.held.add(request.lora_int_id)
        if self.refuse:
            raise ValueError("shapes")
        self.held.add(request.lora_int_id)

    async def remove_lora(self, lora_id: int) -> None:
        """Remove one."""
        if self.keep:
            raise RuntimeError("busy")
        self.held.discard(lora_id)

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Answer the two calls of the server."""
        del args
        self.asked += method.endswith("tiers")
        return [{"slots": [], "memory": sorted(self.held)} if method.endswith("tiers") else True]


def info(version: str) -> Adapter:
    """Return what is known of a version."""
    return Adapter(Path("x"), 1, (), 1, version)


def engine_set(engine: RecordingEngine, drain: float = 5.0) -> EngineSet:
    """Return an engine set whose ids count up."""
    count = iter(range(1, 100))

    def request(name: str, of: Adapter) -> Any:
        return SimpleNamespace(lora_name=f"{name}@{of.version}", lora_int_id=next(count))

    return EngineSet(engine, request, Capacity(2, 3, drain), Metrics(5, CollectorRegistry()))


async def settle(held: EngineSet) -> None:
    """Let every drain finish."""
    await asyncio.gather(*held._tasks, return_exceptions=True)  # a version that was taken back drains no more


class SlowPipeline(AdapterPipeline):
    """Takes nothing in before `adds` is set, fetches nothing again before `arrive` is, and counts both.

    Attributes:
        adds: Set unless a test clears it.
        arrive: Likewise.
        asked: Released once for every fetch that has begun.
        fetches: How many have begun.
    """

    adds: threading.Event
    arrive: threading.Event
    asked: threading.Semaphore
    fetches: int

    def add(
        self,
        name: str,
        source: str,
        *,
        actor: str,
        asker: SourceList | None = None,
        our_own: bool = False,
        operator: bool = False,
        reason: str = "",
    ) -> tuple[VersionRecord, Adapter]:
        """Wait, then add."""
        self._wait(self.adds)
        return super().add(
            name, source, actor=actor, asker=asker, our_own=our_own, operator=operator, reason=reason
        )

    def _fetch_again(self, record: VersionRecord) -> StoredVersion:
        self._wait(self.arrive)
        return super()._fetch_again(record)

    def _wait(self, until: threading.Event) -> None:
        self.fetches += 1
        self.asked.release()
        assert until.wait(300)


class World:
    """A registry, and servers on it, each with a store and an engine of its own.

    Args:
        work: Where everything lies.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.base = read_base_facts(spoiling.write_base(work / "base"))
        self.registry = Registry(f"sqlite:///{work / 'registry.db'}")

    def adapter(self, rank: int) -> str:
        """Return the path of an adapter; each rank is another version."""
        path = self.work / "models" / f"rank-{rank}"
        return str(path if path.exists() else spoiling.write_adapter(path, rank=rank))

    def server(self, place: str, drain: float = 5.0) -> "Server":
        """Return a new server."""
        sources = Sources(
            self.work / place / "staging", SourcePolicy(allowed=SourceList((str(self.work / "models"),)))
        )
        store, limits = Store(self.work / place / "store"), AdapterLimits(max_rank=64)
        return Server(SlowPipeline(sources, store, self.registry, self.base, limits), self.registry, drain)


class Server:
    """The control plane of one server. Make it inside a loop."""

    def __init__(self, pipeline: SlowPipeline, registry: Registry, drain: float) -> None:
        self.pipeline = pipeline
        self.adds, self.arrive, self.asked = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.adds.set()
        self.arrive.set()
        pipeline.adds, pipeline.arrive = self.adds, self.arrive
        pipeline.asked, pipeline.fetches = self.asked, 0
        self.engine = RecordingEngine()
        self.metrics = Metrics(5, CollectorRegistry())
        self.engine_set = engine_set(self.engine, drain)
        self.plane = ControlPlane(registry, pipeline, self.engine_set, frozenset({"base"}), self.metrics)

    async def has_asked(self, times: int) -> None:
        """Wait, on a thread of no pool, until so many fetches have begun."""
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def wait() -> None:
            for _ in range(times):
                self.asked.acquire()
            loop.call_soon_threadsafe(begun.set)

        threading.Thread(target=wait, daemon=True).start()
        await begun.wait()
