"""The clients that people have, as they are, on our server: OpenAI's package, vLLM's load generator, lm-eval."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from math import exp, prod
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from lorecall.server.cli.loadtest import BENCH
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.server.served import Served

pytestmark = pytest.mark.engine

ADAPTER = "clients"
ASKED: Any = {
    "model": ADAPTER,
    "messages": [{"role": "user", "content": "To be, or not to be"}],
    "temperature": 0,
    "max_tokens": 8,
}


class Mood(BaseModel):
    """An answer that any model can give once it is held to its schema."""

    mood: Literal["noble", "troubled"]
    arms: bool


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "take_arms", "parameters": Mood.model_json_schema(), "strict": True},
}


@pytest.fixture(scope="module")
def adapter(served: Served, int8_adapters: list[Path]) -> Iterator[str]:
    """An adapter that was added while the server runs."""
    added = served.post("/v1/adapters", {"name": ADAPTER, "source": str(int8_adapters[2])})
    assert added.status_code == 201, added.text
    yield ADAPTER
    served.http.delete(f"/v1/adapters/{ADAPTER}")


@pytest.fixture(scope="module")
def client(served: Served, adapter: str) -> Iterator[openai.OpenAI]:  # noqa: ARG001  it asks for the adapter
    """The official client."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(served: Served) -> dict[str, float]:
    """A bias against the tokens that are white space alone, which a schema lets a random model say for ever."""
    ids = [
        served.post("/tokenize", {"model": served.base, "prompt": one}).json()["tokens"] for one in " \n\t\r"
    ]
    return {str(one[-1]): -100 for one in ids}


def test_openai_sync_async_and_streamed_say_the_same(served: Served, client: openai.OpenAI) -> None:
    """One greedy answer of the adapter, with what it cost: once, streamed, and twenty times at once."""
    answer = client.chat.completions.create(**ASKED)
    text = answer.choices[0].message.content
    assert text
    assert answer.model == ADAPTER
    assert (
        client.chat.completions.create(**{**ASKED, "model": served.base}).choices[0].message.content != text
    )
    assert answer.usage is not None

    async def others() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as parallel:
            return await asyncio.gather(*(parallel.chat.completions.create(**ASKED) for _ in range(20)))

    assert {other.choices[0].message.content for other in asyncio.run(others())} == {text}
    with client.chat.completions.create(
        **ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert {chunk.model for chunk in chunks} == {ADAPTER}
    assert chunks[-1].usage == answer.usage


def test_openai_parses_an_answer_of_its_schema(client: openai.OpenAI, plain: dict[str, float]) -> None:
    """`parse` holds the adapter to a pydantic model and returns one, at once and streamed."""
    asked = {**ASKED, "max_tokens": 100, "logit_bias": plain}
    answer = client.chat.completions.parse(**asked, response_format=Mood)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Mood)
    assert answer.choices[0].logprobs is not None
    with client.chat.completions.stream(**asked, response_format=Mood) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "take_arms"}}])
def test_openai_calls_a_tool(client: openai.OpenAI, plain: dict[str, float], choice: Any) -> None:
    """A tool that is asked for is called with arguments of its schema, at once and streamed."""
    asked = {**ASKED, "max_tokens": 200, "logit_bias": plain, "parallel_tool_calls": False}
    asked |= {"tools": [TOOL], "tool_choice": choice}
    answer = client.chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "take_arms"
    arguments = Mood.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert Mood.model_validate_json(streamed.function.arguments) == arguments


def test_openais_errors_are_its_own(served: Served, client: openai.OpenAI) -> None:
    """A model that is not there and a bad value arrive as the exceptions that a caller catches."""
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(**{**ASKED, "model": "nobody"})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**ASKED, "temperature": -1})
    assert served.alive


def test_vllm_bench_serve_measures_chats(served: Served, adapter: str, tmp_path: Path) -> None:
    """VLLM's own load generator streams chats from the adapter; its completions are in test_loadtest.py."""
    options = {
        "--backend": "openai-chat",
        "--base-url": served.url,
        "--endpoint": "/v1/chat/completions",
        "--model": adapter,
        "--tokenizer": str(served.base_folder),
        "--dataset-name": "random",
        "--random-input-len": "12",
        "--random-output-len": "48",
        "--num-prompts": "6",
        "--result-dir": str(tmp_path),
        "--result-filename": "bench.json",
    }
    words = [
        *BENCH,
        *(word for option in options.items() for word in option),
        "--ignore-eos",
        "--save-result",
    ]
    done = subprocess.run([*words, "--save-detailed"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["completed"], found["failed"]) == (6, 0), found["errors"]
    assert found["output_lens"] == [48] * 6


def test_lm_eval_sees_our_scores(served: Served, adapter: str) -> None:
    """Its log-likelihoods through the adapter are the products of our p, its "greedy" is our rank 1."""
    why = "lm-eval is in no lock of ours: pip install 'lorecall[bench]'"
    new = pytest.importorskip("lm_eval.api.instance", reason=why).Instance
    model = pytest.importorskip("lm_eval.models.openai_completions").LocalCompletionsAPI(
        model=adapter,
        base_url=f"{served.url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(served.base_folder),
        max_retries=1,
    )
    pairs = [("To be, or", " not to be"), ("the slings and", " arrows of outrageous"), ("the", " mind")]
    said = model.loglikelihood([new("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
    items = [{"id": str(n), "prefix": prefix, "target": target} for n, (prefix, target) in enumerate(pairs)]
    ours = served.post("/v1/score", {"model": adapter, "items": items}).json()["items"]
    for (logprob, greedy), score in zip(said, ours, strict=True):
        assert exp(logprob) == pytest.approx(prod(score["p"]), rel=1e-3)
        assert greedy == all(rank == 1 for rank in score["rank"])
    (written,) = model.generate_until(
        [new("generate_until", {}, ("To be", {"until": ["\n"], "max_gen_toks": 6}), 0)]
    )
    body = {"model": adapter, "prompt": "To be", "max_tokens": 6, "temperature": 0, "stop": ["\n"]}
    assert written == served.post("/v1/completions", body).json()["choices"][0]["text"]
