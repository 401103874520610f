"""A key sees, lists and calls only its own adapters, on every route of the running application."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from lorecall.adapters.access.keys import Scope
from lorecall.server.auth.scopes import ANY_KEY, OPEN, need_of

from tests.server.pair import Pair

pytestmark = pytest.mark.engine

PROMPT: dict[str, Any] = {"prompt": "To be", "max_tokens": 1}
ITEM = {"id": "1", "prefix": "To be", "target": " or not"}
KINDS = ("none", "wrong", "infer", "adapters", "audit")


@pytest.fixture(scope="module")
def tenants(pair: Pair, int8_adapters: list[Path]) -> dict[str, httpx.Client]:
    """One client per kind of key, all with the pattern acme-*, and two adapters of which one is theirs."""
    for name, path in (("acme-one", int8_adapters[0]), ("globex-one", int8_adapters[1])):
        added = pair.a.post("/v1/adapters", {"name": name, "source": str(path)})
        assert added.status_code == 201, added.text
    clients = {kind: pair.key(pair.a, kind, [kind]) for kind in ("infer", "adapters", "audit")}
    return {**clients, "none": pair.client(pair.a, ""), "wrong": pair.client(pair.a, "x")}


def operations(pair: Pair) -> list[tuple[str, str]]:
    """Every (method, path template) of the running application, from its own OpenAPI document."""
    paths = pair.a.http.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def allowed(kind: str, method: str, path: str) -> bool:
    """Whether a kind of key may call a route."""
    need = need_of(method, path)
    if need is OPEN:
        return True
    if kind in ("none", "wrong"):
        return False
    return need is ANY_KEY or Scope(kind) in need.scopes


@pytest.mark.parametrize("kind", KINDS)
def test_every_route_asks_every_kind_of_key(pair: Pair, tenants: dict[str, httpx.Client], kind: str) -> None:
    """Over the OpenAPI of the running app, vLLM's routes included: 401 without a key, 403 without the scope."""
    walked = operations(pair)
    assert len(walked) > 30
    wrong = []
    for method, template in walked:
        path = re.sub(r"\{[^}]+\}", "acme-none", template)
        body: dict[str, Any] | None = {} if method in ("POST", "PUT", "PATCH") else None
        answer = tenants[kind].request(method, path, json=body)
        refused = answer.status_code in (401, 403)
        expected = 401 if kind in ("none", "wrong") else 403
        if allowed(kind, method, path) == refused or (refused and answer.status_code != expected):
            wrong.append((method, path, answer.status_code))
    assert not wrong
    assert pair.a.alive


def test_the_walk_sees_both_houses(pair: Pair) -> None:
    """The walk covers vLLM's routes and ours; only health and ping are open."""
    walked = set(operations(pair))
    assert {("POST", "/v1/chat/completions"), ("POST", "/v1/adapters"), ("POST", "/tokenize")} <= walked
    opened = {path for method, path in walked if need_of(method, path) is OPEN}
    assert opened == {"/health", "/ping"}


def test_metrics_need_admin(pair: Pair, tenants: dict[str, httpx.Client]) -> None:
    """`/metrics` is mounted, not in the OpenAPI, and names adapters."""
    assert tenants["none"].get("/metrics").status_code == 401
    assert tenants["infer"].get("/metrics").status_code == 403
    assert pair.a.http.get("/metrics").is_success


@pytest.mark.parametrize("path", ["/v1/models", "/v1/adapters"])
def test_lists_hold_only_what_a_key_sees(tenants: dict[str, httpx.Client], path: str) -> None:
    """Neither the base nor another tenant's adapter is in any list."""
    listed = tenants["infer"].get(path).json()
    names = {one.get("id") or one["name"] for one in listed.get("data") or listed["adapters"]}
    assert names == {"acme-one"}


