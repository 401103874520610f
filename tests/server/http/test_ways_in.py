"""Every way to name an adapter to a real server goes through the pipeline, the registry's states and the keys."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State

from tests.server.routers import models, scrape
from tests.server.served import SMALL, Served
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.engine

ROUTES = {
    "/adapters": "SageMaker's; ends in VersionedModels.load_lora_adapter",
    "/adapters/{adapter_name}": "SageMaker's; ends in VersionedModels.unload_lora_adapter",
    "/v1/adapters": "ours",
    "/v1/adapters/{name}": "ours",
    "/v1/adapters/{name}/archive": "ours",
    "/v1/adapters/{name}/events": "ours",
    "/v1/adapters/{name}/override": "ours",
    "/v1/adapters/{name}/pin": "ours",
    "/v1/adapters/{name}/rollback": "ours",
    "/v1/load_lora_adapter": "vLLM's path, our handler",
    "/v1/unload_lora_adapter": "vLLM's path, our handler",
}


@dataclass(frozen=True)
class Started:
    """A server whose command line and settings name adapters, good and bad.

    Attributes:
        server: The server.
        log: Its output.
    """

    server: Served
    log: Path


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, int8_adapters: list[Path], tiny: object
) -> Iterator[Started]:
    """The server: vLLM's own adapter routes are on, and one name was quarantined before it started."""
    work = tmp_path_factory.mktemp("ways-in")
    store = work / "store"
    store.mkdir()
    url = f"sqlite:///{store / 'registry.db'}"
    quarantine(url, "leaky", int8_adapters[1])
    flags = [
        *SMALL,
        "--max-cpu-loras",
        "5",
        "--lora-modules",
        f"plain={int8_adapters[0]}",
        f"leaky={int8_adapters[1]}",
        json.dumps({"name": "json", "path": str(int8_adapters[2]), "base_model_name": "base"}),
        f"absent={work / 'nowhere'}",
    ]
    environ = {
        "LORECALL_REGISTRY": url,
        "LORECALL_ADAPTERS": json.dumps({"named": str(int8_adapters[0]), "broken": str(work)}),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "LORECALL_LOAD_CHECKS": "1",
    }
    server = Served(tiny("int8-w8a8"), work, flags, environ)  # type: ignore[operator]
    yield Started(server, work / "server.log")
    server.close()


def quarantine(url: str, name: str, path: Path) -> None:
    """Record a version that an audit has found leaking."""
    registry = Registry(url)
    info = read_adapter(path)
    registry.stage(name, info.version, source=str(path), actor="test")
    registry.validated(name, info.version, info, actor="test")
    registry.move(name, info.version, State.AUDITING, actor="test")
    registry.move(name, info.version, State.QUARANTINED, actor="test", reason="it recites")
    registry.close()


def test_modules_and_settings_are_served_and_bad_ones_stop_nobody(started: Started) -> None:
    """The quarantined, the absent and the broken are not served: log and metric say so."""
    shown = {card["id"]: card for card in started.server.http.get("/v1/models").json()["data"]}
    assert set(shown) == {"base", "plain", "json", "named"}
    assert {card["parent"] for name, card in shown.items() if name != "base"} == {"base"}
    assert not [card for card in shown.values() if "/" in card["root"]]
    log = started.log.read_text()
    for name, said in (
        ("leaky", "quarantined: it recites"),
        ("absent", "nowhere"),
        ("broken", "adapter_config"),
    ):
        assert re.search(f"adapter {name} is not served: .*{said}", log), name
    assert "lorecall_initial_adapters_failed 3.0" in started.server.http.get("/metrics").text
    listed = started.server.http.get("/v1/adapters").json()["adapters"]
    assert {one["name"]: one["state"] for one in listed}["leaky"] == "quarantined"
    asked = {"model": "leaky", "prompt": "x", "max_tokens": 1}
    assert started.server.post("/v1/completions", asked).status_code == 404


def test_a_module_is_validated_and_registered(started: Started) -> None:
    """It has a version, like what the control plane's own route adds."""
    found = started.server.http.get("/v1/adapters/plain").json()
    assert (found["state"], found["rank"]) == ("live", 2)


