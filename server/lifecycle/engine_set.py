"""The versions that the engine holds for us, the requests that use them, and their removal.

Every version has an engine name of its own and an integer id that is never used again, so no key/value block of
one version can serve another. A version that is replaced takes no new request, drains, and is removed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorecall.adapters.core.errors import AdapterError, LorecallError, UsageError
from lorecall.adapters.core.tracing import span
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.server.observability.metrics import Metrics

logger = logging.getLogger("vllm.lorecall")

CUT_SECONDS = 10.0
"""How long the requests of a version that did not drain may take to answer that it was replaced."""

T = TypeVar("T")


class ReplacedError(LorecallError):
    """A request ran longer on a replaced version than the drain."""

    status = 503
    code = "version_replaced"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the version of {name!r} that answered this request was replaced, and its time to finish is over",
            hint="repeat the request: the new version answers it",
            param="model",
        )


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """One version under one name, loaded into the engine.

    Attributes:
        name: What callers write as `model`.
        info: The facts read from its files.
        lora_request: vLLM's request that selects it.
        leases: The requests that run on it.
        pinned: Whether the engine keeps it in memory.
        overdue: Whether its drain is over: what still runs on it, or begins, is cut.
        idle: Set while nothing runs on it.
        drain: The task that removes it once it is idle, while it is replaced.
    """

    name: str
    info: Adapter
    lora_request: Any
    leases: set["Lease"] = field(default_factory=set)
    pinned: bool = False
    overdue: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    drain: "asyncio.Task[None] | None" = None

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
        task: The task that is cancelled if the hold outlives even its cut, as where a client does not read its
            answer; None for no task.
    """

    def __init__(self, loaded: LoadedVersion, task: "asyncio.Task[Any] | None" = None) -> None:
        self.loaded = loaded
        self.task = task
        self._is_cut = loaded.overdue
        self._waiting: asyncio.Timeout | None = None
        loaded.leases.add(self)
        loaded.idle.clear()

    @property
    def lora_request(self) -> Any:
        """The engine's request for the version."""
        return self.loaded.lora_request

    @property
    def version(self) -> str:
        """The version's digest."""
        return self.loaded.version

    def release(self) -> None:
        """End the hold; a second call does nothing."""
        self.loaded.leases.discard(self)
        if not self.loaded.leases:
            self.loaded.idle.set()

    def cut(self) -> None:
        """Cancel what `wait` waits for, now or later: the drain is over."""
        if not self._is_cut:
            self._is_cut = True
            if self._waiting is not None:
                self._waiting.reschedule(0)

    async def wait(self, work: Awaitable[T]) -> T:
        """Return what the engine answers; one wait at a time.

        Raises:
            ReplacedError: The lease was cut; the work is cancelled, which aborts the engine's request.
        """
        try:
            async with asyncio.timeout_at(0 if self._is_cut else None) as self._waiting:
                found = await work
        except TimeoutError:
            if not self._is_cut:
                raise
        else:
            if not self._is_cut:
                return found
        finally:
            self._waiting = None
        raise ReplacedError(self.loaded.name)


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
        """The number of versions that wait for their last request, or that the engine did not remove yet."""
        return len(self._draining) + len(self._removed & set(self._tiers["memory"]))

    def of(self, lora_request: Any) -> LoadedVersion | None:
        """Return the version that a LoRA request selects, live or draining; None if it is not ours."""
        held = (*self.live.values(), *self._draining.values())
        return next((one for one in held if one.lora_request is lora_request), None)

    def lease(self, loaded: LoadedVersion) -> Lease:
        """Hold a version for the current task."""
        self._used = True
        return Lease(loaded, asyncio.current_task())

    async def hold(self, lora_request: Any, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yield what a generation yields, holding its version.

        Raises:
            ReplacedError: The version's drain is over; the generation is aborted.
        """
        async with contextlib.aclosing(stream), self._held(lora_request) as lease:
            if lease is None:
                async for output in stream:
                    yield output
                return
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield await lease.wait(anext(stream))

    async def finish(self, lora_request: Any, work: Coroutine[Any, Any, T]) -> T:
        """Return what work on a version returns, holding the version.

        Raises:
            ReplacedError: The version's drain is over; the work is cancelled.
        """
        with contextlib.closing(work):
            async with self._held(lora_request) as lease:
                return await (work if lease is None else lease.wait(work))

    @contextlib.asynccontextmanager
    async def _held(self, lora_request: Any) -> AsyncIterator[Lease | None]:
        """Hold the version that a LoRA request selects; None for the base and for what is not ours."""
        loaded = self.of(lora_request) if lora_request is not None else None
        if loaded is None:
            if lora_request is not None and lora_request.lora_int_id in self._removed:
                raise ReplacedError(lora_request.lora_name)
            yield None
            return
        lease = Lease(loaded)
        try:
            yield lease
        finally:
            lease.release()

    async def load(self, name: str, info: Adapter) -> LoadedVersion:
        """Have the engine load a version, without any name pointing at it yet.

        The version that is live is returned as it is, and one that is still draining is used again.

        Raises:
            AdapterError: The engine refuses it.
        """
        live = self.live.get(name)
        if live is not None and live.version == info.version:
            return live
        draining = self._draining.pop((name, info.version), None)
        if draining is not None:
            if draining.drain is not None:
                draining.drain.cancel()
            draining.drain, draining.overdue = None, False
            return draining
        request = self._new_request(name, info)
        self._used = True
        started = time.perf_counter()
        try:
            with span("load", adapter=name, version=info.version):
                await self._engine.add_lora(request)
        except BaseException as error:
            self._removed.add(int(request.lora_int_id))  # the engine may hold it nevertheless: see `tiers`
            if not isinstance(error, Exception):
                raise
            # vLLM raises whatever the worker raised: words for the operator, with paths of the server's own.
            logger.warning("the engine refuses adapter %s: %s", name, error)
            raise AdapterError(
                f"the engine refuses adapter {name!r} ({type(error).__name__})",
                hint="train it for this base; the server's log has the engine's words",
                param="source",
            ) from error
        self._metrics.load_seconds.observe(time.perf_counter() - started)
        return LoadedVersion(name, info, request)

    @contextlib.contextmanager
    def leaving_on_error(self, loaded: LoadedVersion) -> Iterator[None]:
        """Retire a loaded version if the block, which makes it live, fails in any way."""
        try:
            yield
        except BaseException:
            self.retire(loaded)
            raise

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

    async def expel(self, loaded: LoadedVersion) -> None:
        """Remove a version that must answer no more, and wait until it is gone: what runs on it is cut."""
        if self.live.get(loaded.name) is not loaded:
            return
        del self.live[loaded.name]
        _cut(loaded)
        self.retire(loaded)
        if loaded.drain is not None:
            await loaded.drain

    def retire(self, loaded: LoadedVersion) -> None:
        """Let a version drain: it takes no new request, those that run finish, then it is removed.

        One that is live, or drains already, is left as it is.
        """
        key = (loaded.name, loaded.version)
        if self.live.get(loaded.name) is loaded or self._draining.get(key) is loaded:
            return
        self._draining[key] = loaded
        loaded.drain = asyncio.create_task(self._drain(loaded))
        self._tasks.add(loaded.drain)
        loaded.drain.add_done_callback(self._tasks.discard)

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
            await self._remove(still_there)
        return self._tiers

    async def _drain(self, loaded: LoadedVersion) -> None:
        """Remove a version once it is idle. `load` cancels this while it waits, and then starts it no more."""
        if not loaded.overdue and not await idle_within(loaded, self.capacity.drain_seconds):
            logger.warning(
                "%s did not drain in %g s: the requests that run on it end with an error",
                loaded.lora_request.lora_name,
                self.capacity.drain_seconds,
            )
            _cut(loaded)
        if loaded.overdue and not await idle_within(loaded, CUT_SECONDS):
            for lease in list(loaded.leases):
                if lease.task is not None:
                    lease.task.cancel()
            await loaded.idle.wait()
        del self._draining[loaded.name, loaded.version]
        self._removed.add(loaded.id)
        await self._remove(loaded.id)

    async def _remove(self, lora_id: int) -> None:
        """Have the engine remove an adapter; one that is still there later is removed again by `tiers`."""
        self._used = True
        try:
            await self._engine.collective_rpc("lorecall_pin_adapter", args=(lora_id, False))
            await self._engine.remove_lora(lora_id)
        except Exception:  # vLLM raises whatever the worker raised
            logger.exception("the engine did not remove adapter %d; it is asked again", lora_id)


def _cut(loaded: LoadedVersion) -> None:
    """Cut what runs on a version, and what begins on it from now on."""
    loaded.overdue = True
    for lease in list(loaded.leases):
        lease.cut()


async def idle_within(loaded: LoadedVersion, seconds: float) -> bool:
    """Wait until nothing runs on a version; return whether that was so in time."""
    try:
        await asyncio.wait_for(loaded.idle.wait(), seconds)
    except TimeoutError:
        return False
    return True
