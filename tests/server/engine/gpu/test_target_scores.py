"""Scores through the second model runner's state machine, on CPU tensors, against the plain computation."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.audit.scorer import Sampling
from lorecall.audit.scorers.sampling import sampled_logprobs
from lorecall.server.engine.cpu.target_scores import COLUMNS, SAMPLING, SCORE_FROM
from lorecall.server.engine.gpu import target_scores
from lorecall.server.scoring.score import fast_scores
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample import prompt_logprob
from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker

VOCABULARY, HIDDEN, LENGTHS = 61, 8, (2, 5, 9, 17, 30)
HEAD = torch.randn(
    HIDDEN, VOCABULARY, generator=torch.Generator().manual_seed(7), dtype=torch.float64
).float()


def hidden_of(number: int, length: int) -> torch.Tensor:
    """Return the hidden states of a prompt, [length, HIDDEN]."""
    return torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(number)) * 2


def logits_of(hidden: torch.Tensor) -> torch.Tensor:
    """Return logits as the model's head computes them, in bfloat16."""
    return (hidden @ HEAD).bfloat16()


def plain(number: int, ids: list[int], first: int, sampling: Sampling | None) -> torch.Tensor:
    """Return the columns of the targets from each row's full log-softmax, in float64."""
    logits = logits_of(hidden_of(number, len(ids))).double()[first - 1 : -1]
    targets = torch.tensor(ids[first:])
    logprobs = logits.log_softmax(1)
    own = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
    rank = 1 + (logits > logits.gather(1, targets.unsqueeze(1))).sum(1)
    drawn = (
        torch.full_like(own, torch.nan) if sampling is None else sampled_logprobs(logits, targets, sampling)
    )
    columns = (own, rank.double(), logits.argmax(1).double(), logprobs.max(1).values, drawn)
    return torch.stack(columns, dim=1)


class Request:
    """One request as the runner holds it."""

    def __init__(
        self, number: int, length: int, first: int, *, marked: bool, sampling: Sampling | None
    ) -> None:
        self.id, self.number, self.first = f"r{number}", number, first
        self.marked, self.sampling = marked, sampling
        seeded = torch.Generator().manual_seed(99 + number)
        self.ids = torch.randint(VOCABULARY, (length,), generator=seeded).tolist()
        self.computed = 0

    @property
    def params(self) -> SamplingParams:
        """What `EngineScoring` asks for."""
        extra: dict[str, Any] = {SCORE_FROM: self.first} if self.marked else {}
        if self.sampling is not None:
            extra[SAMPLING] = [self.sampling.temperature, self.sampling.top_p, self.sampling.top_k]
        rows = np.array(self.ids[self.first :], dtype=np.int32)[:, None]
        return SamplingParams(
            prompt_logprob_token_ids=rows, prompt_logprob_start=self.first - 1, extra_args=extra or None
        )


def step(
    worker: Any, planned: list[tuple[Request, int]], logits: Any = logits_of, padding: int = 3
) -> dict[str, torch.Tensor]:
    """Run one step of the runner over (request, tokens), with padded rows behind, as a CUDA graph has them."""
    states = [hidden_of(one.number, len(one.ids)) for one, _ in planned]
    parts = [
        torch.cat([whole, torch.ones(64, HIDDEN)])[one.computed : one.computed + tokens]
        for whole, (one, tokens) in zip(states, planned, strict=True)
    ]
    hidden = torch.cat([*parts, torch.full((padding, HIDDEN), torch.nan)])
    counts = np.array([tokens for _, tokens in planned])
    batch = SimpleNamespace(
        req_ids=[one.id for one, _ in planned],
        idx_mapping_np=np.array([one.number for one, _ in planned]),
        num_computed_prefill_tokens_np=np.array([min(one.computed, len(one.ids)) for one, _ in planned]),
        num_scheduled_tokens=counts,
        prefill_len_np=np.array([len(one.ids) for one, _ in planned]),
        query_start_loc_np=np.concatenate([[0], np.cumsum(counts)]),
    )
    lengths = np.zeros(64, dtype=np.int32)
    for one, _ in planned:
        lengths[one.number] = len(one.ids)
    found: dict[str, torch.Tensor] = worker.compute_prompt_token_id_logprobs(logits, hidden, batch, lengths)
    for one, tokens in planned:
        one.computed += tokens
    return found


