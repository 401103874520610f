"""The follower: nothing is left unfollowed, whatever fails; that servers converge is in fleet/."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.registry.database import RegistryUnavailableError
from lorecall.server.lifecycle.follower import (
    COLLECT_S,
    MOST_KEYS_RETRY_S,
    MOST_RETRY_S,
    RETRY_S,
    Due,
    Follower,
)
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry

from tests.server.lifecycle.recording import Server, World


class Changing:
    """A registry whose names change as a test says, and a plane that follows them as it says.

    Attributes:
        now: The revision.
        names: The names that changed, each with its revision.
        errors: What following a name raises.
        followed: The names that were followed.
        slow: Names that are followed for ever.
    """

    def __init__(self) -> None:
        self.now = 0
        self.names: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.followed: list[str] = []
        self.slow: set[str] = set()
        self.registry = self
        self.key_error: Exception | None = None
        self.key_loads = 0
        self.capacity = SimpleNamespace(memory=3)

    def change(self, *names: str) -> None:
        """Change names, or only a key."""
        self.now += 1
        self.names |= dict.fromkeys(names, self.now)

    def revision(self) -> int:
        """The number of changes."""
        return self.now

    def changes(self, since: int) -> Any:
        """The names that changed since then."""
        names = [SimpleNamespace(name=name) for name, at in self.names.items() if at > since]
        return SimpleNamespace(revision=self.now, adapters=names)

    async def note(self, adapters: list[Any]) -> list[str]:
        """Have all names followed."""
        return [one.name for one in adapters]

    async def follow(self, name: str, *, load: bool) -> None:
        """Follow one, or fail."""
        assert not load
        if name in self.slow:
            await asyncio.Event().wait()
        if name in self.errors:
            raise self.errors[name]
        self.followed.append(name)

    def reload_keys(self) -> None:
        """Reload, or fail."""
        if self.key_error is not None:
            raise self.key_error
        self.key_loads += 1


def run(
    monkeypatch: pytest.MonkeyPatch,
    test: Callable[[Changing, Callable[[float], Awaitable[None]], Metrics], Awaitable[None]],
) -> None:
    """Run a test with a clock of its own; its second argument polls at a time."""

    async def main() -> None:
        plane: Any = Changing()
        metrics, clock = Metrics(4, CollectorRegistry()), [0.0]
        monkeypatch.setattr(
            "lorecall.server.lifecycle.follower.time", SimpleNamespace(monotonic=lambda: clock[0])
        )
        follower = Follower(plane, metrics, 1.0, plane.reload_keys)

        async def poll(now: float) -> None:
            clock[0] = now
            await follower.catch_up()
            for _ in range(3):
                await asyncio.sleep(0)

        await test(plane, poll, metrics)

    asyncio.run(main())


def shown(metrics: Metrics, name: str) -> float:
    return metrics._registry.get_sample_value(f"lorecall_registry_{name}") or 0.0


@pytest.mark.parametrize("error", [RegistryUnavailableError("gone"), RuntimeError("a bug"), KeyError("x")])
def test_a_name_that_fails_holds_up_no_other_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever was raised, and though the registry changes no more; metrics show it meanwhile."""

    async def test(plane: Changing, poll: Callable[[float], Awaitable[None]], metrics: Metrics) -> None:
        plane.change("a", "bad", "c")
        plane.errors["bad"] = error
        await poll(0.0)
        assert plane.followed == ["a", "c"]
        assert (shown(metrics, "not_followed"), shown(metrics, "follow_failures_total")) == (1.0, 1.0)
        await poll(RETRY_S / 2)
        assert shown(metrics, "follow_failures_total") == 1.0
        await poll(RETRY_S)
        assert shown(metrics, "follow_failures_total") == 2.0
        del plane.errors["bad"]
        await poll(2 * RETRY_S)
        assert "bad" not in plane.followed
        await poll(3 * RETRY_S)
        assert plane.followed == ["a", "c", "bad"]
        assert shown(metrics, "not_followed") == 0.0

    run(monkeypatch, test)


@pytest.mark.parametrize("error", [RegistryUnavailableError("gone"), RuntimeError("a bug")])
def test_keys_that_could_not_be_reloaded_are_reloaded_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A revoked key ends although the first try failed, and the names of that revision are followed at once."""

    async def test(plane: Changing, poll: Callable[[float], Awaitable[None]], metrics: Metrics) -> None:
        plane.change("a")
        plane.key_error = error
        await poll(0.0)
        assert plane.followed == ["a"]
        assert shown(metrics, "not_followed") == 1.0
        plane.key_error = None
        await poll(RETRY_S)
        assert plane.key_loads == 1
        assert shown(metrics, "not_followed") == 0.0
        await poll(9 * RETRY_S)
        assert plane.key_loads == 1

    run(monkeypatch, test)


def test_a_slow_name_holds_up_neither_others_nor_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its download takes for ever: what changes meanwhile is followed, and it is not begun twice."""

    async def test(plane: Changing, poll: Callable[[float], Awaitable[None]], _metrics: Metrics) -> None:
        plane.slow.add("slow")
        plane.change("slow")
        await poll(0.0)
        plane.change("a")
        await poll(1.0)
        assert plane.followed == ["a"]
        assert plane.key_loads == 2
        plane.slow.clear()
        plane.change("slow")  # followed by the one that is under way, or after it: never beside it
        await poll(2.0)
        assert plane.followed == ["a"]

    run(monkeypatch, test)


