"""The middleware in front of every route: what is charged, to whom, and when."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from lorecall.adapters.access.fleet_limits import FleetBuckets, make_buckets
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.access.rate_limit import RateLimiter, RateLimits
from lorecall.adapters.registry.registry import Registry
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.auth.limits import Limits
from lorecall.server.auth.request_context import current
from lorecall.server.http.gateway import SCRAPE_S, Gateway
from lorecall.server.lifecycle.stopping import Stopping
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry

from tests.redis_server import MissingRedisError, running_redis

BASE = "org/model"
ITEM = {"id": "1", "prefix": "a", "target": "b"}


class Site:
    """An application behind the gateway that answers every POST, after using some tokens."""

    def __init__(self, registry: Registry, limits: Limits, tokens: int = 0) -> None:
        self.registry = registry
        self.keys = KeyGuard(
            registry, [("LORECALL_ADMIN_KEY", "a-secret-of-more-than-20-characters")], None, always=True
        )
        self.app = FastAPI()
        self.app.state.lorecall = SimpleNamespace(
            keys=self.keys,
            limits=limits,
            open_metrics=False,
            max_body_bytes=1 << 20,
            max_items=100,
            engine=SimpleNamespace(base=BASE),
            adapters=SimpleNamespace(known=lambda _name: False),
            models=SimpleNamespace(lora_requests={"acme": object()}, base_names=frozenset({BASE})),
            metrics=Metrics(10, CollectorRegistry()),
            stopping=Stopping(),
            scraped=float("-inf"),
        )

        @self.app.post("/{path:path}")
        async def answer(_request: Request) -> dict[str, bool]:
            context = current.get()
            assert context is not None
            context.tokens += tokens
            return {"answered": True}

        self.app.add_middleware(Gateway, state=self.app.state)
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def key(self, *scopes: Scope, patterns: tuple[str, ...] = ("*",), **limits: float) -> dict[str, str]:
        """Return the headers of a new key."""
        _, secret = self.registry.keys.add(
            "k",
            scopes,
            actor="test",
            patterns=patterns,
            limits=RateLimits(**limits),  # type: ignore[arg-type]
        )
        self.keys.reload()
        return {"Authorization": f"Bearer {secret}"}

    def post(self, path: str, body: Any, headers: dict[str, str]) -> int:
        """POST a body, and return the status."""
        return self.http.post(path, json=body, headers=headers).status_code


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield one
    one.close()


@contextmanager
def site(
    registry: Registry,
    limits: Limits | None = None,
    tokens: int = 0,
    at_end: Callable[[], Awaitable[None]] | None = None,
) -> Iterator[Site]:
    """A site with its client open."""
    one = Site(registry, limits or Limits(), tokens)
    with one.http:
        yield one
        if at_end is not None:
            assert one.http.portal is not None
            one.http.portal.call(at_end)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"model": "acme", "items": [ITEM] * 12}),
        ("/v1/completions", {"model": "acme", "prompt": ["x"] * 12}),
        ("/v1/chat/completions/batch", {"model": "acme", "messages": [[{}]] * 12}),
        ("/generative_scoring", {"model": "acme", "items": ["x"] * 12}),
        ("/v1/adapters", {"name": "acme", "source": "x", "candidates": [ITEM] * 6, "controls": [ITEM] * 6}),
    ],
)
def test_a_request_of_many_texts_counts_as_many(registry: Registry, path: str, body: Any) -> None:
    """At ten a minute one request of twelve texts is all there is."""
    with site(registry) as at:
        headers = at.key(Scope.AUDIT, Scope.INFER, Scope.ADAPTERS, requests_per_minute=10.0)
        assert [at.post(path, body, headers) for _ in range(2)] == [200, 429]
        single = {"model": "acme", "prompt": "x"}
        answer = at.http.post("/v1/completions", json=single, headers=headers)
        assert answer.status_code == 429
        assert 12 <= int(answer.headers["Retry-After"]) <= 18  # three of a minute's ten


def test_scored_tokens_are_charged(registry: Registry) -> None:
    """What scoring computes counts against the tokens of the key and of the model's audits."""
    by_model = {"acme": RateLimits(tokens_per_minute=1000)}
    with site(registry, Limits(by_model), tokens=1500) as at:
        mine = at.key(Scope.AUDIT, Scope.INFER, tokens_per_minute=600.0)
        other = at.key(Scope.AUDIT, Scope.INFER)
        body = {"model": "acme", "items": [ITEM]}
        assert [at.post("/v1/score", body, mine) for _ in range(2)] == [200, 429]
        assert at.post("/v1/score", body, other) == 429
        assert at.post("/v1/completions", {"model": "acme", "prompt": "x"}, other) == 200


def test_texts_have_a_bound(registry: Registry) -> None:
    """More than the server's setting are refused with the number, and charged to nobody."""
    with site(registry) as at:
        headers = at.key(Scope.AUDIT, requests_per_minute=10.0)
        answer = at.http.post("/v1/score", json={"model": "acme", "items": [ITEM] * 101}, headers=headers)
        assert answer.status_code == 400
        assert "101 texts, and one request may hold 100" in answer.json()["error"]["message"]
        assert "LORECALL_MAX_ITEMS" in answer.json()["error"]["message"]
        assert at.post("/v1/score", {"model": "acme", "items": [ITEM] * 100}, headers) == 200


