"""A version that the engine loads again is compared with its first answer, and is not served if it differs."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.registry.tables import State
from lorecall.server.lifecycle.control_plane import AdapterUnavailableError
from lorecall.server.lifecycle.engine_set import Lease, LoadedVersion, ReplacedError
from lorecall.server.lifecycle.load_checks import LoadChecks

from tests.server.lifecycle.recording import Server, World, settle

Answers = dict[int, tuple[float, ...]]
"""What the engine says by an adapter's id; (-1.0, -2.0) for any other."""


class Checked:
    """A server with one adapter, whose loads are all checked."""

    def __init__(self, world: World, share: float = 1.0, epsilon: float = 0.0) -> None:
        self.server: Server = world.server("one")
        self.plane, self.answers, self.asked = self.server.plane, Answers(), 0
        self.epsilon, self.measured, self.fails = epsilon, 0, False
        self.plane.load_checks = LoadChecks(self.score, share, self.measure, self.server.metrics)

    async def score(self, request: Any) -> tuple[float, ...]:
        """Answer as the engine would."""
        self.asked += 1
        return self.answers.get(request.lora_int_id, (-1.0, -2.0))

    async def measure(self) -> float:
        """Return ε as a server does that measures when it is first asked: neither lock may be held then."""
        self.measured += 1
        assert not self.plane._engine_turn.locked()
        assert not any(turn.locked() for turn in self.plane._name_turns.values())
        if self.fails:
            raise RuntimeError("the engine died")
        return self.epsilon

    async def poll(self) -> None:
        """Look at what the engine holds, as the follower does, and wait for the checks."""
        self.server.engine_set._used = True
        await self.plane.refresh_tiers()
        await asyncio.gather(*self.plane._checking)

    async def load_again(self, loaded: LoadedVersion) -> None:
        """Have the engine evict it, and load it for a request."""
        self.server.engine.held.discard(loaded.id)
        await self.poll()
        self.server.engine.held.add(loaded.id)
        await self.poll()

    def count(self, result: str) -> float:
        """How many checks came to that."""
        return float(self.server.metrics.load_checks.labels(result)._value.get())


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop; what hangs fails."""
    asyncio.run(asyncio.wait_for(test(), 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_version_that_answers_otherwise_is_loaded_anew(world: World) -> None:
    """Its requests end, its name answers through a fresh load, and both are counted."""

    async def test() -> None:
        checked = Checked(world)
        plane = checked.plane
        await plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        first = await plane.loaded("acme")
        await checked.load_again(first)
        assert (checked.count("same"), checked.count("different")) == (1, 0)
        checked.answers[first.id] = (-1.0, -2.5)
        lease = plane.engine_set.lease(first)
        waiting = asyncio.create_task(lease.wait(asyncio.sleep(30)))
        waiting.add_done_callback(lambda _: lease.release())
        await checked.load_again(first)
        assert isinstance(waiting.exception(), Exception)
        assert checked.count("different") == 1
        assert "acme" not in plane.engine_set.live
        assert first.id not in checked.server.engine.held
        second = await plane.loaded("acme")
        assert second.id != first.id
        assert checked.count("same") == 2

    run(test)


def test_others_are_loaded_while_one_leaves(world: World) -> None:
    """A client that does not read its answer holds the version, and only that."""

    async def test() -> None:
        checked = Checked(world)
        plane = checked.plane
        await plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        first = await plane.loaded("acme")
        checked.answers[first.id] = (-1.0, -2.5)
        unread = Lease(first)
        waiting = asyncio.create_task(unread.wait(asyncio.sleep(60)))
        leaving = asyncio.create_task(checked.load_again(first))
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), ReplacedError)
        await plane.add("other", world.adapter(2), actor="test")
        assert (await plane.loaded("other")).name == "other"
        assert not leaving.done()
        unread.release()
        await leaving
        assert first.id not in checked.server.engine.held

    run(test)


def test_one_that_still_does_is_not_served(world: World) -> None:
    """It is unavailable with the reason, not wrong; once it answers as at first, it is served again."""

    async def test() -> None:
        checked = Checked(world)
        plane = checked.plane
        await plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        wrong = dict.fromkeys(range(20), (-9.0, -9.0))
        checked.answers |= wrong
        await checked.load_again(await plane.loaded("acme"))
        for _ in range(2):
            with pytest.raises(AdapterUnavailableError, match="answers otherwise") as caught:
                await plane.loaded("acme")
            assert isinstance(caught.value.__cause__, AdapterError)
        assert checked.count("different") == 3
        checked.answers.clear()
        await settle(plane.engine_set)
        assert (await plane.loaded("acme")).name == "acme"

    run(test)


def test_no_way_in_takes_one_that_still_does(world: World) -> None:
    """Nor does another name go live with it, nor an audit judge it; once it answers as at first, both do."""

    async def test() -> None:
        checked = Checked(world)
        plane, engine_set = checked.plane, checked.server.engine_set
        record = await plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        checked.answers |= dict.fromkeys(range(20), (-9.0, -9.0))
        await checked.load_again(await plane.loaded("acme"))
        with pytest.raises(AdapterError, match="answers otherwise"):
            await plane.add("twin", world.adapter(1), actor="test")
        assert plane.registry.version("twin", record.version).state is State.RETIRED
        with pytest.raises(AdapterError, match="answers otherwise"):
            await plane.candidate(record)
        await settle(engine_set)
        assert not checked.server.engine.held
        checked.answers.clear()
        assert (await plane.add("twin", world.adapter(1), actor="test")).state is State.LIVE
        candidate = await plane.candidate(record)
        assert candidate.name == "acme"
        engine_set.retire(candidate)
        await settle(engine_set)

    run(test)


@pytest.mark.parametrize(("moved", "epsilon", "result"), [(0.05, 0.0, "different"), (0.05, 0.03, "same")])
def test_the_engines_own_error_is_no_difference(
    world: World, moved: float, epsilon: float, result: str
) -> None:
    """A token may move by twice the measured ε."""

    async def test() -> None:
        checked = Checked(world, epsilon=epsilon)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        loaded = await checked.plane.loaded("acme")
        checked.answers[loaded.id] = (-1.0, -2.0 - moved)
        await checked.load_again(loaded)
        assert checked.count(result) == 1

    run(test)


def test_epsilon_is_measured_before_anything_is_taken_out_and_not_sooner(world: World) -> None:
    """An engine with an ε of a tenth moves a sound adapter by more than the least tolerance."""

    async def test() -> None:
        checked = Checked(world, epsilon=0.1)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        loaded = await checked.plane.loaded("acme")
        await checked.load_again(loaded)
        assert checked.measured == 0
        checked.answers[loaded.id] = (-1.0, -2.15)
        await checked.load_again(loaded)
        assert (checked.measured, checked.count("different")) == (1, 0)
        assert checked.plane.engine_set.live["acme"] is loaded

    run(test)


def test_nothing_is_taken_out_while_epsilon_is_not_known(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A measurement that fails says nothing of the adapter."""

    async def test() -> None:
        checked = Checked(world)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        loaded = await checked.plane.loaded("acme")
        checked.fails, checked.answers[loaded.id] = True, (-1.0, -9.0)
        await checked.load_again(loaded)
        assert checked.plane.engine_set.live["acme"] is loaded

    run(test)
    assert "was not checked after its load" in caplog.text


