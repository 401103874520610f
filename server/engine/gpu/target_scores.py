"""Scores of given target tokens on a GPU: vLLM's fixed-token scoring, with rank and most likely token as well.

vLLM 0.32's second model runner scores given tokens at the rows of a prompt (`prompt_logprob_token_ids`,
`prompt_logprob_start`) and gives their log-probabilities alone. A request of ours asks for the same, and is
marked with `extra_args={"lorecall_score_from": k}`: it gets the columns that verdicts need. vLLM goes request by
request, which reads all of `lm_head` for each; here the rows of all requests of a step share its products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lorecall.audit.scorer import Sampling
from lorecall.server.engine.common.plugin import require, require_fields
from lorecall.server.engine.cpu.target_scores import COLUMNS, SCORE_FROM, scheme_of, score_rows

ROWS_AT_ONCE = 512
"""Rows of logits in memory at a time: 0.4 GB with a vocabulary of 128,000 (2 + 4 bytes); vLLM takes 1,024."""

SORTED_AT_ONCE = 64
"""The same where a sampling scheme is asked for, whose top-p sorts rows of the vocabulary."""


@dataclass(slots=True)
class Wanted:
    """The targets of one request whose prompt is still processed.

    Attributes:
        targets: Token ids, shape [n], on the device.
        start: The row of the prompt that predicts the first of them.
        sampling: The sampling scheme under which probabilities are wanted as well.
        scores: Shape [n, len(COLUMNS)], float64, filled chunk by chunk; None before the first.
    """

    targets: torch.Tensor
    start: int
    sampling: Sampling | None
    scores: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of one request that one step scores.

    Attributes:
        rows: Their places among the step's hidden states.
        targets: The token ids that they are to predict, shape [len(rows)].
        into: Where their scores go, shape [len(rows), len(COLUMNS)].
        sampling: The request's sampling scheme.
    """

    rows: range
    targets: torch.Tensor
    into: torch.Tensor
    sampling: Sampling | None


def take_chunk(wanted: Wanted, start: int, end: int, prompt_len: int, first_row: int) -> Chunk | None:
    """Return what one step scores of a request whose rows `start` to `end` it computes; None for nothing.

    The last row of a prompt predicts the first token of the answer, and is not scored.

    Args:
        wanted: The request.
        start: Its first row in this step.
        end: The row after its last one.
        prompt_len: The length of its prompt.
        first_row: The place of row `start` among the step's hidden states.
    """
    if wanted.scores is None:
        shape = (len(wanted.targets), len(COLUMNS))
        wanted.scores = torch.empty(shape, dtype=torch.float64, device=wanted.targets.device)
    low, high = max(wanted.start, start), min(end, prompt_len - 1)
    if low >= high:
        return None
    part, offset = slice(low - wanted.start, high - wanted.start), first_row - start
    rows = range(low + offset, high + offset)
    return Chunk(rows, wanted.targets[part], wanted.scores[part], wanted.sampling)


def score_chunks(
    logits_of: Callable[[torch.Tensor], torch.Tensor], hidden_states: torch.Tensor, chunks: Sequence[Chunk]
) -> None:
    """Fill `into` of every chunk from the step's hidden states [tokens, hidden], ROWS_AT_ONCE rows at a time."""
    places = np.concatenate([np.arange(one.rows.start, one.rows.stop) for one in chunks])
    rows = torch.from_numpy(places).to(hidden_states.device, non_blocking=True)
    targets = torch.cat([one.targets for one in chunks])
    schemes = [one.sampling for one in chunks for _ in one.rows]
    out = torch.empty(len(rows), len(COLUMNS), dtype=torch.float64, device=hidden_states.device)
    for low in range(0, len(rows), ROWS_AT_ONCE):
        logits = logits_of(hidden_states.index_select(0, rows[low : low + ROWS_AT_ONCE]))
        step = SORTED_AT_ONCE if any(schemes[low : low + ROWS_AT_ONCE]) else ROWS_AT_ONCE
        for inner in range(0, len(logits), step):
            part = slice(low + inner, low + min(inner + step, len(logits)))
            out[part] = score_rows(logits[inner : inner + step], targets[part], schemes[part])
    for chunk, scored in zip(chunks, out.split([len(one.rows) for one in chunks]), strict=True):
        chunk.into.copy_(scored)


