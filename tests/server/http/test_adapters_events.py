"""The routes of the control plane, on a registry without an engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lorecall.adapters.registry.registry import Registry
from lorecall.server.http import adapters


@pytest.fixture
def client(registry: Registry) -> TestClient:
    app = FastAPI()
    app.include_router(adapters.router)
    app.state.lorecall = SimpleNamespace(adapters=SimpleNamespace(registry=registry))
    return TestClient(app)


def test_events_are_paged(client: TestClient, registry: Registry) -> None:
    """A bounded page by default, the newest; a client can walk back to the first and follow what is new."""
    for number in range(250):
        registry.record_event("refuse", "acme", actor="ann", number=number + 1)

    def page(**query: Any) -> tuple[list[int], list[int], bool]:
        answer = client.get("/v1/adapters/acme/events", params=query).json()
        numbers = [one["detail"]["number"] for one in answer["events"]]
        return numbers, [one["id"] for one in answer["events"]], answer["has_more"]

    numbers, ids, more = page()
    assert (numbers, more) == (list(range(151, 251)), True)
    numbers, ids, more = page(before=ids[0])
    assert (numbers, more) == (list(range(51, 151)), True)
    numbers, ids, more = page(before=ids[0])
    assert (numbers, more) == (list(range(1, 51)), False)
    numbers, ids, more = page(after=ids[-1], limit=200)
    assert (numbers, more) == (list(range(51, 251)), False)
    assert page(after=ids[-1]) == ([], [], False)
    assert page(after=0, limit=10)[0] == list(range(1, 11))
    assert page(after=0, limit=10)[2]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "before=-1", f"after={1 << 31}", f"before={1 << 70}"]
)
def test_a_page_that_cannot_be_is_refused(client: TestClient, query: str) -> None:
    """No list without a bound, and no number that a database does not take."""
    assert client.get(f"/v1/adapters/acme/events?{query}").status_code == 400
