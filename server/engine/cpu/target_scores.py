"""Scores of given target tokens on the CPU engine: only the asked rows, in bounded memory.

The GPU's second model runner has fixed-token scoring (`prompt_logprob_token_ids`); the CPU's runner computes the
logits of every prompt row, a full log-softmax and a top-k. Here a request whose sampling parameters carry
`extra_args={"lorecall_score_from": k}` gets the scores of its prompt tokens k, k+1, ..., and nothing else is
computed. They are returned in the engine's own field for fixed-token scores.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.audit.scorer import Sampling
from lorecall.audit.scorers.sampling import sampled_logprobs
from lorecall.server.engine.common.plugin import require, require_fields

SCORE_FROM = "lorecall_score_from"
"""The key in `SamplingParams.extra_args`: index of the first prompt token to score, at least 1."""

SAMPLING = "lorecall_sampling"
"""A further key: [temperature, top-p, top-k], under which each token's log probability is wanted as well."""

COLUMNS = ("logprob", "rank", "top1_id", "top1_logprob", "sampled")
"""The columns of a request's scores, float64, one row per scored token.

"sampled" is the log probability under the request's sampling scheme, and not a number where none was given.
"""

ROWS_AT_ONCE = 64
"""Rows of logits in memory at a time: 64 x 49,152 float32 is 12.6 MB, which fits into a CPU's cache."""


@dataclass(slots=True)
class PendingScores:
    """The scores of requests whose prompt is still processed, and of those whose prompt ended in this step.

    Attributes:
        partial: By request id, shape [targets, len(COLUMNS)], filled chunk by chunk.
        finished: By request id, what this step's output returns.
    """

    partial: dict[str, torch.Tensor] = field(default_factory=dict)
    finished: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The targets of one request that one step scores.

    Attributes:
        first_row: Row of the step's hidden states that predicts the first token of this chunk.
        targets: The token ids to score.
        into: Where their scores go, shape [len(targets), len(COLUMNS)].
        lora_id: The request's adapter, 0 for none.
        sampling: The request's sampling scheme, if it wants probabilities under one.
    """

    first_row: int
    targets: list[int]
    into: torch.Tensor
    lora_id: int
    sampling: Sampling | None = None


def score_rows(
    logits: torch.Tensor, targets: torch.Tensor, schemes: Sequence[Sampling | None]
) -> torch.Tensor:
    """Return the score columns of `targets` [n] under `logits` [n, vocab]: shape [n, 5], float64.

    log p = logit - logsumexp(logits); rank = 1 + how many logits are strictly larger. Overwrites `logits`.
    """
    logits = logits.float()
    sampled = logits.new_full(targets.shape, torch.nan)
    for scheme in {one for one in schemes if one is not None}:
        at = targets.new_tensor([index for index, one in enumerate(schemes) if one == scheme])
        sampled[at] = sampled_logprobs(logits[at], targets[at], scheme)
    target_logit = logits.gather(1, targets.unsqueeze(1))
    top, top_ids = logits.max(dim=1)
    rank = 1 + (logits > target_logit).sum(dim=1)
    log_sum = logits.sub_(top.unsqueeze(1)).exp_().sum(dim=1).log()
    shifted = target_logit.squeeze(1) - top
    columns = (shifted - log_sum, rank, top_ids, -log_sum, sampled)
    return torch.stack([column.double() for column in columns], dim=1)


def score_from(request: Any) -> int | None:
    """Return the index of the first prompt token to score; None where none is asked, or no such token exists.

    A worker that raises ends the engine, so a value that cannot be right counts as not given.
    """
    extra = (request.sampling_params and request.sampling_params.extra_args) or {}
    first, prompt = extra.get(SCORE_FROM), request.prompt_token_ids
    usable = type(first) is int and prompt is not None and 1 <= first < len(prompt)
    return first if usable else None


def scheme_of(sampling_params: Any) -> Sampling | None:
    """Return the sampling scheme under which probabilities are wanted; None where none, or none that can be."""
    given = sampling_params.extra_args.get(SAMPLING)
    if type(given) is not list or [type(value) for value in given] != [float, float, int]:
        return None
    temperature, top_p, top_k = given
    usable = 0.0 < temperature < math.inf and 0.0 < top_p <= 1.0 and 0 <= top_k < 2**31
    return Sampling(temperature, top_p, top_k) if usable else None


def take_chunk(runner: Any, request: Any, first: int, scheduled: int, scores: PendingScores) -> Chunk | None:
    """Return the targets of one request that this step scores; a prompt that ends here moves to `finished`."""
    prompt, start = request.prompt_token_ids, request.num_computed_tokens
    if start >= len(prompt):
        return None  # decoding
    rows = scores.partial.get(request.req_id)
    if rows is None:
        rows = torch.zeros(len(prompt) - first, len(COLUMNS), dtype=torch.float64)
        scores.partial[request.req_id] = rows
    if start + scheduled >= len(prompt):
        scores.finished[request.req_id] = scores.partial.pop(request.req_id)
    low, high = max(first, start + 1), min(len(prompt), start + scheduled + 1)
    if low >= high:
        return None
    index = runner.input_batch.req_id_to_index[request.req_id]
    row = int(runner.query_start_loc.np[index])
    lora_id = int(runner.input_batch.request_lora_mapping[index])
    into = rows[low - first : high - first]
    return Chunk(row + low - 1 - start, prompt[low:high], into, lora_id, scheme_of(request.sampling_params))


def score_chunks(runner: Any, hidden_states: torch.Tensor, chunks: list[Chunk]) -> None:
    """Fill `into` of every chunk from the step's hidden states [tokens, hidden], ROWS_AT_ONCE rows at a time."""
    targets = torch.tensor([token for chunk in chunks for token in chunk.targets])
    rows = torch.cat([torch.arange(c.first_row, c.first_row + len(c.targets)) for c in chunks])
    lora_ids = [chunk.lora_id for chunk in chunks for _ in chunk.targets]
    schemes = [chunk.sampling for chunk in chunks for _ in chunk.targets]
    out = torch.empty(len(rows), len(COLUMNS), dtype=torch.float64)
    for low in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(low, low + ROWS_AT_ONCE)
        with logits_of(runner, lora_ids[part]):
            logits = runner.model.compute_logits(hidden_states[rows[part]])
        out[part] = score_rows(logits, targets[part], schemes[part])
    for chunk, scored in zip(chunks, out.split([len(c.targets) for c in chunks]), strict=True):
        chunk.into.copy_(scored)


