"""The versions that the engine holds for us, the requests that use them, and their removal.

Every version has an engine name of its own and an integer id that is never used again, so no key/value block of
one version can serve another. A version that is replaced takes no new request, drains, and is removed.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.server.observability.metrics import Metrics

logger = logging.getLogger("vllm.lorecall")


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """One version under one name, loaded into the engine.

    Attributes:
        name: What callers write as `model`.
        info: The facts read from its files.
        lora_request: vLLM's request that selects it.
        leases: The requests that run on it.
        retired: Whether it takes no new request and is removed once it is idle.
        pinned: Whether the engine keeps it in memory.
        idle: Set while nothing runs on it.
    """

    name: str
    info: Adapter
    lora_request: Any
    leases: set["Lease"] = field(default_factory=set)
    retired: bool = False
    pinned: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def version(self) -> str:
        """Sha256 over configuration and weights, in hex."""
        return self.info.version

    @property
    def id(self) -> int:
        """The engine's integer id."""
        return int(self.lora_request.lora_int_id)


class Lease:
    """A request's hold on a version, which stays in the engine until it is released.

    Args:
        loaded: The version.
        task: The task that runs on it, cancelled if it takes longer than the drain; None is never cancelled.
    """

    def __init__(self, loaded: LoadedVersion, task: "asyncio.Task[Any] | None") -> None:
        self.loaded = loaded
        self.task = task
        loaded.leases.add(self)
        loaded.idle.clear()

    @property
    def lora_request(self) -> Any:
        """The engine's request for the version."""
        return self.loaded.lora_request

    def release(self) -> None:
        """End the hold; a second call does nothing."""
        self.loaded.leases.discard(self)
        if not self.loaded.leases:
            self.loaded.idle.set()


@dataclass(frozen=True, slots=True)
class Capacity:
    """The engine's limits, as it was started.

    Attributes:
        slots: `--max-loras`: adapters in one batch.
        memory: `--max-cpu-loras`: adapters in host memory.
        drain_seconds: How long a replaced version may take to finish what runs on it.
    """

    slots: int
    memory: int
    drain_seconds: float

    @property
    def pins(self) -> int:
        """Adapters that may be pinned: memory must keep room for a full batch beside them."""
        return max(0, self.memory - self.slots)