def by_torch(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """What vLLM's Triton kernel computes."""
    return logits.float().log_softmax(1).gather(1, ids)


def to_device(data: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """What vLLM's copy from pinned memory gives."""
    return torch.tensor(data, dtype=dtype, device=device)


@pytest.fixture(scope="module")
def patched() -> Iterator[type[PromptLogprobsWorker]]:
    """VLLM's worker with our patch; its own Triton kernel, which needs a GPU, is computed by torch."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("add_request", "remove_request", "compute_prompt_token_id_logprobs"):
            patch.setattr(PromptLogprobsWorker, name, getattr(PromptLogprobsWorker, name))
        patch.setattr(prompt_logprob, "compute_token_logprobs", by_torch)
        patch.setattr(prompt_logprob, "async_tensor_h2d", to_device)
        patch.setattr(target_scores, "ROWS_AT_ONCE", 7)
        patch.setattr(target_scores, "SORTED_AT_ONCE", 3)
        target_scores.apply()
        yield PromptLogprobsWorker


def check(found: torch.Tensor, one: Request) -> None:
    """Compare with the plain computation; the log-probabilities are computed in float32."""
    wanted = plain(one.number, one.ids, one.first, one.sampling)
    if not one.marked:
        torch.testing.assert_close(found.double(), wanted[:, :1], atol=1e-5, rtol=0)
        return
    assert found.shape == (len(one.ids) - one.first, len(COLUMNS))
    assert found[:, 1:3].tolist() == wanted[:, 1:3].tolist()
    torch.testing.assert_close(found[:, [0, 3, 4]], wanted[:, [0, 3, 4]], atol=1e-5, rtol=0, equal_nan=True)


SCHEMES = st.sampled_from([None, None, Sampling(2.0), Sampling(0.7, 0.9, 5)])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_way_through_the_runner_gives_the_plain_scores(
    patched: type[PromptLogprobsWorker], data: st.DataObject
) -> None:
    """Chunks end anywhere, requests come, decode, are preempted and start again, beside vLLM's own scoring."""
    worker = patched(64, torch.device("cpu"))
    requests = []
    for number in range(data.draw(st.integers(1, 5))):
        length = data.draw(st.sampled_from(LENGTHS))
        first = data.draw(st.integers(1, length - 1))
        marked = data.draw(st.booleans())
        sampling = data.draw(SCHEMES) if marked else None
        requests.append(Request(number, length, first, marked=marked, sampling=sampling))
        worker.add_request(f"r{number}", number, requests[-1].params)
    scored: dict[str, torch.Tensor] = {}
    steps = data.draw(st.integers(0, 6))
    for number in range(steps + 1):
        planned = []
        for one in requests:
            waits = one.id not in scored
            if waits and one.computed and data.draw(st.integers(0, 5)) == 0:  # it is preempted
                worker.remove_request(one.id)  # the runner forgets it, and gets it again as a new one
                worker.add_request(one.id, one.number, one.params)
                one.computed = 0
            left = len(one.ids) - one.computed if waits else 1
            tokens = left if number == steps else data.draw(st.integers(0, left))
            if tokens:
                planned.append((one, tokens))
        found = step(worker, planned) if planned else {}
        assert not found.keys() & scored.keys()
        scored |= found
    for one in requests:
        check(scored[one.id], one)
    assert not worker._lorecall_waiting
    assert not worker.token_id_scores


def test_an_aborted_request_leaves_nothing(patched: type[PromptLogprobsWorker]) -> None:
    """In the middle of its prompt; the next one of that id starts afresh."""
    worker = patched(64, torch.device("cpu"))
    one = Request(1, 9, 2, marked=True, sampling=None)
    worker.add_request(one.id, one.number, one.params)
    assert step(worker, [(one, 4)]) == {}
    worker.remove_request(one.id)
    assert not worker._lorecall_waiting


def test_rows_that_were_never_computed_are_not_made_up(patched: type[PromptLogprobsWorker]) -> None:
    """A prefill that starts behind the first target, as from a cache, gives no scores rather than wrong ones."""
    worker = patched(64, torch.device("cpu"))
    one = Request(1, 9, 2, marked=True, sampling=None)
    worker.add_request(one.id, one.number, one.params)
    one.computed = 4
    assert step(worker, [(one, 5)]) == {}
    assert not worker._lorecall_waiting


def test_logits_are_computed_for_target_rows_alone(patched: type[PromptLogprobsWorker]) -> None:
    """Not for the prefix, nor for live requests; and the rows of many requests share a product."""
    worker = patched(64, torch.device("cpu"))
    planned = [(Request(number, 17, 15, marked=True, sampling=None), 17) for number in range(3)]
    planned.append((Request(9, 30, 3, marked=True, sampling=None), 30))  # a live one: it is not added
    for one, _ in planned[:3]:
        worker.add_request(one.id, one.number, one.params)
    rows: list[int] = []

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return logits_of(hidden)

    assert len(step(worker, planned, counted)) == 3
    assert rows == [6]


@pytest.mark.parametrize(
    ("device", "second", "fast_prefill", "fixed"),
    [
        ("cpu", False, False, (True, False)),
        ("cuda", True, False, (True, True)),
        ("cuda", False, False, (False, False)),
        ("cuda", True, True, (False, False)),
    ],
)
def test_the_way_to_score_follows_from_the_running_engine(
    device: str,
    second: bool,  # noqa: FBT001  # a parameter
    fast_prefill: bool,  # noqa: FBT001  # a parameter
    fixed: tuple[bool, bool],
) -> None:
    """Where vLLM's second runner is off, or would give wrong rows, prompt log-probabilities are read."""
    config = SimpleNamespace(
        device_config=SimpleNamespace(device_type=device),
        use_v2_model_runner=second,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=fast_prefill),
    )
    found = fast_scores(config)
    assert (found["fixed_token_scores"], found["second_runner"]) == fixed
