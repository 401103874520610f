"""The rate limits of `lorecall audit serve` are those of a server, counted where a fleet counts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.registry.registry import Registry
from lorecall.server.audits.app import make_app
from lorecall.server.settings import ServerSettings
from pydantic import SecretStr

from tests.audit.conftest import memory_of, phone
from tests.audit.tiny_scorer import TinyScorer
from tests.audit.tiny_server import serve
from tests.redis_server import Redis

ORDER = {
    "adapter": "acme",
    "candidates": [
        {"id": one.id, "prefix": one.prefix, "target": one.target} for one in map(phone, range(6))
    ],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The server that scores."""
    with serve(TinyScorer({"acme": memory_of((phone(0),))})) as url:
        yield url


@contextmanager
def service(engine: str, folder: Path, **settings: Any) -> Iterator[TestClient]:
    """One audit service on the registry in a folder; a second one there has texts of its own."""
    registry = Registry(f"sqlite:///{folder / 'audits.db'}")
    told = ServerSettings(store=folder / "store", admin_key=SecretStr("an-admin-key-of-twenty"), **settings)
    with TestClient(make_app(engine, registry, told, "127.0.0.1")) as client:
        yield client


def key(folder: Path, name: str, **limits: float) -> dict[str, str]:
    """The header of a new key."""
    registry = Registry(f"sqlite:///{folder / 'audits.db'}")
    _, secret = registry.keys.add(name, [Scope.AUDIT], limits=RateLimits(**limits), actor="test")  # type: ignore[arg-type]
    registry.close()
    return {"Authorization": f"Bearer {secret}"}


def ordered(at: TestClient, headers: dict[str, str]) -> int:
    """The status of the answer to an order of six snippets."""
    return at.post("/v1/audits", json=ORDER, headers=headers).status_code


@pytest.mark.parametrize("limits", [{"requests_per_minute": 10.0}, {"tokens_per_minute": 40.0}])
def test_a_key_has_its_limits(engine: str, tmp_path: Path, limits: dict[str, float]) -> None:
    """In requests, one a snippet, and in tokens; another key has its own, and reading counts as nothing."""
    one, other = key(tmp_path, "one", **limits), key(tmp_path, "other", **limits)
    with service(engine, tmp_path) as at:
        assert [ordered(at, one) for _ in range(2)] == [202, 429]
        refused = at.post("/v1/audits", json=ORDER, headers=one)
        assert "API key 'one'" in refused.json()["error"]["message"]
        assert next(iter(limits)).replace("_", " ") in refused.json()["error"]["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert {at.get("/v1/audits", headers=one).status_code for _ in range(20)} == {200}
        assert ordered(at, other) == 202


def test_services_on_one_redis_count_together(engine: str, tmp_path: Path, redis: Redis) -> None:
    """What a key asked of one is missing at the other; when they end, no connection stays open."""
    headers = key(tmp_path, "one", requests_per_minute=10.0)
    with (
        service(engine, tmp_path, limits_url=redis.url) as a,
        service(engine, tmp_path, limits_url=redis.url) as b,
    ):
        assert [ordered(a, headers), ordered(b, headers), ordered(a, headers)] == [202, 429, 429]
        assert redis.connected() == 2
    assert redis.connected() == 0
    with service(engine, tmp_path) as alone:
        assert ordered(alone, headers) == 202