def test_what_is_no_number_is_different(world: World) -> None:
    """Wherever in the text it is: a comparison with it is neither more nor less."""

    async def test() -> None:
        checked = Checked(world)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        loaded = await checked.plane.loaded("acme")
        checked.answers[loaded.id] = (-1.0, math.nan)
        await checked.load_again(loaded)
        assert checked.count("different") == 1

    run(test)


def test_many_loads_take_a_small_share_of_the_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is checked as time allows: first what has an answer to compare with; what was evicted is not."""

    async def test() -> None:
        checked, rests = Checked(world), list[float]()
        loaded = {}
        for number in (1, 2, 3, 4):
            name = f"acme-{number}"
            await checked.plane.add(name, world.adapter(number), actor="test")
            loaded[number] = checked.server.engine_set.live[name]
        known, checks = loaded[1], checked.plane.load_checks
        assert checks is not None
        assert not await checks.differs(known)
        order = list[int]()

        async def score(request: Any) -> tuple[float, ...]:
            order.append(request.lora_int_id)
            clock[0] += 0.1
            return (-1.0, -2.0)

        async def rest(seconds: float) -> None:
            rests.append(seconds)
            if len(rests) == 2:  # evicted before its turn
                checked.server.engine.held.discard(loaded[2].id)
                checked.server.engine_set._used = True
                await checked.plane.refresh_tiers()

        clock = [0.0]
        checks._score = score
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: clock[0])
            patch.setattr(asyncio, "sleep", rest)
            await checked.poll()
        assert order == [known.id, loaded[4].id, loaded[3].id]
        assert rests == pytest.approx([5.0, 5.0, 5.0])

    run(test)


def test_none_is_checked_without_a_share(world: World) -> None:
    """Zero asks the engine nothing."""

    async def test() -> None:
        checked = Checked(world, share=0.0)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        await checked.poll()
        await checked.load_again(await checked.plane.loaded("acme"))
        assert checked.asked == 0

    run(test)


def test_a_failing_engine_fails_no_poll(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be scored is logged, and served: that it differs is not known."""

    async def test() -> None:
        checked = Checked(world)
        await checked.plane.add("acme", world.adapter(1), actor="test")
        checked.answers = None  # type: ignore[assignment]  # any error
        await checked.poll()
        assert "acme" in checked.plane.engine_set.live

    run(test)
    assert "was not checked after its load" in caplog.text
