"""Scores of target tokens: the numbers themselves, and those of the served path."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lorecall.audit.scorer import Sampling
from lorecall.audit.scorers.sampling import sampled_logprobs
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.cpu.target_scores import (
    ROWS_AT_ONCE,
    SAMPLING,
    prompt_logprobs_by_owner,
    scheme_of,
    score_rows,
)

from tests.server.engine.cpu.test_grouped_lora import TOLERANCE, as_request
from tests.tiny import LINEAR_MODULES, VOCABULARY, build_tiny_adapter


def test_columns_are_log_softmax_rank_and_argmax() -> None:
    """Each column equals its definition, computed from the full log-softmax."""
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)) * 4
    targets = torch.tensor([0, 99, 3, 50, 7])
    expected = torch.log_softmax(logits.double(), dim=1)
    found = score_rows(logits.clone(), targets, [None] * 5)
    of_target = expected.gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found[:, 0], of_target, atol=1e-5, rtol=0)
    assert found[:, 1].tolist() == (1 + (expected > of_target.unsqueeze(1)).sum(1)).tolist()
    assert found[:, 2].tolist() == expected.argmax(1).tolist()
    torch.testing.assert_close(found[:, 3], expected.max(1).values, atol=1e-5, rtol=0)
    assert found[:, 4].isnan().all()


def test_each_row_has_the_scheme_of_its_request() -> None:
    """Rows of requests with different schemes, and with none, share a step."""
    logits = torch.randn(6, 100, generator=torch.Generator().manual_seed(1)) * 4
    targets = torch.tensor([0, 99, 3, 50, 7, 8])
    warm, cut = Sampling(2.0), Sampling(1.0, 0.9, 3)
    found = score_rows(logits.clone(), targets, [warm, None, cut, warm, None, cut])[:, 4]
    for rows, scheme in ([0, 3], warm), ([2, 5], cut):
        torch.testing.assert_close(
            found[rows], sampled_logprobs(logits[rows], targets[rows], scheme).double(), rtol=0, atol=0
        )
    assert found[[1, 4]].isnan().all()


@pytest.mark.parametrize(
    "given",
    [
        None,
        "x",
        [0.7],
        [0.7, 0.9, "k"],
        [0.7, 0.9, True],
        [0.0, 1.0, 0],
        [float("nan"), 1.0, 0],
        [1.0, 1.5, 0],
    ],
)
def test_a_worker_ignores_an_impossible_scheme(given: Any) -> None:
    """What is no scheme counts as not asked: a worker that raises ends the engine."""
    assert scheme_of(SimpleNamespace(extra_args={SAMPLING: given})) is None


def scoring(drawn: dict[str, Any], score_from: int, adapters: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return a request that asks for target scores."""
    return {**as_request(drawn, adapters), "score_from": score_from}


@pytest.mark.engine
@pytest.mark.parametrize("length", [2, 96, 97, 98, 193, 400])
def test_scores_equal_prompt_logprobs(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]], length: int
) -> None:
    """Target scores equal vLLM's own prompt log-probabilities, across the edges of prefill chunks (96 tokens)."""
    drawn = {"adapter": 2, "length": length, "max_tokens": 1, "seed": length}
    first = max(1, length - 100)
    scored = plain_engine.run([scoring(drawn, first, adapters)])[0]["scores"]
    stock = plain_engine.run([{**as_request(drawn, adapters), "prompt_logprobs": 1}])[0]["prompt_logprobs"]
    assert len(scored) == length - first
    assert [row[0] for row in scored] == pytest.approx(stock[first:], abs=TOLERANCE)


@pytest.mark.engine
@pytest.mark.parametrize("first", ["x", 999_999, 40, -1, True, 1e9, [1]])
def test_a_worker_ignores_an_impossible_first_token(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]], first: Any
) -> None:
    """What is not an integer within the prompt counts as not asked: the request is served, the engine lives."""
    drawn = {"adapter": 1, "length": 40, "max_tokens": 2, "seed": 1}
    answer = plain_engine.run([scoring(drawn, first, adapters)])[0]
    assert answer["scores"] is None
    assert len(answer["ids"]) == 2


