"""This server's engine as admissions use it: what is loaded, held and let go."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.tables import State
from lorecall.audit.scorer import EngineInfo
from lorecall.server.audits.engines import OwnEngine
from lorecall.server.lifecycle.engine_set import LoadedVersion

A = "a" * 64


def version() -> LoadedVersion:
    return LoadedVersion("acme", Adapter(Path("x"), 8, (), 8000, A), SimpleNamespace(lora_int_id=1))


class Plane:
    """A control plane that counts what it is asked for."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.retired: list[LoadedVersion] = []
        self.activated: list[str] = []
        self.engine_set = SimpleNamespace(live={}, retire=self.retired.append)
        self.registry = SimpleNamespace(version=self.version)

    def version(self, name: str, version: str) -> Any:
        """The version's record."""
        return SimpleNamespace(name=name, version=version, state=self.state)

    async def candidate(self, _record: Any) -> LoadedVersion:
        """Load it."""
        return version()

    async def activate(self, _record: Any, *, actor: str, audit_id: str) -> None:
        """Make it live."""
        assert actor == "audit"
        self.activated.append(audit_id)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A server's loop in its thread."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def engine(loop: asyncio.AbstractEventLoop, plane: Any) -> OwnEngine:
    scoring: Any = None

    async def measured() -> EngineInfo:
        return EngineInfo("tiny", "base")

    return OwnEngine(loop, plane, scoring, measured)


def settle(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop do what it was given."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()


def test_a_candidate_is_loaded_for_its_audit_only(loop: asyncio.AbstractEventLoop) -> None:
    """It leaves the engine as soon as nothing holds it: the scorer does until it is closed."""
    plane = Plane(State.AUDITING)
    with engine(loop, plane).candidate("acme", A) as scorer:
        (loaded,) = plane.retired
        assert len(loaded.leases) == 1
        assert scorer.adapter("acme").version == A
    settle(loop)
    assert loaded.idle.is_set()


def test_a_version_that_is_live_is_not_loaded_twice(loop: asyncio.AbstractEventLoop) -> None:
    """Its server died between its activation and the end of its audit: what serves it is held, and stays."""
    plane, live = Plane(State.LIVE), version()
    plane.engine_set.live["acme"] = live
    with engine(loop, plane).candidate("acme", A):
        assert len(live.leases) == 1
    settle(loop)
    assert (plane.retired, live.idle.is_set()) == ([], True)


@pytest.mark.parametrize("state", list(State))
def test_only_what_waits_for_its_audit_is_activated(loop: asyncio.AbstractEventLoop, state: State) -> None:
    """Whatever was decided meanwhile, by an operator or by this audit before its server died, stays."""
    plane = Plane(state)
    engine(loop, plane).activate("acme", A, "audit-1")
    assert plane.activated == (["audit-1"] if state is State.AUDITING else [])
