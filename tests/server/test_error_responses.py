"""The routes that we add to a foreign application answer our errors in OpenAI's shape."""

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.server.http import adapters, engine, keys, score

SCORE = {"model": "x", "items": [{"id": "1", "prefix": "a", "target": "b"}]}


def fail(*_: object, **_more: object) -> NoReturn:
    raise AdapterNotFoundError("there is no adapter 'x'", param="name")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/adapters/x/events", None),
        ("DELETE", "/v1/adapters/x", None),
        ("GET", "/v1/keys", None),
        ("GET", "/v1/engine", None),
        ("POST", "/v1/score", SCORE),
    ],
)
def test_an_error_of_a_handler_is_its_answer(method: str, path: str, body: dict[str, Any] | None) -> None:
    """The route class is kept when a router is included in vLLM's application."""
    app = FastAPI()
    for router in (adapters.router, keys.router, engine.router, score.router):
        app.include_router(router)
    registry = SimpleNamespace(adapter=fail, events=fail, keys=SimpleNamespace(active=fail))
    app.state.lorecall = SimpleNamespace(adapters=SimpleNamespace(registry=registry), model=fail, info=fail)
    answer = TestClient(app).request(method, path, json=body)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["message"]) == (
        "adapter_not_found",
        "name",
        "there is no adapter 'x'",
    )


HIDDEN = "wq7Zebra4471kX"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/score", {**SCORE, "items": [{"id": HIDDEN, "prefix": HIDDEN}]}, "items.0.target"),
        ("/v1/score", {**SCORE, "items": [{"id": 1, "prefix": "a", "target": "b"}]}, "items.0.id"),
        ("/v1/score", {**SCORE, "items": [HIDDEN]}, "items.0"),
        ("/v1/score", {**SCORE, HIDDEN: HIDDEN}, "body"),
        ("/v1/score", {**SCORE, "framing": HIDDEN}, "framing"),
        ("/v1/adapters", {"name": "x", "source": "y", "candidates": [HIDDEN]}, "candidates.0"),
        ("/v1/adapters", {"name": "x", "source": "y", "candidates": {HIDDEN: 1}}, "candidates"),
        ("/v1/adapters", {"name": "x", "sourse": HIDDEN}, "source"),
        ("/v1/adapters", HIDDEN, "body"),
    ],
)
def test_what_does_not_fit_is_named_and_not_quoted(path: str, body: Any, param: str) -> None:
    """400 in our shape with the field's path; FastAPI and vLLM would answer with the value."""
    app = FastAPI()
    for router in (adapters.router, score.router):
        app.include_router(router)
    answer = TestClient(app).post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert HIDDEN not in answer.text
