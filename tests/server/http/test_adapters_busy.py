"""The control plane's routes over an engine that only records."""

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.tables import State
from lorecall.server.http import adapters
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.served_models import VersionedModels

from tests.server.lifecycle.recording import World


def client_of(plane: ControlPlane) -> httpx.AsyncClient:
    """Return a client of the routes over a control plane."""
    app = FastAPI()
    app.include_router(adapters.router)
    own: Any = SimpleNamespace(plane=plane)
    models = SimpleNamespace(load_lora_adapter=partial(VersionedModels.load_lora_adapter, own))
    app.state.lorecall = SimpleNamespace(adapters=plane, models=models)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server")


class Gate:
    """A gate whose audits come to a state at once."""

    def __init__(self, world: World, state: State) -> None:
        self._world = world
        self._state = state

    def check(self, _snippets: Any) -> dict[Any, Any]:
        """Take anything."""
        return {}

    async def admit(self, record: VersionRecord, _snippets: Any) -> None:
        """Put the version under audit, and decide."""
        name, version, registry = record.name, record.version, self._world.registry
        registry.move(name, version, State.AUDITING, actor="gate", audit_id="a-1")
        if self._state is State.QUARANTINED:
            registry.move(name, version, self._state, actor="gate", reason="3 of 4 recited", audit_id="a-1")


def test_adapters_are_listed_while_slow_ones_are_added(tmp_path: Path) -> None:
    """A list is served before any of the adds has got on: they are let on only after it."""
    world = World(tmp_path)

    async def test() -> None:
        server = world.server("one")
        await server.plane.add("there", world.adapter(1), actor="test")
        server.adds.clear()
        async with client_of(server.plane) as client:
            bodies = [{"name": f"slow-{number}", "source": world.adapter(2)} for number in range(40)]
            slow = [asyncio.create_task(client.post("/v1/adapters", json=body)) for body in bodies]
            await server.has_asked(7)
            listed = (await client.get("/v1/adapters")).json()["adapters"]
            assert [one["name"] for one in listed] == ["there"]
            assert (await client.get("/v1/adapters/there")).json()["state"] == "live"
            again = await client.post("/v1/adapters", json=bodies[0])
            assert again.status_code == 409
            assert "being added by another request" in again.json()["error"]["message"]
            assert not any(task.done() for task in slow)
            server.adds.set()
            assert {answer.status_code for answer in await asyncio.gather(*slow)} == {201}

    asyncio.run(asyncio.wait_for(test(), 120))


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [(State.AUDITING, 202, "is auditing"), (State.QUARANTINED, 409, "is quarantined: 3 of 4 recited")],
)
def test_vllms_route_says_what_the_gate_holds_back(
    tmp_path: Path, state: State, status: int, said: str
) -> None:
    """It answers "added successfully" only for what is served: a router would send requests to it."""
    world = World(tmp_path)

    async def test() -> None:
        server = world.server("one")
        gate: Any = Gate(world, state)
        server.plane.gate = gate
        body = {"lora_name": "acme", "lora_path": world.adapter(1)}
        async with client_of(server.plane) as client:
            answer = await client.post("/v1/load_lora_adapter", json=body)
            assert answer.status_code == status
            assert said in answer.text
            assert "uccess" not in answer.text
            assert not server.plane.known("acme")
            server.plane.gate = None
            body = {"lora_name": "other", "lora_path": world.adapter(2)}
            answer = await client.post("/v1/load_lora_adapter", json=body)
            assert (answer.status_code, "added successfully" in answer.text) == (200, True)

    asyncio.run(test())