def test_a_base_named_with_a_slash(registry: Registry) -> None:
    """A key for `org/model` reaches that base, named or not, and nothing else."""
    with site(registry) as at:
        headers = at.key(Scope.INFER, patterns=(BASE,))
        asked = [{"model": BASE, "prompt": "x"}, {"prompt": "x"}, {"model": "acme", "prompt": "x"}]
        assert [at.post("/v1/completions", body, headers) for body in asked] == [200, 200, 404]
        assert at.post("/v1/completions", asked[0], at.key(Scope.INFER, patterns=("org/*",))) == 200
        assert at.post("/v1/completions", asked[0], at.key(Scope.INFER, patterns=("other/*",))) == 404


def test_different_keys_in_two_headers_are_refused(registry: Registry) -> None:
    """Over HTTP: 401 in OpenAI's shape, and a repeated header of one key is fine."""
    with site(registry) as at:
        one, two = at.key(Scope.INFER), at.key(Scope.INFER)
        body = {"prompt": "x"}
        secret = two["Authorization"].removeprefix("Bearer ")
        answer = at.http.post("/v1/completions", json=body, headers={**one, "X-API-Key": secret})
        assert answer.status_code == 401
        assert "different API keys" in answer.json()["error"]["message"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert at.post("/v1/completions", body, {**two, "X-API-Key": secret}) == 200
        both = [("x-api-key", secret), ("x-api-key", secret)]
        assert at.http.post("/v1/completions", json=body, headers=both).status_code == 200


def test_two_servers_on_one_redis_share_their_limits(registry: Registry, tmp_path: Path) -> None:
    """Of a key's twelve requests to two servers in turn five pass; without Redis, five on each would."""
    try:
        with running_redis(tmp_path) as redis:
            one, two = (FleetBuckets(redis.url) for _ in range(2))
            with (
                site(registry, Limits({}, RateLimiter(one)), at_end=one.aclose) as a,
                site(registry, Limits({}, RateLimiter(two)), at_end=two.aclose) as b,
            ):
                headers = a.key(Scope.INFER, requests_per_minute=5.0)
                b.keys.reload()
                codes = [
                    at.post("/v1/completions", {"prompt": "x"}, headers) for _ in range(6) for at in (a, b)
                ]
                assert codes == [200] * 5 + [429] * 7
    except MissingRedisError as error:
        pytest.skip(str(error))


def test_without_redis_requests_are_served_and_limited(registry: Registry) -> None:
    """Nobody listens there: each request is answered, never with 500, and the limit holds in this process."""
    limits = Limits(
        {"acme": RateLimits(requests_per_minute=2)}, RateLimiter(make_buckets("redis://127.0.0.1:1/0"))
    )
    with site(registry, limits, tokens=5) as at:
        headers = at.key(Scope.INFER, tokens_per_minute=1000.0)
        asked = [at.post("/v1/completions", {"model": "acme", "prompt": "x"}, headers) for _ in range(4)]
        assert asked == [200, 200, 429, 429]


@pytest.mark.parametrize("gone", [False, True])
def test_a_scrape_asks_the_engine_where_its_adapters_sit(registry: Registry, gone: bool) -> None:  # noqa: FBT001  # a parameter
    """So the gauges are fresh though nobody asks every second; without the engine the other metrics are shown."""
    asked: list[str] = []

    async def refresh_tiers() -> None:
        asked.append("tiers")
        if gone:
            raise RuntimeError("the engine is gone")

    with site(registry) as one:
        one.app.state.lorecall.adapters.refresh_tiers = refresh_tiers
        one.app.add_api_route("/metrics", lambda: "metrics")
        headers = one.key(Scope.ADMIN)
        assert one.http.get("/metrics", headers=headers).status_code == 200
        assert asked == ["tiers"]
        assert one.http.get("/metrics").status_code == 401
        assert asked == ["tiers"]
        assert one.http.get("/metrics", headers=headers).status_code == 200
        assert asked == ["tiers"]  # routers scrape many times a second; each question costs the engine a step
        one.app.state.lorecall.scraped -= SCRAPE_S
        assert one.http.get("/metrics", headers=headers).status_code == 200
        assert asked == ["tiers"] * 2


def test_a_stopping_server_refuses_all_but_the_scrape(registry: Registry) -> None:
    """Its health, too, so that routers turn away; the connection closes, and the answer says what to do."""
    with site(registry, Limits()) as one:
        one.app.add_api_route("/metrics", lambda: "metrics")
        one.app.add_api_route("/health", lambda: "well")
        headers = one.key(Scope.INFER, Scope.ADMIN)
        assert one.http.get("/health").status_code == 200
        one.app.state.lorecall.stopping.drain(0)
        for answer in (
            one.http.get("/health"),
            one.http.post("/v1/completions", json={"model": "acme"}, headers=headers),
        ):
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            assert answer.json()["error"]["code"] == "server_stopping"
        assert one.http.get("/metrics", headers=headers).status_code == 200