@pytest.mark.parametrize("model", ["globex-one", "base", "nobody"])
def test_others_are_404_like_nothing_at_all(tenants: dict[str, httpx.Client], model: str) -> None:
    """Another tenant's adapter, a hidden base and a name that does not exist give one and the same answer."""
    answers = [
        tenants["infer"].post("/v1/completions", json={"model": model, **PROMPT}),
        tenants["infer"].post("/v1/chat/completions", json={"model": model, "messages": []}),
        tenants["infer"].post("/tokenize", json={"model": model, "prompt": "x"}),
        tenants["audit"].post("/v1/score", json={"model": model, "items": [ITEM]}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    bodies = {answer.text.replace(model, "MODEL") for answer in answers}
    assert len(bodies) == 1
    assert tenants["infer"].get(f"/v1/adapters/{model}").status_code == 404


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
def test_no_model_means_the_base(model: dict[str, Any], pair: Pair, tenants: dict[str, httpx.Client]) -> None:
    """Left out, null and empty are asking the base, which a tenant's key does not see and the admin's does."""
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    asked = {"/v1/completions": PROMPT, "/v1/chat/completions": chat, "/v1/score": {"items": [ITEM]}}
    for path, body in asked.items():
        key = "audit" if path == "/v1/score" else "infer"
        assert tenants[key].post(path, json={**body, **model}).status_code == 404, path
        answer = pair.a.http.post(path, json={**body, **model})
        assert answer.is_success, answer.text
        assert answer.json()["model"] == pair.a.model


def test_one_model_is_shown_to_whom_it_is_listed(tenants: dict[str, httpx.Client]) -> None:
    """`GET /v1/models/{id}` hides what the list hides."""
    assert tenants["infer"].get("/v1/models/acme-one").json()["id"] == "acme-one"
    for hidden in ("globex-one", "base", "nobody"):
        assert tenants["infer"].get(f"/v1/models/{hidden}").status_code == 404


@pytest.mark.parametrize(("named", "status"), [("acme-one", 200), ("globex-one", 404), ("", 404)])
def test_sagemaker_names_the_model_in_a_header(
    tenants: dict[str, httpx.Client], named: str, status: int
) -> None:
    """On `/invocations` the header decides and not the body, for vLLM and so for the key as well."""
    header = {"x-amzn-sagemaker-adapter-identifier": named} if named else {}
    answer = tenants["infer"].post("/invocations", json={"model": "acme-one", **PROMPT}, headers=header)
    assert answer.status_code == status
    assert status != 200 or answer.json()["model"] == named


def test_own_adapters_answer(tenants: dict[str, httpx.Client]) -> None:
    """With the right key and scope the tenant's own adapter works."""
    assert tenants["infer"].post("/v1/completions", json={"model": "acme-one", **PROMPT}).is_success
    assert tenants["audit"].post("/v1/score", json={"model": "acme-one", "items": [ITEM]}).is_success
    assert tenants["infer"].get("/v1/adapters/acme-one").json()["state"] == "live"


def test_a_tenant_changes_only_its_own(
    pair: Pair, tenants: dict[str, httpx.Client], int8_adapters: list[Path]
) -> None:
    """Adding, removing, pinning and rolling back reach the key's own names only."""
    mine, source = tenants["adapters"], str(int8_adapters[2])
    assert mine.post("/v1/adapters", json={"name": "globex-two", "source": source}).status_code == 403
    load = {"lora_name": "globex-two", "lora_path": source}
    assert mine.post("/v1/load_lora_adapter", json=load).status_code == 403
    for path in ("rollback", "pin"):
        assert mine.post(f"/v1/adapters/globex-one/{path}", json={}).status_code == 404
    assert mine.delete("/v1/adapters/globex-one").status_code == 404
    unload = {"lora_name": "globex-one"}
    assert mine.post("/v1/unload_lora_adapter", json=unload).status_code == 404
    assert mine.post("/v1/adapters", json={"name": "acme-two", "source": source}).status_code == 201
    assert mine.delete("/v1/adapters/acme-two").is_success
    assert pair.a.http.get("/v1/adapters/globex-one").json()["state"] == "live"


def test_local_paths_outside_the_roots_are_refused(tenants: dict[str, httpx.Client]) -> None:
    """With keys, a local path must lie under one of the operator's roots."""
    answer = tenants["adapters"].post("/v1/adapters", json={"name": "acme-etc", "source": "/etc"})
    assert answer.status_code == 400
    assert "does not read" in answer.json()["error"]["message"]


def test_a_revoked_key_is_out_at_once(pair: Pair) -> None:
    """Revoking works on the next request, and on the other server within seconds."""
    client = pair.key(pair.a, "shortlived", ["infer"])
    assert client.get("/v1/models").is_success
    (found,) = [one for one in pair.a.http.get("/v1/keys").json()["keys"] if one["name"] == "shortlived"]
    assert "digest" not in found
    assert pair.a.http.delete(f"/v1/keys/{found['id']}").is_success
    assert client.get("/v1/models").status_code == 401


def test_a_key_over_its_rate_waits(pair: Pair) -> None:
    """Over the requests or tokens of its key a caller gets 429 and the seconds to wait."""
    body = {"model": "acme-one", **PROMPT}
    hasty = pair.key(pair.a, "hasty", ["infer"], requests_per_minute=2)
    codes = [hasty.post("/v1/completions", json=body).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    greedy = pair.key(pair.a, "greedy", ["infer"], tokens_per_minute=5)
    first = greedy.post("/v1/completions", json={**body, "max_tokens": 20, "ignore_eos": True})
    second = greedy.post("/v1/completions", json=body)
    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["Retry-After"]) >= 1
    assert second.json()["error"]["code"] == "rate_limited"


def test_an_adapter_over_its_rate_waits(pair: Pair, int8_adapters: list[Path]) -> None:
    """The operator's limits by adapter hold for all keys together."""
    added = pair.a.post("/v1/adapters", {"name": "limited-one", "source": str(int8_adapters[0])})
    assert added.status_code == 201
    body = {"model": "limited-one", **PROMPT}
    assert [pair.a.post("/v1/completions", body).status_code for _ in range(3)] == [200, 200, 429]
    pair.a.http.delete("/v1/adapters/limited-one")