def test_a_registry_that_does_not_answer_is_shown_and_what_was_due_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The revision is stored with what changed or not at all."""

    async def test(plane: Changing, poll: Callable[[float], Awaitable[None]], metrics: Metrics) -> None:
        plane.change("a", "bad")
        plane.errors["bad"] = RuntimeError("a bug")
        await poll(0.0)
        assert shown(metrics, "up") == 1.0
        plane.change("later")
        plane.errors.clear()
        answers = plane.changes

        def silent(_since: int) -> Any:
            raise RegistryUnavailableError("gone")

        monkeypatch.setattr(plane, "changes", silent)
        with pytest.raises(RegistryUnavailableError):
            await poll(RETRY_S)
        await asyncio.sleep(0)
        assert plane.followed == ["a", "bad"]
        assert shown(metrics, "up") == 0.0
        monkeypatch.setattr(plane, "changes", answers)
        await poll(2 * RETRY_S)
        assert plane.followed == ["a", "bad", "later"]
        assert shown(metrics, "up") == 1.0

    run(monkeypatch, test)


def test_retries_become_rarer_and_never_end() -> None:
    """From one second to a bound, however often it failed; keys have a short one."""
    assert [Due(failures=n).wait() for n in (0, 1, 2)] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S]
    assert Due(failures=10_000).wait() == MOST_RETRY_S
    assert Due(failures=10_000, most=MOST_KEYS_RETRY_S).wait() == MOST_KEYS_RETRY_S


def test_the_loop_survives_each_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the engine that fails keeps nobody from following, nor the store from being swept."""

    async def main() -> None:
        plane: Any = Changing()
        plane.engine_set = SimpleNamespace(engine_is_gone=False)
        follower = Follower(plane, Metrics(4, CollectorRegistry()), 0.001, plane.reload_keys)
        collected = asyncio.Event()

        async def broken() -> None:
            raise RuntimeError("the engine")

        async def collect() -> None:
            collected.set()

        plane.refresh_tiers = broken
        monkeypatch.setattr("lorecall.server.lifecycle.follower.LOOK_S", 0.0)
        monkeypatch.setattr(follower, "collect", collect)
        running = asyncio.create_task(follower.run())
        await collected.wait()
        collected.clear()
        plane.change("a")
        for _ in range(2):
            await collected.wait()
            collected.clear()
        assert plane.followed == ["a"]
        plane.engine_set.engine_is_gone = True
        await running

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_start_loads_what_fits_and_fetches_no_more(tmp_path: Path) -> None:
    """All names at once, of which the engine's memory holds three; pinned ones come in any case."""
    world = World(tmp_path)

    async def main() -> tuple[Server, Server]:
        one = world.server("one")
        for rank in range(1, 7):
            await one.plane.add(f"a-{rank}", world.adapter(rank), actor="test")
        two = world.server("two")
        follower = Follower(two.plane, two.metrics, 1.0, lambda: None)
        await follower.catch_up()
        await follower.settled()
        return one, two

    _, two = asyncio.run(main())
    assert len(two.engine_set.live) == two.engine_set.capacity.memory == two.pipeline.fetches == 3
    assert all(two.plane.known(f"a-{rank}") for rank in range(1, 7))


def test_the_store_is_swept_once_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nothing can make live any more is deleted, not at every look but once in COLLECT_S."""
    swept: list[float] = []
    clock = [0.0]

    def collect() -> tuple[str, ...]:
        swept.append(clock[0])
        return ()

    plane: Any = SimpleNamespace(intake=SimpleNamespace(collect=collect))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    looks = Follower(plane, Metrics(4, CollectorRegistry()), 1.0, lambda: None)

    async def look() -> None:
        for now in (0.0, COLLECT_S - 1, COLLECT_S, COLLECT_S + 1, 2 * COLLECT_S):
            clock[0] = now
            await looks.collect()

    asyncio.run(look())
    assert swept == [COLLECT_S, 2 * COLLECT_S]


def test_the_engine_is_looked_at_every_quarter_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every poll of the registry: each look is a message that a GPU's steps wait for."""
    now = 100.0
    monkeypatch.setattr("lorecall.server.lifecycle.follower.time.monotonic", lambda: now)
    asked: list[float] = []

    async def refresh() -> None:
        asked.append(now)

    plane: Any = Changing()
    plane.refresh_tiers = refresh

    async def main() -> None:
        nonlocal now
        follower = Follower(plane, Metrics(4, CollectorRegistry()), 1.0, plane.reload_keys)
        for _ in range(40):
            await follower.look()
            now += 1.0

    asyncio.run(main())
    assert asked == [100.0, 115.0, 130.0]
