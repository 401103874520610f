"""One server's adapters: what is slow holds up nothing else, and what fails leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from sqlalchemy.exc import OperationalError

from tests.server.lifecycle.recording import World, settle


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop; what hangs fails."""
    asyncio.run(asyncio.wait_for(test(), 120))


def test_slow_downloads_hold_up_nothing_else(world: World) -> None:
    """Forty adds that do not get on: the database is read, names move, are fetched, loaded and removed."""

    async def test() -> None:
        server = world.server("one")
        plane = server.plane
        for rank in (1, 2):
            await plane.add("moving", world.adapter(rank), actor="test")
        await plane.add("going", world.adapter(3), actor="test")
        await world.server("two").plane.add("elsewhere", world.adapter(5), actor="test")
        again = world.server("one")  # on the same store, with nothing loaded
        plane = again.plane
        await plane.follow("moving")
        await plane.follow("going", load=False)
        plane.engine_set.drop("going")
        again.adds.clear()
        slow = [
            asyncio.create_task(plane.add(f"slow-{number}", world.adapter(4), actor="test"))
            for number in range(40)
        ]
        await again.has_asked(6)
        names = ["elsewhere", "going", "moving"]
        assert [one.name for one in await asyncio.to_thread(world.registry.adapters)] == names
        await plane.rollback("moving", actor="test")
        assert plane.engine_set.live["moving"].info.rank == 1
        assert (await plane.loaded("going")).info.rank == 3
        await plane.follow("elsewhere")
        assert plane.engine_set.live["elsewhere"].info.rank == 5
        await plane.remove("going", actor="test")
        assert not plane.known("going")
        assert not any(task.done() for task in slow)
        again.adds.set()
        assert {record.state for record in await asyncio.gather(*slow)} == {State.LIVE}

    run(test)


def test_a_second_add_of_a_name_says_that_one_is_under_way(world: World) -> None:
    """409 at once, whatever it would add; afterwards the name may be added to again."""

    async def test() -> None:
        server = world.server("one")
        server.adds.clear()
        first = asyncio.create_task(server.plane.add("acme", world.adapter(1), actor="test"))
        await server.has_asked(1)
        with pytest.raises(ConflictError, match="being added by another request"):
            await server.plane.add("acme", world.adapter(2), actor="test")
        server.adds.set()
        assert (await first).state is State.LIVE
        assert (await server.plane.add("acme", world.adapter(2), actor="test")).state is State.LIVE
        with pytest.raises(RefusedError, match="there is no adapter"):
            await server.plane.add("acme", str(world.work / "models" / "nowhere"), actor="test")
        await server.plane.add("acme", world.adapter(1), actor="test")

    run(test)


def test_requests_for_one_cold_adapter_share_its_download(world: World) -> None:
    """Each waits for it, one fetches it, and one load follows; one that goes away takes nothing with it."""

    async def test() -> None:
        await world.server("one").plane.add("cold", world.adapter(1), actor="test")
        server = world.server("two")
        await server.plane.follow("cold", load=False)
        server = world.server("three")
        server.plane._adapters["cold"] = world.registry.adapter("cold")
        server.arrive.clear()
        waiting = [asyncio.create_task(server.plane.loaded("cold")) for _ in range(5)]
        await server.has_asked(1)
        waiting.pop(0).cancel()
        server.arrive.set()
        assert len({one.id for one in await asyncio.gather(*waiting)}) == 1
        assert server.pipeline.fetches == 1
        assert len(server.engine.held) == 1

    run(test)


def test_a_name_is_removed_while_its_next_version_is_fetched(world: World) -> None:
    """It is gone at once; what arrives later is not loaded."""

    async def test() -> None:
        server, other = world.server("one"), world.server("two")
        await server.plane.add("acme", world.adapter(1), actor="test")
        await other.plane.add("acme", world.adapter(2), actor="test")
        server.arrive.clear()
        following = asyncio.create_task(server.plane.follow("acme"))
        await server.has_asked(1)
        await server.plane.remove("acme", actor="test")
        assert not server.plane.engine_set.live
        server.arrive.set()
        await following
        await settle(server.engine_set)
        assert not server.plane.engine_set.live
        assert server.engine.held == set()

    run(test)


