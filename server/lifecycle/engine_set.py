"""The versions that the engine holds for us: who is using them, and their way out.

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
    """One version under one name, known to the engine.

    Attributes:
        name: What callers write as `model`.
        info: What the files say.
        lora_request: How the engine knows it.
        leases: The requests that run on it.
        retired: Whether it is on its way out.
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
        task: What runs on it, to be cancelled if it outlives the drain.
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
        """Let go; a second call does nothing."""
        self.loaded.leases.discard(self)
        if not self.loaded.leases:
            self.loaded.idle.set()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine was started for.

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
        """Adapters that may be pinned: a full batch must always find room beside them in memory."""
        return max(0, self.memory - self.slots)


class EngineSet:
    """Loads versions into the engine, points names at them, and removes what is replaced.

    Args:
        engine: vLLM's client of the engine.
        new_request: Makes the engine's request for (name, info), with a fresh id.
        capacity: What the engine was started for.
        metrics: What is counted.
    """

    def __init__(self, engine: Any, new_request: Any, capacity: Capacity, metrics: Metrics) -> None:
        self._engine = engine
        self._new_request = new_request
        self.capacity = capacity
        self._metrics = metrics
        self.live: dict[str, LoadedVersion] = {}
        self._leaving: dict[tuple[str, str], LoadedVersion] = {}
        self._gone: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tiers: dict[str, list[int]] = {"slots": [], "memory": []}
        self._moved = False

    @property
    def engine_is_gone(self) -> bool:
        """Whether the engine has ended, as it does when the server stops."""
        return bool(getattr(self._engine, "errored", False))

    @property
    def draining(self) -> int:
        """Versions on their way out."""
        return len(self._leaving)

    def of(self, lora_request: Any) -> LoadedVersion | None:
        """Return the version that a LoRA request stands for, live or leaving; None if it is not ours."""
        held = (*self.live.values(), *self._leaving.values())
        return next((one for one in held if one.lora_request is lora_request), None)

    def lease(self, loaded: LoadedVersion) -> Lease:
        """Hold a version for the current task."""
        self._moved = True
        return Lease(loaded, asyncio.current_task())

    async def load(self, name: str, info: Adapter) -> LoadedVersion:
        """Have the engine load a version, without any name pointing at it yet.

        A version that is still draining is taken back instead.

        Raises:
            AdapterError: The engine refuses it.
        """
        leaving = self._leaving.pop((name, info.version), None)
        if leaving is not None:
            leaving.retired = False
            return leaving
        request = self._new_request(name, info)
        self._moved = True
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
        """Make a loaded version the one that its name answers with: one step; the one before leaves."""
        before = self.live.get(loaded.name)
        if before is not None and before is not loaded and before.pinned:
            await self.pin(before, pinned=False)
        if pinned != loaded.pinned:
            await self.pin(loaded, pinned=pinned)
        self.live[loaded.name] = loaded
        if before is not None and before is not loaded:
            self.retire(before)

    def drop(self, name: str) -> LoadedVersion | None:
        """Take a name out of service; its version leaves."""
        loaded = self.live.pop(name, None)
        if loaded is not None:
            self.retire(loaded)
        return loaded

    def retire(self, loaded: LoadedVersion) -> None:
        """Send a version on its way out: nothing new runs on it, what runs finishes, then it is removed."""
        loaded.retired = True
        self._leaving[loaded.name, loaded.version] = loaded
        task = asyncio.create_task(self._leave(loaded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def pin(self, loaded: LoadedVersion, *, pinned: bool) -> None:
        """Keep a version in the engine's memory, or no longer.

        Raises:
            UsageError: Too many are pinned already.
        """
        self._moved = True
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
        """Return which ids are in the engine's slots and in its memory; strays are removed on the way.

        An engine in which nothing has run since the last time is not asked again: its worker spins on a core
        for a second after each message, so asking every second would keep an idle server's core busy.
        """
        if not self.capacity.slots or not self._moved:
            return self._tiers
        held = (*self.live.values(), *self._leaving.values())
        self._moved = any(one.leases for one in held)
        self._tiers = (await self._engine.collective_rpc("lorecall_adapter_tiers"))[0]
        for stray in self._gone & set(self._tiers["memory"]):
            self._moved = True
            await self._engine.remove_lora(stray)
        return self._tiers

    async def _leave(self, loaded: LoadedVersion) -> None:
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
        if not loaded.retired or self._leaving.get(key) is not loaded:
            return  # taken back meanwhile
        del self._leaving[key]
        if loaded.pinned:
            await self._engine.collective_rpc("lorecall_pin_adapter", args=(loaded.id, False))
        await self._engine.remove_lora(loaded.id)
        self._moved = True
        self._gone.add(loaded.id)

    async def _drained(self, loaded: LoadedVersion) -> bool:
        try:
            await asyncio.wait_for(loaded.idle.wait(), self.capacity.drain_seconds)
        except TimeoutError:
            return not loaded.retired
        return True
