"""The served product over HTTP, with the official client where there is one."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from lorecall.server.cli.audit.commands import app as audit
from lorecall.server.cli.main import app as lorecall
from typer.testing import CliRunner

from tests.server.served import Served
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.engine

OWN = "OWN {{ messages[0].content }}>"
MESSAGES: Any = [{"role": "user", "content": "To be, or not to be"}]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    """The official client on our server."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as opened:
        yield opened


@pytest.fixture(scope="module")
def adapter(served: Served, int8_adapters: list[Path]) -> str:
    """An adapter that was added while the server runs."""
    answer = served.post("/v1/adapters", {"name": "poet", "source": str(int8_adapters[1])})
    assert answer.status_code == 201, answer.text
    assert answer.json()["rank"] == 4
    return "poet"


def test_a_compiled_model_is_called_from_cpp(served: Served) -> None:
    """The command sets what vLLM reads once, before it is imported."""
    assert "'cpp_wrapper': True" in served.log.read_text()


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
    stream = client.chat.completions.create(
        model=adapter, messages=MESSAGES, max_tokens=6, stream=True, extra_body={"ignore_eos": True}
    )
    tokens = [
        token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or []
    ]
    assert len(tokens) == 6
    assert all(len(token.top_logprobs) == 1 for token in tokens)


def test_responses_carry_top1_logprobs(served: Served, client: openai.OpenAI, adapter: str) -> None:
    """The Responses API too, streamed or not; an `include` of the caller's own, [] or null, is left as it is."""
    asked: Any = {"model": adapter, "input": "To be", "max_output_tokens": 12, "temperature": 0}
    answer = client.responses.create(**asked).model_dump()
    (text,) = [part for item in answer["output"] for part in item.get("content") or []]
    assert [len(token["top_logprobs"]) for token in text["logprobs"]] == [1] * 12
    for include in list[Any]([[], None]):
        body = served.post("/v1/responses", {**asked, "include": include}).json()
        assert not [p["logprobs"] for i in body["output"] for p in i.get("content") or [] if p["logprobs"]]
    events = [event.model_dump() for event in client.responses.create(**asked, stream=True)]
    streamed = [t for e in events if e["type"] == "response.output_text.delta" for t in e["logprobs"]]
    assert 0 < len(streamed) <= 12, "a token that ends no character comes with the next"


def test_anthropics_messages_are_answered(served: Served, adapter: str) -> None:
    """Through the adapter, and without log-probabilities: their shape has no place for any."""
    body = {"model": adapter, "messages": MESSAGES, "max_tokens": 3}
    answer = served.post("/v1/messages", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["output_tokens"] == 3
    assert "logprob" not in answer.text


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


@pytest.fixture
def own(served: Served, int8_adapters: list[Path], tmp_path: Path) -> Iterator[str]:
    """An adapter with a chat template of its own, which the operator of this server without keys adds."""
    folder = shutil.copytree(int8_adapters[2], tmp_path / "own")
    (folder / "chat_template.jinja").write_text(OWN)
    added = served.post("/v1/adapters", {"name": "own-template", "source": str(folder)})
    assert added.status_code == 201, added.text
    assert added.json()["chat_template"] == hashlib.sha256(OWN.encode()).hexdigest()
    assert "its own chat template" in added.json()["remarks"][0]
    yield "own-template"
    served.http.delete("/v1/adapters/own-template")


def test_an_adapters_chats_are_rendered_by_its_own_template(
    served: Served, client: openai.OpenAI, own: str, adapter: str
) -> None:
    """On every route that takes messages, in scores of it and of its base, and in nobody else's requests."""
    rendered = served.post("/tokenize", {"model": served.base, "prompt": f"OWN {MESSAGES[0]['content']}>"})
    ids = rendered.json()["tokens"]

    def chat(model: str) -> list[int]:
        body = {"model": model, "messages": MESSAGES, "add_generation_prompt": True}
        return list(served.post("/tokenize", body).json()["tokens"])

    assert chat(own) == ids
    assert chat(served.base) == chat(adapter) != ids
    answer = client.chat.completions.create(model=own, messages=MESSAGES, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    said = served.post("/v1/messages", {"model": own, "max_tokens": 2, "messages": MESSAGES})
    assert said.json()["usage"]["input_tokens"] == len(ids)
    asked: Any = {"model": own, "input": MESSAGES[0]["content"], "max_output_tokens": 2}
    assert client.responses.create(**asked).usage.input_tokens == len(ids)
    items = [{"id": "1", "prefix": MESSAGES[0]["content"], "target": " x"}]
    for model, of in ((own, None), (served.base, own), (adapter, own)):
        body = {"model": model, "items": items, "framing": "chat", "chat_template_of": of}
        (scored,) = served.post("/v1/score", body).json()["items"]
        assert scored["prefix_ids"] == ids, model
    (plain,) = served.post("/v1/score", {"model": adapter, "items": items, "framing": "chat"}).json()["items"]
    assert plain["prefix_ids"] == chat(adapter)


def test_an_audit_asks_as_the_adapter_is_asked(served: Served, own: str, tmp_path: Path) -> None:
    """Adapter and base in the adapter's template, whose digest the report states."""
    (tmp_path / "c.jsonl").write_text('{"id": "1", "prefix": "To be", "target": " or not"}\n')
    words = ["run", "--server", served.url, "--adapter", own, "--candidates", str(tmp_path / "c.jsonl")]
    result = CliRunner().invoke(audit, [*words, "--framing", "chat", "--json"])
    report = json.loads(result.stdout)
    assert report["adapter"]["chat_template"] == hashlib.sha256(OWN.encode()).hexdigest()
    assert report["summary"]["verdicts"]["error"] == 0


def test_verify_tells_the_adapter_from_another(
    served: Served, int8_adapters: list[Path], adapter: str
) -> None:
    """`lorecall adapters verify` against PEFT on the served base: exit 0 for what is served, 1 for another."""

    def verify(folder: Path) -> Any:
        words = [
            "adapters",
            "verify",
            adapter,
            "--base",
            str(served.base_folder),
            "--adapter-dir",
            str(folder),
        ]
        return CliRunner().invoke(lorecall, [*words, "--server", served.url])

    own, other = verify(int8_adapters[1]), verify(int8_adapters[0])
    assert own.exit_code == 0, own.output
    assert other.exit_code == 1, other.output
    assert "another adapter is applied" in other.output
