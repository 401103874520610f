"""Measures how much the engine's scores of the same tokens differ from batch to batch.

The same tokens are scored alone, in mixed batches as large as those of audits, in other orders and across another
chunk edge, and decoded. `audit/judging/epsilon.py` says what is compared and what ε is.
"""

import asyncio
import math
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorecall.audit.judging.epsilon import ALONE, REPEATS, TEXTS, bound, gap_moves, known_items
from lorecall.audit.judging.rule import threshold
from lorecall.audit.scorer import ItemScore
from lorecall.audit.scorers.framing import split_text
from lorecall.audit.scorers.splits import Split
from lorecall.server.executors import off_loop
from lorecall.server.scoring.score import EngineScoring

DECODED = 24
"""Tokens that the engine continues each text by, which are then scored."""

BATCH = 64
"""Texts in the engine at once: as many as an audit scores at a time."""

EDGE_SHIFT = 64
"""Tokens by which a companion moves the edge between two prefill chunks."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the gaps between tokens and their rivals moved between two ways of scoring them.

    Attributes:
        tokens: Gaps compared.
        largest: The largest move, in logits.
        mean: The mean of all moves.
    """

    tokens: int
    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """One measurement of a running engine.

    Attributes:
        checks: By name, the moves between two ways.
        models: The models that were measured.
        epsilon: The bound on the error of a logit that follows from all moves.
    """

    checks: dict[str, Spread]
    models: tuple[str, ...]
    epsilon: float

    def as_json(self) -> dict[str, Any]:
        """Return the answer of `GET /v1/engine/selfcheck`."""
        return {**asdict(self), "threshold": threshold(self.epsilon)}


@dataclass(frozen=True, slots=True)
class _Text:
    split: Split
    lora: Any


async def check_engine(scoring: EngineScoring, models: dict[str, Any], *, chunk_edge: bool) -> SelfCheck:
    """Measure the engine's spread over the models given: name to LoRA request, None for the base.

    Args:
        scoring: The engine.
        models: The models to measure; the texts are divided among them.
        chunk_edge: Whether to score a text longer than a prefill chunk, too; that takes a while.
    """
    loras = list(models.values())
    tokenizer = scoring.engine_client.get_tokenizer()
    splits = [(await off_loop(split_text, tokenizer, item, "raw", None))[0] for item in known_items()]
    texts = [_Text(splits[n % len(splits)], loras[n % len(loras)]) for n in range(BATCH)]
    alone = [(await _scores(scoring, [text]))[0] for text in texts[:ALONE]]
    moves: dict[str, list[list[float]]] = {"mixed": [], "reversed": []}
    for _ in range(REPEATS):
        mixed = await _scores(scoring, texts)
        reverse = (await _scores(scoring, texts[::-1]))[::-1]
        moves["mixed"] += _moves(alone, mixed[:ALONE])
        moves["reversed"] += _moves(mixed, reverse)
    moves["decoded"] = await asyncio.gather(
        *(_decoded(scoring, text, loras[n % len(loras)]) for n, text in enumerate(TEXTS))
    )
    if chunk_edge:
        moves["chunk_edge"] = await _across_chunk_edge(scoring, texts, loras[-1])
    checks = {name: spread(found) for name, found in moves.items()}
    together = [move for found in moves.values() for one in found for move in one]
    return SelfCheck(checks, tuple(models), bound(together))


def spread(moves: Sequence[Sequence[float]]) -> Spread:
    """Return what the moves of each text's gaps come to."""
    every = [move for one in moves for move in one]
    return Spread(len(every), max(every, default=0.0), sum(every) / len(every) if every else 0.0)


async def _scores(scoring: EngineScoring, texts: Sequence[_Text]) -> list[ItemScore]:
    return await scoring.at_once([text.split for text in texts], [text.lora for text in texts])


def _moves(a: Sequence[ItemScore], b: Sequence[ItemScore]) -> list[list[float]]:
    return [list(gap_moves(one, other)) for one, other in zip(a, b, strict=True)]


async def _decoded(scoring: EngineScoring, text: str, lora: Any) -> list[float]:
    """Return the moves between what the engine said as it went on with a text, and its scores of that."""
    from vllm import SamplingParams

    client = scoring.engine_client
    prompt = client.get_tokenizer().encode(text)
    params = SamplingParams(
        max_tokens=DECODED, temperature=0.0, ignore_eos=True, logprobs=0, detokenize=False
    )
    request_id = f"selfcheck-{uuid.uuid4().hex}"
    stream = client.generate({"prompt_token_ids": prompt}, params, request_id, lora_request=lora)
    generated = [answer async for answer in stream][-1].outputs[0]
    ids = tuple(generated.token_ids)
    said = tuple(step[token].logprob for token, step in zip(ids, generated.logprobs, strict=True))
    p = tuple(math.exp(value) for value in said)
    decoded = ItemScore("", tuple(prompt), ids, p, said, (1,) * len(ids), ids, p)
    (scored,) = await scoring.at_once([Split(tuple(prompt), ids)], [lora])
    return list(gap_moves(decoded, scored))


async def _across_chunk_edge(scoring: EngineScoring, texts: list[_Text], lora: Any) -> list[list[float]]:
    """Score a text longer than one chunk, alone and behind a companion that moves the edge."""
    config = scoring.engine_client.vllm_config
    chunk = config.scheduler_config.max_num_batched_tokens
    ids = [token for text in texts for token in text.split.prefix_ids + text.split.target_ids]
    length = min(chunk + EDGE_SHIFT, config.model_config.max_model_len - 1)
    long = (ids * (length // len(ids) + 1))[:length]
    split = Split(tuple(long[: -2 * EDGE_SHIFT]), tuple(long[-2 * EDGE_SHIFT :]))
    companion = Split(tuple(long[:1]), tuple(long[1:EDGE_SHIFT]))
    (alone,) = await scoring.at_once([split], [lora])
    _, shifted = await scoring.at_once([companion, split], [lora, lora])
    return _moves([alone], [shifted])
