"""Several servers on one PostgreSQL registry become the same by themselves, and again after a restart."""

from pathlib import Path

import pytest

from tests.server.pair import Pair, wait_for
from tests.server.served import Served

pytestmark = pytest.mark.engine

ITEM = {"id": "1", "prefix": "To be, or", "target": " not to be"}


def version(server: Served, name: str) -> str:
    """Return the version that answers under a name, "" for none."""
    answer = server.post("/v1/score", {"model": name, "items": [ITEM]})
    return answer.json()["version"] if answer.is_success else ""


def test_servers_converge(pair: Pair, int8_adapters: list[Path]) -> None:
    """What is added, swapped, rolled back and removed on one server is so on the other within seconds."""
    added = pair.a.post("/v1/adapters", {"name": "shared", "source": str(int8_adapters[0])}).json()
    assert wait_for(lambda: version(pair.b, "shared") == added["version"])
    swapped = pair.a.post("/v1/adapters", {"name": "shared", "source": str(int8_adapters[1])}).json()
    assert wait_for(lambda: version(pair.b, "shared") == swapped["version"] != added["version"])
    assert pair.b.http.post("/v1/adapters/shared/rollback").is_success
    assert wait_for(lambda: version(pair.a, "shared") == added["version"])
    assert pair.b.http.delete("/v1/adapters/shared").is_success
    assert wait_for(lambda: not version(pair.a, "shared"))


def test_registered_but_unloaded_loads_on_demand(pair: Pair, int8_adapters: list[Path]) -> None:
    """More adapters than the engine's memory holds all answer: the least recently used makes room."""
    names = [f"many-{number}" for number in range(6)]
    for number, name in enumerate(names):
        source = str(int8_adapters[number % 3])
        assert pair.a.post("/v1/adapters", {"name": name, "source": source}).status_code == 201
    levels = {one["name"]: one["level"] for one in pair.a.http.get("/v1/adapters").json()["adapters"]}
    assert any(levels[name] == "disk" for name in names)
    for name in (*names, *names):
        body = {"model": name, "prompt": "To be", "max_tokens": 1}
        assert pair.a.post("/v1/completions", body).status_code == 200
    assert pair.a.alive
    lines = pair.a.http.get("/metrics").text.splitlines()
    evicted = [line for line in lines if line.startswith('lorecall_adapter_evictions_total{level="memory"}')]
    assert float(evicted[0].split()[1]) > 0
    for name in names:
        pair.a.http.delete(f"/v1/adapters/{name}")
