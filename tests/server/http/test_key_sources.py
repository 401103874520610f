"""A key adds adapters only from the sources of its list, by every route that takes a source."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.auth.limits import Limits
from lorecall.server.http import adapters, keys
from lorecall.server.http.gateway import Gateway
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.served_models import VersionedModels
from lorecall.server.lifecycle.stopping import Stopping

from tests.adapters import spoiling

ADMIN = "the-admin-key-of-these-tests-0123456789"


class Counted:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: object) -> Any:
        """Return something that can be counted on."""
        return self


@pytest.fixture
def server(tmp_path: Path, registry: Registry) -> Iterator[TestClient]:
    """Gateway, routes, control plane, pipeline and registry of a server, without an engine."""
    for name in ("acme", "globex"):
        (tmp_path / "roots" / name).mkdir(parents=True)
    sources = Sources(
        tmp_path / "staging", SourcePolicy(allowed=SourceList((str(tmp_path / "roots"), "hf://*")))
    )
    base = read_base_facts(spoiling.write_base(tmp_path / "base"))
    intake = AdapterPipeline(sources, Store(tmp_path / "store"), registry, base, AdapterLimits(max_rank=8))
    metrics = cast("Any", Counted())
    app = FastAPI()
    app.include_router(adapters.router)
    app.include_router(keys.router)
    app.add_middleware(Gateway, state=app.state)
    plane = ControlPlane(registry, intake, cast("Any", None), frozenset(), metrics)
    own: Any = SimpleNamespace(plane=plane)
    app.state.lorecall = SimpleNamespace(
        keys=KeyGuard(registry, [("tests", ADMIN)], None, always=True),
        adapters=plane,
        models=SimpleNamespace(load_lora_adapter=partial(VersionedModels.load_lora_adapter, own)),
        limits=Limits(),
        metrics=metrics,
        open_metrics=False,
        max_body_bytes=1 << 20,
        stopping=Stopping(),
    )
    with TestClient(app) as client:
        yield client


def key(server: TestClient, **fields: Any) -> dict[str, Any]:
    """Make a key; return the answer."""
    body = {"name": "acme", "scopes": ["adapters"], **fields}
    answer = server.post("/v1/keys", json=body, headers={"Authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def refused(server: TestClient, secret: str, path: str, body: dict[str, Any]) -> str:
    """Return the message of a refusal."""
    answer = server.post(path, json=body, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 400, answer.text
    message: str = answer.json()["error"]["message"]
    return message


@pytest.mark.parametrize("path", ["/v1/adapters", "/v1/load_lora_adapter"])
def test_a_key_is_held_to_its_list(server: TestClient, registry: Registry, tmp_path: Path, path: str) -> None:
    """What is outside is refused and recorded; what is inside is looked at (here: an empty folder)."""
    own, other = str(tmp_path / "roots/acme"), str(tmp_path / "roots/globex")
    limited, free = key(server, sources=[own])["secret"], key(server)["secret"]

    def body(source: str) -> dict[str, Any]:
        if path == "/v1/adapters":
            return {"name": "acme", "source": source}
        return {"lora_name": "acme", "lora_path": source}

    for source in (other, f"{own}/../globex", "hf://acme/model"):
        assert "this API key may not read" in refused(server, limited, path, body(source))
    assert "adapter_config.json" in refused(server, limited, path, body(own))
    assert "adapter_config.json" in refused(server, free, path, body(other))
    assert "this server does not read" in refused(server, free, path, body("/etc"))
    actions = [event.detail["reason"] for event in registry.events() if event.action == "refuse"]
    assert actions.count("source_not_allowed") == 4


def test_the_list_of_a_key_is_shown_and_checked(server: TestClient) -> None:
    """No list, an empty one and a list are told apart; a bad prefix makes no key."""
    assert key(server)["sources"] is None
    assert key(server, sources=[])["sources"] == []
    assert key(server, sources=["hf://acme/*"])["sources"] == ["hf://acme/*"]
    admin = {"Authorization": f"Bearer {ADMIN}"}
    listed = server.get("/v1/keys", headers=admin).json()["keys"]
    assert [one["sources"] for one in listed if one["sources"]] == [["hf://acme/*"]]
    body = {"name": "x", "scopes": ["adapters"], "sources": ["https://169.254.169.254/"]}
    answer = server.post("/v1/keys", json=body, headers=admin)
    assert answer.status_code == 400
    assert "not read from https" in answer.json()["error"]["message"]
    assert len(server.get("/v1/keys", headers=admin).json()["keys"]) == 3