@pytest.mark.parametrize("length", [1, 64, 65, 128, 200])
def test_prompt_logprobs_take_few_rows_at_a_time(length: int) -> None:
    """The function of vLLM is called on at most ROWS_AT_ONCE rows, each once, in order, to the prompt's end."""
    request = SimpleNamespace(num_computed_tokens=7)
    batch = SimpleNamespace(req_id_to_index={"r": 0}, request_lora_mapping=[0])
    runner = SimpleNamespace(
        num_prompt_logprobs={"r": 1}, requests={"r": request}, input_batch=batch, lora_manager=None
    )
    rows: list[int] = []

    def upstream(runner: Any, hidden_states: torch.Tensor, scheduled: dict[str, int]) -> dict[str, Any]:
        assert scheduled["r"] <= ROWS_AT_ONCE
        assert request.num_computed_tokens == 7 + len(rows)
        rows.extend(hidden_states[: scheduled["r"], 0].int().tolist())
        if len(rows) < length:
            return {}
        del runner.num_prompt_logprobs["r"]
        return {"r": "all"}

    states = torch.arange(length).unsqueeze(1).float()
    assert prompt_logprobs_by_owner(upstream, runner, states, {"r": length}) == {"r": "all"}
    assert rows == list(range(length))
    assert request.num_computed_tokens == 7
    assert runner.num_prompt_logprobs == {}


@pytest.mark.engine
def test_scores_do_not_depend_on_the_batch(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]]
) -> None:
    """The same text scores the same alone, in a mixed batch, and in reverse order."""
    requests = [
        scoring({"adapter": n % 5, "length": 40 + 35 * n, "max_tokens": 1, "seed": n}, 20, adapters)
        for n in range(9)
    ]
    forward = plain_engine.run(requests)
    backward = plain_engine.run(requests[::-1])[::-1]
    for request, one, other in zip(requests, forward, backward, strict=True):
        alone = plain_engine.run([request])[0]["scores"]
        for scores in (one["scores"], other["scores"]):
            torch.testing.assert_close(
                torch.tensor(scores)[:, 0], torch.tensor(alone)[:, 0], atol=TOLERANCE, rtol=0
            )


@pytest.mark.engine
def test_scores_equal_decoding(plain_engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> None:
    """A text that the engine decoded scores with the log-probabilities that it was decoded with, rank 1."""
    request = as_request({"adapter": 3, "length": 50, "max_tokens": 40, "seed": 5}, adapters)
    decoded = plain_engine.run([request])[0]
    text = {**request, "ids": request["ids"] + decoded["ids"], "max_tokens": 1, "score_from": 50}
    scores = plain_engine.run([text])[0]["scores"]
    assert [row[0] for row in scores] == pytest.approx(decoded["logprobs"], abs=TOLERANCE)
    assert {row[1] for row in scores} == {1.0}


@pytest.fixture(scope="module")
def head_adapter(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> dict[str, Any]:
    """An adapter that touches `lm_head`."""
    path = tmp_path_factory.mktemp("head")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that the base ties its embeddings
        build_tiny_adapter(path, tiny("none"), rank=4, seed=9, modules=(*LINEAR_MODULES, "lm_head"))
    return {"name": "head", "id": 90, "path": str(path)}


def head_requests(head: dict[str, Any]) -> list[dict[str, Any]]:
    """Return requests that ask for prompt log-probabilities through an `lm_head` adapter and the base."""
    ids = torch.randint(3, VOCABULARY, (30,), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        {"ids": ids, "max_tokens": 2, "adapter": head, "prompt_logprobs": 1, "logprobs": 1},
        {"ids": ids[:20], "max_tokens": 2, "adapter": None, "prompt_logprobs": 1, "logprobs": 1},
    ]


@pytest.mark.engine
def test_prompt_logprobs_with_lm_head_wrapped(plain_engine: EngineHost, head_adapter: dict[str, Any]) -> None:
    """Prompt log-probabilities survive LoRA on `lm_head`, and are those that decoding gives."""
    with_head, base = plain_engine.run(head_requests(head_adapter))
    prefix = head_requests(head_adapter)
    for request, answer in zip(prefix, (with_head, base), strict=True):
        shorter = {**request, "ids": request["ids"][:-1], "prompt_logprobs": None, "max_tokens": 1}
        top = plain_engine.run([shorter])[0]
        if top["ids"][0] == request["ids"][-1]:
            assert answer["prompt_logprobs"][-1] == pytest.approx(top["logprobs"][0], abs=TOLERANCE)
        else:
            assert answer["prompt_logprobs"][-1] < top["logprobs"][0]
    grown = {**prefix[0], "ids": prefix[0]["ids"] + with_head["ids"], "max_tokens": 1}
    again = plain_engine.run([grown])[0]["prompt_logprobs"]
    assert again[-2:] == pytest.approx(with_head["logprobs"], abs=TOLERANCE)


@pytest.mark.engine
def test_stock_dies_of_prompt_logprobs_with_lm_head_wrapped(
    start_host: Callable[..., EngineHost], tiny: Callable[[str], Path], head_adapter: dict[str, Any]
) -> None:
    """Stock vLLM's engine does not survive the same requests: when this fails, the fix can go."""
    host = start_host(tiny("none"), plugin=False)
    with pytest.raises(EngineDiedError):
        host.run(head_requests(head_adapter))