def score_step(
    waiting: dict[str, Wanted],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    batch: Any,
    prompt_lens: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Score the targets of one step; return the scores of the requests whose prompts end in it.

    Args:
        waiting: The requests that are scored, by id; those that end, or cannot be scored, leave it.
        logits_of: Computes the logits of hidden states.
        hidden_states: Those of the step's tokens, [tokens, hidden].
        batch: vLLM's `InputBatch` of the step.
        prompt_lens: The lengths of prompts, by the index of a request's state.
    """
    chunks: list[Chunk] = []
    finished: dict[str, torch.Tensor] = {}
    for index, req_id in enumerate(batch.req_ids):
        wanted = waiting.get(req_id)
        if wanted is None:
            continue
        prompt_len = int(prompt_lens[batch.idx_mapping_np[index]])
        start = int(batch.num_computed_prefill_tokens_np[index])
        end = start + int(batch.num_scheduled_tokens[index])
        answered = start >= prompt_len or prompt_len < batch.prefill_len_np[index]
        if answered or (wanted.scores is None and start > wanted.start):
            del waiting[req_id]  # as vLLM does: rows that no step computed have no scores
            continue
        chunk = take_chunk(wanted, start, end, prompt_len, int(batch.query_start_loc_np[index]))
        if chunk is not None:
            chunks.append(chunk)
        if end >= prompt_len:
            finished[req_id] = waiting.pop(req_id).scores
    if chunks:
        score_chunks(logits_of, hidden_states, chunks)
    return finished


def apply() -> None:
    """Give the second model runner's scoring of given tokens our columns, for the requests that are marked."""
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker, _TokenIdScores

    require_fields(PromptLogprobsWorker, "token_id_scores")
    require_fields(_TokenIdScores, "token_ids", "start")
    require_fields(
        InputBatch, "req_ids", "idx_mapping_np", "num_computed_prefill_tokens_np", "prefill_len_np"
    )
    require_fields(InputBatch, "num_scheduled_tokens", "query_start_loc_np")
    add = require(PromptLogprobsWorker, "add_request", ("self", "req_id", "req_idx", "sampling_params"))
    remove = require(PromptLogprobsWorker, "remove_request", ("self", "req_id"))
    compute = require(
        PromptLogprobsWorker,
        "compute_prompt_token_id_logprobs",
        ("self", "logits_fn", "hidden_states", "input_batch", "prompt_lens"),
    )

    def waiting(self: Any) -> dict[str, Wanted]:
        found: dict[str, Wanted] = self.__dict__.setdefault("_lorecall_waiting", {})
        return found

    def add_request(self: Any, req_id: str, req_idx: int, sampling_params: Any) -> None:
        add(self, req_id, req_idx, sampling_params)
        if SCORE_FROM in (sampling_params.extra_args or {}):
            state = self.token_id_scores.pop(req_id, None)
            if state is not None:
                waiting(self)[req_id] = Wanted(state.token_ids[:, 0], state.start, scheme_of(sampling_params))

    def remove_request(self: Any, req_id: str) -> None:
        remove(self, req_id)
        waiting(self).pop(req_id, None)

    def compute_scores(
        self: Any, logits_fn: Any, hidden_states: torch.Tensor, input_batch: Any, prompt_lens: np.ndarray
    ) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = compute(self, logits_fn, hidden_states, input_batch, prompt_lens)
        return found | score_step(waiting(self), logits_fn, hidden_states, input_batch, prompt_lens)

    PromptLogprobsWorker.add_request = add_request
    PromptLogprobsWorker.remove_request = remove_request
    PromptLogprobsWorker.compute_prompt_token_id_logprobs = compute_scores
