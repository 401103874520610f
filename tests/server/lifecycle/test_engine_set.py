"""What the engine holds: leases, drains, and versions that are taken back in time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.server.lifecycle.engine_set import Capacity, EngineSet, Lease, LoadedVersion
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry


class RecordingEngine:
    """Keeps the ids that were added and not removed; refuses what it is told to."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.refuse = False
        self.asked = 0

    async def add_lora(self, request: Any) -> None:
        """Add an adapter."""
        if self.refuse:
            raise ValueError("shapes")
        self.held.add(request.lora_int_id)

    async def remove_lora(self, lora_id: int) -> None:
        """Remove one."""
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


def run(test: Callable[[RecordingEngine, EngineSet], Any], drain: float = 5.0) -> None:
    """Run a test in a loop of its own."""

    async def main() -> None:
        engine = RecordingEngine()
        await test(engine, engine_set(engine, drain))

    asyncio.run(main())


async def settle(held: EngineSet) -> None:
    """Let every drain finish."""
    await asyncio.gather(*held._tasks)


async def put(held: EngineSet, version: str, name: str = "a") -> LoadedVersion:
    """Load a version and point its name at it."""
    loaded = await held.load(name, info(version))
    await held.point(loaded, pinned=False)
    return loaded


def test_a_replaced_version_leaves_after_its_last_lease() -> None:
    """While a request holds it, it stays in the engine; then it is removed."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")
        lease = held.lease(old)
        new = await put(held, "v2")
        await asyncio.sleep(0.05)
        assert engine.held == {old.id, new.id}
        assert held.live["a"] is new
        assert held.of(old.lora_request) is old
        lease.release()
        await settle(held)
        assert engine.held == {new.id}
        assert held.draining == 0

    run(test)


def test_a_version_on_its_way_out_is_taken_back() -> None:
    """Rolling back to a version that still drains loads nothing and removes nothing of it."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")
        lease = held.lease(old)
        new = await put(held, "v2")
        assert await put(held, "v1") is old
        lease.release()
        await settle(held)
        assert engine.held == {old.id}
        assert new.id != old.id
        again = await put(held, "v2")
        assert again.id not in (old.id, new.id)

    run(test)


def test_a_drain_is_bounded() -> None:
    """What outlives the drain is cancelled, and the version still leaves."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")

        async def request() -> None:
            lease = held.lease(old)
            try:
                await asyncio.sleep(60)
            finally:
                lease.release()

        running = asyncio.create_task(request())
        await asyncio.sleep(0)
        assert held.drop("a") is old
        await settle(held)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert engine.held == set()

    run(test, drain=0.05)


def test_a_refused_version_changes_nothing() -> None:
    """The engine's refusal is an error with its reason, and the name keeps its version."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")
        engine.refuse = True
        with pytest.raises(AdapterError, match="shapes"):
            await held.load("a", info("v2"))
        assert held.live["a"] is old

    run(test)


def test_strays_are_removed() -> None:
    """An id that was removed and came back, as by a request of the last moment, is removed again."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")
        held.drop("a")
        await settle(held)
        engine.held.add(old.id)
        await held.tiers()
        assert engine.held == set()

    run(test)


def test_an_idle_engine_is_left_alone() -> None:
    """The engine is asked where its adapters sit while something runs or has changed, and then no more."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        first = await put(held, "v1")
        await held.tiers()
        assert engine.asked == 1
        lease = held.lease(first)
        await held.tiers()
        await held.tiers()
        assert engine.asked == 3
        lease.release()
        assert (await held.tiers())["memory"] == [first.id]
        assert engine.asked == 4
        assert (await held.tiers())["memory"] == [first.id]
        assert engine.asked == 4

    run(test)


def test_pins_leave_room_for_a_batch() -> None:
    """Memory for 3 and batches of 2 allow one pin; its own name may move on to another version."""

    async def test(_engine: RecordingEngine, held: EngineSet) -> None:
        first = await held.load("a", info("v1"))
        await held.point(first, pinned=True)
        other = await put(held, "v1", "b")
        with pytest.raises(UsageError, match="1 adapters are pinned"):
            await held.pin(other, pinned=True)
        await held.point(await held.load("a", info("v2")), pinned=True)
        assert not first.pinned
        assert held.live["a"].pinned

    run(test)


def test_a_lease_is_released_once() -> None:
    """Releasing twice does not free what another request holds."""

    async def test(_engine: RecordingEngine, held: EngineSet) -> None:
        loaded = await put(held, "v1")
        one, other = Lease(loaded, None), Lease(loaded, None)
        one.release()
        one.release()
        assert not loaded.idle.is_set()
        other.release()
        assert loaded.idle.is_set()

    run(test)
