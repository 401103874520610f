"""The self-check of an engine whose noise is known, without starting one."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lorecall.audit.judging.epsilon import ENOUGH, FACTOR
from lorecall.server.engine.cpu.target_scores import SCORE_FROM, score_rows
from lorecall.server.scoring.score import EngineScoring
from lorecall.server.scoring.selfcheck import check_engine, spread

from tests.tiny import VOCABULARY, build_tokenizer


class Client:
    """vLLM's client over logits that depend on the last token, each off by up to `noise`, anew in every run."""

    model_config = SimpleNamespace(max_model_len=2048)

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.tokenizer = build_tokenizer()
        self.logits = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 2.0
        self.rng = torch.Generator().manual_seed(1)

    def get_tokenizer(self) -> Any:
        """The tokenizer."""
        return self.tokenizer

    def get_num_unfinished_requests(self) -> int:
        """Nothing else runs."""
        return 0

    def rows(self, ids: list[int]) -> torch.Tensor:
        """The logits after each of the tokens."""
        exact = self.logits[torch.tensor(ids)]
        return exact + (2.0 * torch.rand(exact.shape, generator=self.rng) - 1.0) * self.noise

    async def generate(
        self, prompt: dict[str, list[int]], params: Any, *_: Any, **__: Any
    ) -> AsyncIterator[Any]:
        """Target scores where they are asked for, else a greedy decode."""
        ids = prompt["prompt_token_ids"]
        if params.extra_args:
            first = params.extra_args[SCORE_FROM]
            targets = torch.tensor(ids[first:])
            scores = score_rows(self.rows(ids[first - 1 : -1]), targets, [None] * len(targets))
            yield SimpleNamespace(prompt_token_id_logprobs=scores.numpy())
            return
        out: list[int] = []
        logprobs = []
        for _step in range(params.max_tokens):
            row = self.rows([out[-1] if out else ids[-1]])[0].log_softmax(0)
            out.append(int(row.argmax()))
            logprobs.append({out[-1]: SimpleNamespace(logprob=float(row.max()))})
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=out, logprobs=logprobs)])


def check(noise: float, models: dict[str, Any]) -> Any:
    client: Any = Client(noise)
    scoring = EngineScoring(client, fixed_token_scores=True, by_priority=False)
    return asyncio.run(check_engine(scoring, models, chunk_edge=False))


def test_spread_is_largest_and_mean_of_all_moves() -> None:
    """Over the texts together; none where nothing was compared."""
    found = spread([[0.25, 0.0], [], [0.5]])
    assert (found.tokens, found.largest, found.mean) == (3, 0.5, 0.25)
    assert spread([[]]).largest == 0.0


def test_noise_of_a_known_size_is_bounded_and_not_wildly() -> None:
    """As with an audit's own measure: between the noise of one logit and a bit over its move between two runs."""
    found = check(0.1, {"base": None, "a": "lora"})
    assert 0.1 <= found.epsilon <= 2.0 * 0.1 * FACTOR
    assert set(found.checks) == {"mixed", "reversed", "decoded"}
    assert all(one.tokens > 0 for one in found.checks.values())


def test_an_exact_engine_has_none() -> None:
    """Enough is compared for a zero to be believed."""
    found = check(0.0, {"base": None})
    assert found.epsilon == pytest.approx(0.0, abs=1e-5)
    assert sum(one.tokens for one in found.checks.values()) >= ENOUGH