class EngineSet:
    """Loads versions into the engine, points names at them, and removes what is replaced.

    Args:
        engine: vLLM's client of the engine.
        new_request: Makes the engine's request for (name, info), with a fresh id.
        capacity: The engine's limits.
        metrics: Times the loads.
    """

    def __init__(self, engine: Any, new_request: Any, capacity: Capacity, metrics: Metrics) -> None:
        self._engine = engine
        self._new_request = new_request
        self.capacity = capacity
        self._metrics = metrics
        self.live: dict[str, LoadedVersion] = {}
        self._draining: dict[tuple[str, str], LoadedVersion] = {}
        self._removed: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tiers: dict[str, list[int]] = {"slots": [], "memory": []}
        self._used = False

    @property
    def engine_is_gone(self) -> bool:
        """Whether the engine has ended, as it does when the server stops."""
        return bool(getattr(self._engine, "errored", False))

    @property
    def draining(self) -> int:
        """The number of versions that wait for their last request and are then removed."""
        return len(self._draining)

    def of(self, lora_request: Any) -> LoadedVersion | None:
        """Return the version that a LoRA request selects, live or draining; None if it is not ours."""
        held = (*self.live.values(), *self._draining.values())
        return next((one for one in held if one.lora_request is lora_request), None)

    def lease(self, loaded: LoadedVersion) -> Lease:
        """Hold a version for the current task."""
        self._used = True
        return Lease(loaded, asyncio.current_task())

    async def load(self, name: str, info: Adapter) -> LoadedVersion:
        """Have the engine load a version, without any name pointing at it yet.

        A version that is still draining is used again instead.

        Raises:
            AdapterError: The engine refuses it.
        """
        draining = self._draining.pop((name, info.version), None)
        if draining is not None:
            draining.retired = False
            return draining
        request = self._new_request(name, info)
        self._used = True
        started = time.perf_counter()
        try:
            await self._engine.add_lora(request)
        except Exception as error:  # vLLM raises whatever the worker raised
            raise AdapterError(
                f"the engine refuses adapter {name!r}: {error}", hint="train it for this base", param="source"
            ) from error
        self._metrics.load_seconds.observe(time.perf_counter() - started)
        return LoadedVersion(name, info, request)

    async def point(self, loaded: LoadedVersion, *, pinned: bool) -> None:
        """Make a loaded version the one that its name answers with, in one step; the one before is retired."""
        before = self.live.get(loaded.name)
        if before is not None and before is not loaded and before.pinned:
            await self.pin(before, pinned=False)
        if pinned != loaded.pinned:
            await self.pin(loaded, pinned=pinned)
        self.live[loaded.name] = loaded
        if before is not None and before is not loaded:
            self.retire(before)

    def drop(self, name: str) -> LoadedVersion | None:
        """Remove a name; its version is retired."""
        loaded = self.live.pop(name, None)
        if loaded is not None:
            self.retire(loaded)
        return loaded

    def retire(self, loaded: LoadedVersion) -> None:
        """Let a version drain: it takes no new request, those that run finish, then it is removed."""
        loaded.retired = True
        self._draining[loaded.name, loaded.version] = loaded
        task = asyncio.create_task(self._drain(loaded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def pin(self, loaded: LoadedVersion, *, pinned: bool) -> None:
        """Keep a version in the engine's memory, or no longer.

        Raises:
            UsageError: Too many are pinned already.
        """
        self._used = True
        if pinned:
            self.check_pins(loaded.name)
            await self._engine.add_lora(loaded.lora_request)  # it may have been evicted
        await self._engine.collective_rpc("lorecall_pin_adapter", args=(loaded.id, pinned))
        loaded.pinned = pinned

    def check_pins(self, name: str) -> None:
        """Check that one more adapter may be pinned.

        Raises:
            UsageError: Too many others are pinned already.
        """
        held = sum(one.pinned for one in self.live.values() if one.name != name)
        if held >= self.capacity.pins:
            raise UsageError(
                f"{held} adapters are pinned and this engine has room for {self.capacity.pins}",
                hint="unpin one, or raise --max-cpu-loras (pins: --max-cpu-loras less --max-loras)",
                param="pin",
            )

    async def tiers(self) -> dict[str, list[int]]:
        """Return the ids in the engine's slots and in its memory; removed ones still there are removed again.

        An engine in which nothing has run since the last time is not asked again: its worker spins on a core
        for a second after each message, so asking every second would keep an idle server's core busy.
        """
        if not self.capacity.slots or not self._used:
            return self._tiers
        held = (*self.live.values(), *self._draining.values())
        self._used = any(one.leases for one in held)
        self._tiers = (await self._engine.collective_rpc("lorecall_adapter_tiers"))[0]
        for still_there in self._removed & set(self._tiers["memory"]):
            self._used = True
            await self._engine.remove_lora(still_there)
        return self._tiers

    async def _drain(self, loaded: LoadedVersion) -> None:
        if not await self._drained(loaded):
            logger.warning(
                "%s did not drain in %g s: %d requests on it are cancelled",
                loaded.lora_request.lora_name,
                self.capacity.drain_seconds,
                len(loaded.leases),
            )
            for lease in list(loaded.leases):
                if lease.task is not None:
                    lease.task.cancel()
            await loaded.idle.wait()
        key = (loaded.name, loaded.version)
        if not loaded.retired or self._draining.get(key) is not loaded:
            return  # in use again
        del self._draining[key]
        if loaded.pinned:
            await self._engine.collective_rpc("lorecall_pin_adapter", args=(loaded.id, False))
        await self._engine.remove_lora(loaded.id)
        self._used = True
        self._removed.add(loaded.id)

    async def _drained(self, loaded: LoadedVersion) -> bool:
        try:
            await asyncio.wait_for(loaded.idle.wait(), self.capacity.drain_seconds)
        except TimeoutError:
            return not loaded.retired
        return True
