"""The served product over HTTP, with the official client where there is one."""

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.served import Served
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.engine

MESSAGES: Any = [{"role": "user", "content": "To be, or not to be"}]


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    """The official client on our server."""
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")


@pytest.fixture(scope="module")
def adapter(served: Served, int8_adapters: list[Path]) -> str:
    """An adapter that was added while the server runs."""
    answer = served.post("/v1/adapters", {"name": "poet", "source": str(int8_adapters[1])})
    assert answer.status_code == 201, answer.text
    assert answer.json()["rank"] == 4
    return "poet"


def test_chat_carries_top1_logprobs(client: openai.OpenAI, adapter: str) -> None:
    """Every chat token comes with the log-probability of the argmax, without asking; false turns it off."""
    asked: Any = {"model": adapter, "messages": MESSAGES, "max_tokens": 5, "temperature": 0}
    answer = client.chat.completions.create(**asked)
    assert answer.model == adapter
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [1] * 5
    assert all(token.logprob == token.top_logprobs[0].logprob for token in logprobs.content)
    assert client.chat.completions.create(**asked, logprobs=False).choices[0].logprobs is None


def test_completions_carry_top1_logprobs(served: Served, client: openai.OpenAI, adapter: str) -> None:
    """Completions too; null and false turn them off, a number is left as asked."""
    answer = client.completions.create(model=adapter, prompt="To be", max_tokens=4, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.top_logprobs is not None
    assert len(logprobs.top_logprobs) == 4
    body = {"model": adapter, "prompt": "To be", "max_tokens": 2}
    for off in (None, False):
        assert (
            served.post("/v1/completions", {**body, "logprobs": off}).json()["choices"][0]["logprobs"] is None
        )
    asked = {**body, "logprobs": 3, "temperature": 0, "return_tokens_as_token_ids": True}
    three = served.post("/v1/completions", asked).json()["choices"][0]["logprobs"]
    assert [len(top) for top in three["top_logprobs"]] == [3, 3]


def test_streaming_carries_top1_logprobs(client: openai.OpenAI, adapter: str) -> None:
    """A streamed chat brings its log-probabilities chunk by chunk."""
    stream = client.chat.completions.create(model=adapter, messages=MESSAGES, max_tokens=6, stream=True)
    tokens = [
        token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or []
    ]
    assert len(tokens) == 6
    assert all(len(token.top_logprobs) == 1 for token in tokens)


def test_models_health_metrics(served: Served, client: openai.OpenAI, adapter: str) -> None:
    """The routes of vLLM work: the adapter is a model by its plain name, with the base as its parent."""
    cards = {card.id: card.model_dump() for card in client.models.list().data}
    assert cards[adapter]["parent"] == served.base
    assert client.models.retrieve(adapter).parent == served.base  # type: ignore[attr-defined]  # vLLM's field
    assert client.models.retrieve(served.base).id == served.base
    assert served.http.get("/v1/models/nobody").status_code == 404
    assert served.http.get("/health").status_code == 200
    assert "vllm:num_requests_running" in served.http.get("/metrics").text


def test_adapter_comes_and_goes(served: Served, int8_adapters: list[Path]) -> None:
    """An adapter is added, listed, shown and removed over HTTP; afterwards its name is unknown."""
    body = {"name": "guest", "source": str(int8_adapters[0])}
    added = served.post("/v1/adapters", body).json()
    assert served.post("/v1/adapters", body).json() == added
    listed = {name: value for name, value in added.items() if name != "training"}
    assert listed in served.http.get("/v1/adapters").json()["adapters"]
    assert served.http.get("/v1/adapters/guest").json() == added
    removed = served.http.delete("/v1/adapters/guest").json()
    assert (removed["version"], removed["state"]) == (added["version"], "retired")
    assert served.http.get("/v1/adapters/guest").status_code == 404
    answer = served.post("/v1/completions", {"model": "guest", "prompt": "x", "max_tokens": 1})
    assert answer.status_code == 404


def test_a_name_moves_to_a_new_version(served: Served, int8_adapters: list[Path]) -> None:
    """The same name with other bytes answers as the other adapter from then on."""
    scores = []
    item = {"id": "1", "prefix": "To be, or", "target": " not to be"}
    for path in int8_adapters[:2]:
        assert served.post("/v1/adapters", {"name": "moving", "source": str(path)}).status_code == 201
        scores.append(served.post("/v1/score", {"model": "moving", "items": [item]}).json())
    assert scores[0]["version"] != scores[1]["version"]
    assert scores[0]["items"][0]["p"] != pytest.approx(scores[1]["items"][0]["p"], rel=0.01)
    served.http.delete("/v1/adapters/moving")


def test_vllm_routes_share_the_pipeline(served: Served, int8_adapters: list[Path]) -> None:
    """The load and unload routes of vLLM keep their shapes; what they load is an adapter like any other."""
    body = {"lora_name": "classic", "lora_path": str(int8_adapters[2])}
    assert served.post("/v1/load_lora_adapter", body).status_code == 200
    assert served.http.get("/v1/adapters/classic").json()["rank"] == 8
    again = served.post("/v1/load_lora_adapter", body)
    assert again.status_code == 400
    assert "already been loaded" in again.json()["error"]["message"]
    assert served.post("/v1/unload_lora_adapter", {"lora_name": "classic"}).status_code == 200
    assert served.post("/v1/unload_lora_adapter", {"lora_name": "classic"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"name": "x", "source": "/nowhere"}, 400, "/nowhere"),
        ({"name": "../x", "source": "/nowhere"}, 400, "no adapter name"),
        ({"name": "x"}, 400, "source"),
        ({"name": "x", "source": "/nowhere", "colour": "red"}, 400, "not known"),
    ],
)
def test_bad_adapter_requests_say_what_is_wrong(
    served: Served, body: dict[str, Any], status: int, said: str
) -> None:
    """A refused request answers in OpenAI's error shape and names the value."""
    answer = served.post("/v1/adapters", body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_rank_over_the_maximum_is_refused(served: Served, tmp_path: Path) -> None:
    """The error names the rank, the maximum and the flag that raises it."""
    path = build_tiny_adapter(tmp_path, served.base_folder, rank=32)
    message = served.post("/v1/adapters", {"name": "big", "source": str(path)}).json()["error"]["message"]
    assert "32" in message
    assert "16" in message
    assert "--max-lora-rank" in message
