"""Which adapters the engine holds and where, for which there is room, and whether its loads are checked."""

import asyncio
import logging
import time
from collections.abc import Sequence
from weakref import WeakValueDictionary

from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.registry.records import AdapterRecord, shown_version
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.scorers.batches import batches
from lorecall.server.lifecycle.engine_set import EngineSet, LoadedVersion
from lorecall.server.lifecycle.known_adapters import KnownAdapters
from lorecall.server.lifecycle.load_checks import LoadChecks
from lorecall.server.observability.metrics import AdapterSample, Metrics
from lorecall.server.observability.residency import CPU, GPU, Residency, ResidentAdapter

logger = logging.getLogger("vllm.lorecall")

PAGE = 500
"""Names whose versions are read at once."""
CHECKS_SHARE = 0.02
"""Share of the time in which loads are checked, however many there are; what left the memory meanwhile is not."""
MOST_REST_S = 15.0
"""The longest time between two checks of loads."""


class Residents(KnownAdapters):
    """The names, and which of them the engine holds.

    Args:
        registry: The registry, shared by all servers.
        intake: Fetches and stores the files.
        engine_set: The versions that the engine holds.
        metrics: Counts evictions.
    """

    def __init__(
        self, registry: Registry, intake: AdapterPipeline, engine_set: EngineSet, metrics: Metrics
    ) -> None:
        super().__init__(registry, intake)
        self.engine_set = engine_set
        self.load_checks: LoadChecks | None = None
        self._metrics = metrics
        self._tiers: dict[str, list[int]] = {"slots": [], "memory": []}
        self._name_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._coming: set[str] = set()
        self._unchecked: dict[int, LoadedVersion] = {}
        self._checking: set[asyncio.Task[None]] = set()

    async def note(self, adapters: Sequence[AdapterRecord]) -> list[str]:
        """Remember names that changed; return those that the engine may have to follow.

        The others are remembered a page at a time: a registry may have thousands that no engine holds.
        """
        room = self.engine_set.capacity.memory - len(self.engine_set.live.keys() | self._coming)
        follow, others = list[str](), list[AdapterRecord]()
        for one in adapters:
            busy = (
                one.name in self.engine_set.live or one.name in self._coming or one.name in self._name_turns
            )
            wanted = not one.removed and one.live_version is not None and (one.pinned or room > 0)
            room -= wanted and not busy
            if busy or wanted or (one.removed and one.name in self._adapters):
                follow.append(one.name)
            elif not one.removed:
                others.append(one)
        for page in batches(others, PAGE):
            versions = await asyncio.to_thread(self.registry.versions_of, [one.name for one in page], limit=1)
            for one in page:
                if one.name in versions:  # else it was removed meanwhile, which is a change of its own
                    self._know(one, shown_version(one, versions[one.name]))
        return follow

    def _has_room(self, name: str) -> bool:
        """Whether the engine's memory holds this name beside those that it has and those on their way."""
        others = self.engine_set.live.keys() | self._coming - {name}
        return len(others) < self.engine_set.capacity.memory

    def _turn(self, name: str) -> asyncio.Lock:
        """Return the lock of a name's steps; it exists while somebody has it."""
        return self._name_turns.setdefault(name, asyncio.Lock())

    async def refresh_tiers(self) -> None:
        """Ask the engine which adapters are in its slots and its memory, and count evictions."""
        now = await self.engine_set.tiers()
        before, self._tiers = self._tiers, now  # after the wait: two that ask at once count an eviction once
        ours = {loaded.id for loaded in self.engine_set.live.values()}
        for level, ids in before.items():
            lost = (set(ids) - set(self._tiers[level])) & ours
            self._metrics.evictions.labels(level).inc(len(lost))
        self._metrics.draining.set(self.engine_set.draining)
        if self.load_checks is not None:
            memory = set(self._tiers["memory"])
            due = memory - set(before["memory"]) | self._unchecked.keys() & memory
            self._unchecked = {one.id: one for one in self.engine_set.live.values() if one.id in due}
            if self._unchecked and not self._checking:
                task = asyncio.create_task(self._check_loads(self.load_checks))
                self._checking.add(task)
                task.add_done_callback(self._checking.discard)

    async def _check_loads(self, checks: LoadChecks) -> None:
        """Check versions that the engine has loaded, in `CHECKS_SHARE` of the time; one at a time.

        One that has a first answer comes before those that have none yet, of these the last that was loaded. One
        that answers as another is loaded anew on demand.
        """
        while self._unchecked:
            one = max(self._unchecked.values(), key=lambda held: (checks.knows(held), held.id))
            del self._unchecked[one.id]
            began = time.monotonic()
            try:
                different = await checks.differs(one)
                rest = (time.monotonic() - began) / CHECKS_SHARE
                if different:
                    # Not the engine's turn as well: a client that reads slowly may hold its lease for long.
                    async with self._turn(one.name):
                        await self.engine_set.expel(one)
                await asyncio.sleep(min(rest, MOST_REST_S))
            except Exception:  # vLLM raises whatever its engine raised
                if not self.engine_set.engine_is_gone:
                    logger.exception("%s was not checked after its load", one.lora_request.lora_name)

    def level(self, name: str) -> str:
        """Where an adapter's live version is: "slots", "memory" or "disk"."""
        loaded = self.engine_set.live.get(name)
        if loaded is None:
            return "disk"
        return next((level for level in ("slots", "memory") if loaded.id in self._tiers[level]), "disk")

    def samples(self) -> list[AdapterSample]:
        """Return all names as the metrics show them."""
        return [
            AdapterSample(name, version.state.value, self.level(name), adapter.pinned, version.rank)
            for name, adapter in sorted(self._adapters.items())
            if (version := self._versions.get(name)) is not None
        ]

    def residency(self) -> Residency:
        """Return what the engine holds, as routers are shown it."""
        levels = {"slots": GPU, "memory": CPU}
        adapters = [
            ResidentAdapter(name, levels[level], loaded.pinned, loaded.info.rank)
            for name, loaded in sorted(self.engine_set.live.items())
            if (level := self.level(name)) in levels
        ]
        slots, memory = (len(self._tiers[level]) for level in ("slots", "memory"))
        return Residency(self.engine_set.capacity.slots, slots, memory, adapters)
