"""Scores through one engine, without starting one."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lorecall.audit.scorer import ItemScore, Message, ScoreItem
from lorecall.audit.scorers.completions_scorer import CompletionsScorer
from lorecall.server.scoring.score import EngineScoring
from vllm.logprobs import FlatLogprobs

from tests.audit.tokenizing import FRAMINGS, TOKENIZERS, logprob, pairs, vllm_server
from tests.server.scoring.chats import CHATS
from tests.tiny import build_tiny_base
from tests.unplugged import unplugged

HISTORY = (Message("user", "To be?"), Message("assistant", "é 日本"), Message("user", "slings"))


class Client:
    """vLLM's client, as far as scoring needs it: a tokenizer, and a probability for each token."""

    model_config = SimpleNamespace(max_model_len=2048)

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.renderer = self

    async def render_messages_async(self, messages: Any, params: Any) -> tuple[Any, dict[str, str]]:
        """The messages in the tokenizer's chat template, as vLLM's renderer puts them into it."""
        text = self._tokenizer.apply_chat_template(messages, **params.get_apply_chat_template_kwargs())
        return messages, {"prompt": text}

    def get_tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

    def get_num_unfinished_requests(self) -> int:
        """Nothing else runs."""
        return 0

    async def generate(self, prompt: dict[str, list[int]], *_: Any, **__: Any) -> AsyncIterator[Any]:
        """The rows of the prompt's log-probabilities: each the prompt's token and the most likely one."""
        rows = FlatLogprobs()
        for token in prompt["prompt_token_ids"]:
            rows.append_fast([token, token], [logprob(token)] * 2, itertools.chain([1], [1]), [None, None])
        yield SimpleNamespace(prompt_logprobs=rows)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pair=pairs(), framing=st.sampled_from(FRAMINGS), messages=st.sampled_from([(), HISTORY]))
@example(pair=("hello", "\n\nworld"), framing=("chat", None), messages=())
@example(pair=("outra", "geous"), framing=("raw", None), messages=())
@example(pair=("outra", "geous"), framing=("raw", None), messages=HISTORY)
def test_our_server_and_any_vllm_server_score_the_same_tokens(
    kind: str, pair: tuple[str, str], framing: tuple[Any, str | None], messages: tuple[Message, ...]
) -> None:
    """`/v1/score` and `/v1/completions` over one tokenizer: the same split of the same text, the worse of two."""
    tokenizer, item = TOKENIZERS[kind](), ScoreItem("1", *pair, messages=messages)
    client: Any = Client(tokenizer)
    scoring = EngineScoring(client, fixed_token_scores=False, by_priority=False)
    (ours,) = asyncio.run(scoring.score([item], None, *framing))
    with CompletionsScorer("http://server", transport=vllm_server(tokenizer)) as scorer:
        (theirs,) = scorer.framed(*framing).score("base", [item])
    assert ours == theirs


def test_the_loop_answers_while_texts_are_tokenised() -> None:
    """No text has its tokens before a task of the loop had its turn, which came after the call."""
    answered, tokenizer = threading.Event(), TOKENIZERS["byte-level"]()

    class Waiting:
        """A tokenizer that waits for the loop."""

        def encode(self, *args: Any, **kwargs: Any) -> Any:
            assert answered.wait(60), "the loop had no turn"
            return tokenizer.encode(*args, **kwargs)

        def convert_ids_to_tokens(self, ids: Any) -> Any:
            return tokenizer.convert_ids_to_tokens(ids)

    async def main() -> list[ItemScore]:
        client: Any = Client(Waiting())
        scoring = EngineScoring(client, fixed_token_scores=False, by_priority=False)
        items = [ScoreItem(str(n), "to be", " or not") for n in range(8)]
        scores, _ = await asyncio.gather(scoring.score(items, None, "raw", None), health())
        return scores

    async def health() -> None:
        for _ in range(3):  # the tasks of all texts have begun by then
            await asyncio.sleep(0)
        answered.set()

    assert [score.error for score in asyncio.run(main())] == [""] * 8


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """VLLM's own renderer over a tiny base, without an engine and our plugins."""
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415  it takes seconds to import
    from vllm.renderers import renderer_from_config  # noqa: PLC0415

    base = build_tiny_base(tmp_path_factory.mktemp("base"))
    with unplugged():
        arguments = EngineArgs(model=str(base), dtype="float32", max_model_len=1024)
        return renderer_from_config(arguments.create_engine_config())


def tokens_of(renderer: Any, chat: list[dict[str, str]], template: str | None) -> list[int]:
    """The prompt that vLLM's routes make of a chat."""
    from vllm.renderers import ChatParams, TokenizeParams  # noqa: PLC0415

    params = ChatParams(template, chat_template_kwargs={"add_generation_prompt": True})
    tokenize = TokenizeParams(max_total_tokens=None, add_special_tokens=False)
    _, prompts = renderer.render_chat([chat], params, tokenize)
    return list(prompts[0]["prompt_token_ids"])


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"]
)
@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_rendered_as_vllms_own_routes_render_it(
    renderer: Any, name: str, template: str | None
) -> None:
    """Token for token, by the model's chat template, by one of the server's start, and by an adapter's own."""
    client: Any = Client(renderer.get_tokenizer())
    client.renderer = renderer
    from vllm.renderers import ChatParams  # noqa: PLC0415

    params = ChatParams(template) if template else None
    scoring = EngineScoring(client, fixed_token_scores=False, by_priority=False, chat_params=params)
    plain = EngineScoring(client, fixed_token_scores=False, by_priority=False)
    item = ScoreItem("1", "", " x", messages=tuple(Message(**one) for one in CHATS[name]))
    for framing in ("raw", "chat"):
        (score,) = asyncio.run(scoring.score([item], None, framing, None))
        (own,) = asyncio.run(plain.score([item], None, framing, None, template=template or ""))
        assert (score.error, list(score.prefix_ids)) == ("", tokens_of(renderer, CHATS[name], template))
        assert own.prefix_ids == score.prefix_ids