@pytest.mark.parametrize(
    "error", [OperationalError("INSERT", {}, Exception("disk I/O error")), RuntimeError()]
)
def test_a_version_that_cannot_be_made_live_leaves_the_engine(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The registry's write fails after the load, in whatever way: the version before stays, and nothing else."""

    async def test() -> None:
        server = world.server("one")
        await server.plane.add("acme", world.adapter(1), actor="test")
        before = server.engine_set.live["acme"]

        def fail(*_values: Any, **_names: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(world.registry, "activate", fail)
            with pytest.raises(type(error)):
                await server.plane.add("acme", world.adapter(2), actor="test")
        await settle(server.engine_set)
        assert server.engine_set.live["acme"] is before
        assert server.engine.held == {before.id}

    run(test)


def test_a_version_that_cannot_be_pinned_leaves_the_engine(world: World) -> None:
    """Another server pinned more than this one has room for: what was loaded for it is removed again."""

    async def test() -> None:
        server = world.server("one")
        for rank, name in enumerate(("first", "second"), 1):
            await server.plane.add(name, world.adapter(rank), actor="test")
            world.registry.pin(name, pinned=True, actor="test")
        fresh = world.server("two")
        await fresh.plane.follow("first")
        with pytest.raises(UsageError, match="pinned"):
            await fresh.plane.follow("second")
        await settle(fresh.engine_set)
        assert fresh.engine.held == {fresh.engine_set.live["first"].id}

    run(test)


def test_thousands_of_cold_names_are_noted_in_few_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine follows as many as its memory holds; what is newer than a page of reads is not overwritten."""

    async def test() -> None:
        first = world.server("one")
        for number in range(12):
            await first.plane.add(f"name-{number:02}", world.adapter(1 + number % 2), actor="test")
        await first.plane.remove("name-11", actor="test")
        server, reads = world.server("two"), list[int]()
        whole = type(world.registry).versions_of

        def counted(registry: Registry, names: Sequence[str], *, limit: int) -> Any:
            reads.append(len(names))
            return whole(registry, names, limit=limit)

        monkeypatch.setattr(Registry, "versions_of", counted)
        changes = world.registry.changes(0)
        follow = await server.plane.note(changes.adapters)
        assert follow == [f"name-{number:02}" for number in range(3)]
        assert reads == [8]
        assert server.plane.live_versions().keys() == {f"name-{number:02}" for number in range(3, 11)}
        before = server.plane.live_versions()["name-05"]
        await server.plane.add("name-05", world.adapter(7), actor="test")
        await server.plane.note([one for one in changes.adapters if one.name == "name-06"])
        stale = next(one for one in changes.adapters if one.name == "name-05")
        server.plane._know(stale, world.registry.version("name-05", before))
        assert server.plane.live_versions()["name-05"] != before
        assert await server.plane.note([stale]) == ["name-05"]  # the engine has it: it is followed

    run(test)


def test_two_that_ask_at_once_count_an_eviction_once(world: World) -> None:
    """A scrape and a list of the adapters may meet."""

    async def test() -> None:
        server = world.server("one")
        plane, held = server.plane, server.plane.engine_set
        await plane.add("a", world.adapter(1), actor="test")
        await plane.refresh_tiers()
        both = asyncio.Barrier(2)

        async def tiers() -> dict[str, list[int]]:
            await both.wait()  # both have asked before either is answered
            return {"slots": [], "memory": []}

        held.tiers = tiers  # type: ignore[method-assign]
        await asyncio.gather(plane.refresh_tiers(), plane.refresh_tiers())
        evictions = plane._metrics.evictions.labels("memory")._value.get()
        assert evictions == 1

    run(test)
