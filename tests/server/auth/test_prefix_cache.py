"""On a running engine: the prefix cache does not tell one key what another asked, whichever route asks."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.server.served import Served

pytestmark = pytest.mark.engine

BASE: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
SAGEMAKER = "X-Amzn-SageMaker-Adapter-Identifier"  # names the model on /invocations
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(guarded: Served) -> Iterator[Served]:
    """The server, asked with the admin key."""
    guarded.http.headers[SAGEMAKER] = guarded.base
    yield guarded
    del guarded.http.headers[SAGEMAKER]


@pytest.fixture(scope="module")
def callers(server: Served) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients with two tenants' keys."""
    made = [server.post("/v1/keys", {"name": name, "scopes": ["infer"]}).json()["secret"] for name in "ab"]
    clients = [
        httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Bearer {secret}", SAGEMAKER: server.base},
            timeout=120,
        )
        for secret in made
    ]
    yield clients[0], clients[1]
    for client in clients:
        client.close()


def hits(server: Served) -> float:
    """How many tokens the engine has taken from its prefix cache so far."""
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))


def text() -> str:
    """A prompt of more than one block of 128 tokens that no test has sent before."""
    return f"{next(NUMBERS)} is where this one begins. " + "word and word again; " * 16


def ids() -> list[int]:
    """The same as token ids."""
    return [10 + next(NUMBERS), *range(20, 220)]


def chat() -> list[dict[str, str]]:
    """The same as a chat."""
    return [{"role": "user", "content": text()}]


ROUTES: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "text": lambda: ("/v1/completions", {"prompt": text(), **BASE}),
    "token ids": lambda: ("/v1/completions", {"prompt": ids(), **BASE}),
    "batch": lambda: ("/v1/completions", {"prompt": [text(), text()], **BASE}),
    "batch of token ids": lambda: ("/v1/completions", {"prompt": [ids(), ids()], **BASE}),
    "several answers": lambda: ("/v1/completions", {"prompt": text(), **BASE, "n": 2, "temperature": 1}),
    "beam search": lambda: ("/v1/completions", {"prompt": text(), **BASE, "use_beam_search": True, "n": 2}),
    "a salt of its own": lambda: ("/v1/completions", {"prompt": text(), **BASE, "cache_salt": "mine"}),
    "chat": lambda: ("/v1/chat/completions", {"messages": chat(), **BASE}),
    "batch of chats": lambda: ("/v1/chat/completions/batch", {"messages": [chat(), chat()], **BASE}),
    "responses": lambda: ("/v1/responses", {"input": text(), "max_output_tokens": 1, "temperature": 0}),
    "messages": lambda: ("/v1/messages", {"messages": chat(), **BASE}),
    "tokens in, tokens out": lambda: (
        "/inference/v1/generate",
        {"token_ids": ids(), "sampling_params": {"max_tokens": 1}},
    ),
    "generative scoring": lambda: (
        "/generative_scoring",
        {"query": text(), "items": ["one", "two"], "label_token_ids": [20, 30]},
    ),
    "sagemaker": lambda: ("/invocations", {"prompt": text(), **BASE}),
}

SHARING = ("several answers", "beam search", "generative scoring")  # within one request


@pytest.mark.parametrize("route", ROUTES)
def test_a_prompt_is_cached_for_its_own_key_only(
    server: Served, callers: tuple[httpx.Client, httpx.Client], route: str
) -> None:
    """Asked by A: no hits. By B, the same: no hits. By the admin: none. By A, and then B, again: hits."""
    path, body = ROUTES[route]()
    body["model"] = server.base

    def ask(client: httpx.Client) -> float:
        before = hits(server)
        answer = client.post(path, json=body)
        assert answer.is_success, answer.text
        return hits(server) - before

    a, b = callers
    first = [ask(a), ask(b), ask(server.http)]
    assert route in SHARING or first == [0, 0, 0]
    assert ask(a) > max(first)
    assert ask(b) > max(first)


def test_another_keys_salt_cannot_be_asked_for(
    server: Served, callers: tuple[httpx.Client, httpx.Client]
) -> None:
    """The same `cache_salt` in the bodies of two keys shares nothing."""
    body = {"model": server.base, "prompt": text(), **BASE, "cache_salt": "a-common-salt"}
    a, b = callers
    assert a.post("/v1/completions", json=body).is_success
    before = hits(server)
    assert b.post("/v1/completions", json=body).is_success
    assert hits(server) == before