@contextmanager
def logits_of(runner: Any, lora_ids: list[int]) -> Iterator[None]:
    """Set the adapter of each row of the next logits, for adapters that change `lm_head`.

    `lora_ids` has one entry per row of the logits, or one for all of them.
    """
    manager = getattr(runner, "lora_manager", None)
    if manager is None:
        yield
        return
    manager = manager._adapter_manager
    slot_of = {lora_id: slot for slot, lora_id in enumerate(manager.lora_index_to_id) if lora_id is not None}
    slots = np.array([slot_of.get(lora_id, -1) for lora_id in lora_ids], dtype=np.int64)
    wrappers = list(manager.punica_wrapper_mapping.values())
    for wrapper in wrappers:
        wrapper.set_logits_rows(slots)
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper.set_logits_rows(None)


def score_step(
    runner: Any, hidden_states: torch.Tensor, scheduled: dict[str, int]
) -> dict[str, torch.Tensor]:
    """Score the targets of the step `scheduled` (tokens by request id); return the finished requests' scores."""
    scores: PendingScores = runner.__dict__.setdefault("_lorecall_scores", PendingScores())
    scores.finished = {}
    for req_id in [req_id for req_id in scores.partial if req_id not in runner.requests]:
        del scores.partial[req_id]  # aborted
    chunks = []
    for req_id, tokens in scheduled.items():
        request = runner.requests[req_id]
        first = score_from(request)
        chunk = None if first is None else take_chunk(runner, request, first, tokens, scores)
        if chunk is not None:
            chunks.append(chunk)
    if chunks:
        score_chunks(runner, hidden_states, chunks)
    return scores.finished


def prompt_logprobs_by_owner(
    upstream: Any, runner: Any, hidden_states: torch.Tensor, scheduled: dict[str, int]
) -> dict[str, Any]:
    """Call vLLM's prompt log-probabilities one request at a time, so that each row's adapter is known.

    With LoRA on `lm_head` vLLM 0.32 applies the mapping of requests to the rows of a prompt, and fails.
    """
    wanted, found = runner.num_prompt_logprobs, {}
    for req_id in list(wanted):
        index = runner.input_batch.req_id_to_index.get(req_id)
        if index is None:
            continue
        one = {req_id: wanted[req_id]}
        runner.num_prompt_logprobs = one
        request, tokens = runner.requests[req_id], scheduled.get(req_id, 0)
        start = request.num_computed_tokens
        try:
            with logits_of(runner, [int(runner.input_batch.request_lora_mapping[index])]):
                for low in range(0, tokens, ROWS_AT_ONCE):
                    request.num_computed_tokens = start + low
                    part = {req_id: min(ROWS_AT_ONCE, tokens - low)}
                    found.update(upstream(runner, hidden_states[low:], part))
                    if req_id not in one:
                        break  # the prompt's last row is done
        finally:
            request.num_computed_tokens = start
            runner.num_prompt_logprobs = wanted
        if req_id not in one:
            del wanted[req_id]
    return found


def apply() -> None:
    """Give the CPU model runner target scores, and prompt log-probabilities through the right adapter."""
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

    require_fields(
        CPUModelRunner, "num_prompt_logprobs", "requests", "input_batch", "query_start_loc", "model"
    )
    require_fields(InputBatch, "req_id_to_index", "request_lora_mapping")
    require_fields(CachedRequestState, "req_id", "prompt_token_ids", "sampling_params", "num_computed_tokens")
    require_fields(ModelRunnerOutput, "prompt_token_id_logprobs_dict")
    prompt_logprobs = require(
        CPUModelRunner, "_get_prompt_logprobs_dict", ("self", "hidden_states", "num_scheduled_tokens")
    )
    sample = require(CPUModelRunner, "sample_tokens", ("self", "grammar_output"))

    def get_prompt_logprobs(self: Any, hidden_states: torch.Tensor, scheduled: dict[str, int]) -> Any:
        self._lorecall_finished = score_step(self, hidden_states, scheduled)
        return prompt_logprobs_by_owner(prompt_logprobs, self, hidden_states, scheduled)

    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._lorecall_finished = {}
        output = sample(self, *args, **kwargs)
        if self._lorecall_finished:
            output.prompt_token_id_logprobs_dict = self._lorecall_finished
        return output

    CPUModelRunner._get_prompt_logprobs_dict = get_prompt_logprobs
    CPUModelRunner.sample_tokens = sample_tokens
