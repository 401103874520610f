"""What the engine holds: leases, drains, and versions that are taken back in time."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.server.lifecycle.engine_set import EngineSet, Lease, LoadedVersion, ReplacedError

from tests.server.lifecycle.recording import RecordingEngine, engine_set, info, settle


def run(test: Callable[[RecordingEngine, EngineSet], Any], drain: float = 5.0) -> None:
    """Run a test in a loop of its own."""

    async def main() -> None:
        engine = RecordingEngine()
        await test(engine, engine_set(engine, drain))

    asyncio.run(main())


async def put(held: EngineSet, version: str, name: str = "a") -> LoadedVersion:
    """Load a version and point its name at it."""
    loaded = await held.load(name, info(version))
    await held.point(loaded, pinned=False)
    return loaded


async def endless(held: EngineSet, version: LoadedVersion) -> None:
    """A request that holds a version until it is cancelled."""
    lease = held.lease(version)
    try:
        await asyncio.Event().wait()
    finally:
        lease.release()


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


class Generation:
    """An endless generation: yields one output and then waits for the engine; knows whether it was aborted."""

    def __init__(self) -> None:
        self.aborted = False

    async def outputs(self) -> AsyncGenerator[str, None]:
        """Yield, and wait."""
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            self.aborted = True


async def read(held: EngineSet, loaded: LoadedVersion, generation: Generation) -> list[str]:
    """Read a generation to its end, which it does not reach."""
    return [output async for output in held.hold(loaded.lora_request, generation.outputs())]


def test_what_outlives_the_drain_is_aborted_with_an_error() -> None:
    """The generation and other work end with ReplacedError, none of it in silence, and the version leaves."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old, generation = await put(held, "v1"), Generation()
        reading = asyncio.create_task(read(held, old, generation))
        scoring = asyncio.create_task(held.finish(old.lora_request, asyncio.sleep(3600)))
        await asyncio.sleep(0)
        held.drop("a")
        for task in (reading, scoring):
            with pytest.raises(ReplacedError, match="repeat the request"):
                await task
        assert generation.aborted
        await settle(held)
        assert engine.held == set()

    run(test, drain=0.05)


def test_a_generation_that_begins_after_the_drain_is_refused() -> None:
    """Whether its version still waits for others, or is gone: the engine would load it again from its path."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old, generation = await put(held, "v1"), Generation()
        audit = Lease(old)
        held.drop("a")
        with pytest.raises(ReplacedError):
            await held.finish(old.lora_request, asyncio.sleep(3600))
        with pytest.raises(ReplacedError):
            await read(held, old, generation)
        audit.release()
        await settle(held)
        with pytest.raises(ReplacedError):
            await read(held, old, generation)
        with pytest.raises(ReplacedError):
            await held.finish(old.lora_request, asyncio.sleep(0))
        assert engine.held == set()

    run(test, drain=0.01)


def test_the_base_and_adapters_of_others_are_not_held() -> None:
    """A request without an adapter, or with one that vLLM was given at its start, passes as it is."""

    async def two() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    async def test(_engine: RecordingEngine, held: EngineSet) -> None:
        for lora in (None, SimpleNamespace(lora_name="static", lora_int_id=77)):
            assert [output async for output in held.hold(lora, two())] == [1, 2]
            assert await held.finish(lora, asyncio.sleep(0, "done")) == "done"

    run(test)


def test_a_request_that_does_not_even_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answer keeps no version in the engine."""
    monkeypatch.setattr("lorecall.server.lifecycle.engine_set.CUT_SECONDS", 0.05)

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")

        running = asyncio.create_task(endless(held, old))
        await asyncio.sleep(0)
        assert held.drop("a") is old
        await settle(held)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert engine.held == set()

    run(test, drain=0.05)


def test_what_is_expelled_does_not_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not end by its cut is cancelled, however long a replaced version might take."""
    monkeypatch.setattr("lorecall.server.lifecycle.engine_set.CUT_SECONDS", 0.05)

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        wrong = await put(held, "v1")

        running = asyncio.create_task(endless(held, wrong))
        await asyncio.sleep(0)
        await held.expel(wrong)
        assert running.cancelled()
        assert engine.held == set()

    run(test, drain=10_000)


def test_a_version_retired_again_has_one_drain() -> None:
    """The drain of the first time is over once the version is taken back: it cuts nobody's request early."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        first = await put(held, "v1")
        lease = held.lease(first)
        other = await put(held, "v2")
        before = first.drain
        assert await put(held, "v1") is first
        assert before is not None
        assert other.drain is not None
        await asyncio.wait([before, other.drain])
        assert before.cancelled()
        second = await put(held, "v3")
        assert first.drain not in (None, before)
        held.retire(first)
        drains = [task for task in held._tasks if not task.done()]
        assert len(drains) == 1
        lease.release()
        await settle(held)
        assert engine.held == {second.id}

    run(test, drain=60.0)


def test_a_version_is_loaded_once() -> None:
    """The one that is live is not loaded again, and retiring it by mistake does nothing."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        live = await put(held, "v1")
        assert await held.load("a", info("v1")) is live
        held.retire(live)
        await settle(held)
        assert engine.held == {live.id}

    run(test)


def test_a_removal_that_fails_is_tried_again() -> None:
    """The engine raises, for a pinned version too: looks go on until the id is removed."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await held.load("a", info("v1"))
        await held.point(old, pinned=True)
        engine.keep = True
        held.drop("a")
        await settle(held)
        for _ in range(3):
            await held.tiers()
        assert (engine.held, held.draining) == ({old.id}, 1)
        engine.keep = False
        for _ in range(2):
            await held.tiers()
        assert (engine.held, held.draining) == (set(), 0)

    run(test)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_load_that_ends_in_any_error_leaves_nothing(error: type[BaseException]) -> None:
    """What fails after the load, of whatever kind, takes the version out of the engine again."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        loaded = await held.load("a", info("v1"))
        with pytest.raises(error), held.leaving_on_error(loaded):
            raise error
        await settle(held)
        assert engine.held == set()

    run(test)


def test_a_load_that_the_engine_did_in_spite_of_its_error_is_undone() -> None:
    """It raises after it has taken the adapter in: the next look removes it."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        engine.refuse = engine.take = True
        with pytest.raises(AdapterError):
            await held.load("a", info("v1"))
        assert len(engine.held) == 1
        await held.tiers()
        assert engine.held == set()

    run(test)


def test_a_refused_version_changes_nothing() -> None:
    """The engine's refusal is an error without the engine's words, and the name keeps its version."""

    async def test(engine: RecordingEngine, held: EngineSet) -> None:
        old = await put(held, "v1")
        engine.refuse = True
        with pytest.raises(AdapterError, match="the engine refuses adapter 'a'") as caught:
            await held.load("a", info("v2"))
        assert "shapes" not in str(caught.value)
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
        one, other = Lease(loaded), Lease(loaded)
        one.release()
        one.release()
        assert not loaded.idle.is_set()
        other.release()
        assert loaded.idle.is_set()

    run(test)