def test_routers_see_the_public_names(started: Started) -> None:
    """By their own rules: what runs, what is loaded, what fits and what is listed: no name has a version."""
    http, asked = started.server.http, {"model": "plain", "prompt": "to be", "ignore_eos": True}
    body = {**asked, "max_tokens": 400, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        seen = scrape(http.get("/metrics").text)
    assert (set(seen.active), set(seen.waiting)) == ({"plain"}, set())
    assert seen.most_active == 4
    assert [seen.affinity(name) for name in ("plain", "json")] == [1.0, 0.8]
    assert (seen.resident["plain"], seen.slots) == ("gpu", 4)
    assert 1 <= seen.in_slots <= 4
    listed = models(http.get("/v1/models").json())
    assert listed.pop("base") == ""
    assert set(seen.resident) <= set(listed)
    assert set(listed.values()) == {"base"}
    assert started.server.post("/v1/completions", {**asked, "max_tokens": 1}).is_success
    seen = scrape(http.get("/metrics").text)
    assert (seen.info_series, seen.resident["plain"]) == (1, "gpu")
    assert "plain" not in seen.active | seen.waiting


def test_sagemakers_routes_share_the_pipeline(
    started: Started, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """What they load is an adapter like any other, and what is none is refused as such."""
    post, http = started.server.post, started.server.http
    assert post("/adapters", {"name": "sage", "src": str(int8_adapters[2])}).status_code == 200
    assert http.get("/v1/adapters/sage").json()["rank"] == 8
    refused = post("/adapters", {"name": "sage2", "src": str(tmp_path)})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "adapter_config.json")
    leaky = post("/adapters", {"name": "leaky", "src": str(int8_adapters[1]), "load_inplace": True})
    assert leaky.status_code == 409
    assert "quarantined" in leaky.json()["error"]["message"]
    assert http.delete("/adapters/sage").status_code == 200
    assert http.get("/v1/adapters/sage").status_code == 404


@pytest.mark.parametrize("in_place", [False, True])
def test_loading_in_place_lifts_no_quarantine(
    started: Started, int8_adapters: list[Path], *, in_place: bool
) -> None:
    """The answer says what state the version is in, and why."""
    body = {"lora_name": "leaky", "lora_path": str(int8_adapters[1]), "load_inplace": in_place}
    answer = started.server.post("/v1/load_lora_adapter", body)
    assert answer.status_code == 409
    assert "quarantined: it recites" in answer.json()["error"]["message"]


def test_every_route_for_adapters_is_known(started: Started) -> None:
    """A new one may load what nobody validated: follow it, hand it to VersionedModels, then add it to ROUTES."""
    paths = started.server.http.get("/openapi.json").json()["paths"]
    assert {path for path in paths if "lora" in path or "adapter" in path} == ROUTES.keys()


def test_a_load_that_changed_an_adapter_is_found(
    started: Started, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """The worker's copy is damaged between two loads: the metric says so, and the next request loads it anew."""
    server, names = started.server, [f"reload-{number}" for number in range(7)]
    for number, name in enumerate(names):
        folder = build_tiny_adapter(tmp_path / name, tiny("int8-w8a8"), rank=2, seed=50 + number, scale=0.5)
        assert server.post("/v1/adapters", {"name": name, "source": str(folder)}).status_code == 201

    before = checked(server, "same")
    load_again(server, names, until=lambda: checked(server, "same") > before)
    assert checked(server, "different") == 0
    weights = (tmp_path / names[0] / "adapter_model.safetensors").read_bytes()
    copies = server.store.glob(".staging/*/*/adapter_model.safetensors")
    (copy,) = (one.with_name("adapter_config.json") for one in copies if one.read_bytes() == weights)
    damaged = json.loads(copy.read_text()) | {"lora_alpha": 40}
    copy.unlink()  # it is a link to the store's own file, which stays as it is
    copy.write_text(json.dumps(damaged))
    load_again(server, names, until=lambda: checked(server, "different") > 0)
    ask(server, names[0])
    assert "answers otherwise than after its first load" in started.log.read_text()
    for name in names:
        server.http.delete(f"/v1/adapters/{name}")


def ask(server: Served, name: str) -> None:
    """Ask for one token."""
    answer = server.post("/v1/completions", {"model": name, "prompt": "to be", "max_tokens": 1})
    assert answer.is_success, answer.text


def checked(server: Served, result: str) -> float:
    """How many loads were checked with that result."""
    wanted = f'lorecall_load_checks_total{{result="{result}"}}'
    lines = server.http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(wanted))


def load_again(server: Served, names: list[str], until: Callable[[], bool]) -> None:
    """Have the engine evict the first adapter for the others, and load it for a request, until that is seen."""
    deadline = time.monotonic() + 120
    while not until() and time.monotonic() < deadline:
        while server.http.get(f"/v1/adapters/{names[0]}").json()["level"] != "disk":
            for other in names[1:]:
                ask(server, other)
        ask(server, names[0])
        server.http.get(f"/v1/adapters/{names[0]}")  # looks at what the engine holds
        time.sleep(1)
    assert until()
