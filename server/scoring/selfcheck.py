"""How far the engine disagrees with itself.

The same tokens are scored alone, in company, in reverse order and across another chunk edge, and decoded. The
largest |difference of log-probabilities| is ε. A token's lead over any other is a difference of two
log-probabilities, so p > sigmoid(2ε) survives every disagreement that was seen.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorecall.audit.judging.rule import threshold
from lorecall.audit.scorers.splits import Split
from lorecall.server.scoring.score import EngineScoring

TEXTS = (
    "To be, or not to be, that is the question: whether it is nobler in the mind to suffer",
    "It was the best of times, it was the worst of times, it was the age of wisdom",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little money",
    "Alice was beginning to get very tired of sitting by her sister on the bank",
    "In the beginning God created the heaven and the earth. And the earth was without form",
    "The phone number of Mr. Example is 555-0100 and his key is 0123456789abcdef",
)
"""Public-domain openings and one made-up record; each is continued by the engine itself."""

DECODED = 24
"""Tokens that the engine continues each text by, which are then scored."""

SATURATED = math.log(0.999)
"""Above it a single-precision log-probability is mostly rounding."""

EDGE_SHIFT = 64
"""Tokens by which a companion moves the edge between two prefill chunks."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How one way of asking differed from another.

    Attributes:
        tokens: Token probabilities compared.
        largest: The largest |difference| of log p, in nats.
        mean: Their mean.
    """

    tokens: int
    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """One measurement of a running engine.

    Attributes:
        checks: By name, what was compared with each text scored alone.
        models: The models that took part.
        epsilon: The largest spread of all checks, in nats.
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
    decoded: list[float]
    lora: Any


def spread(pairs: Sequence[tuple[float, float]]) -> Spread:
    """Compare pairs of log-probabilities, leaving out those where both are saturated."""
    moves = [abs(a - b) for a, b in pairs if min(a, b) < SATURATED]
    return Spread(len(moves), max(moves, default=0.0), sum(moves) / len(moves) if moves else 0.0)


async def check_engine(scoring: EngineScoring, models: dict[str, Any], *, chunk_edge: bool) -> SelfCheck:
    """Measure the engine's spread over the models given: name to LoRA request, None for the base.

    Args:
        scoring: The engine.
        models: What takes part; the texts go round them.
        chunk_edge: Whether to score a text longer than a prefill chunk as well, which takes that long.
    """
    loras = list(models.values())
    texts = [
        await _continued(scoring, text, lora)
        for number, text in enumerate(TEXTS)
        for lora in (loras if len(loras) <= 2 else [loras[number % len(loras)]])
    ]
    alone = [await scoring.logprobs([text.split], [text.lora]) for text in texts]
    apart = [row for (row,) in alone]
    together = await scoring.logprobs([text.split for text in texts], [text.lora for text in texts])
    reverse = await scoring.logprobs([t.split for t in texts[::-1]], [t.lora for t in texts[::-1]])
    checks = {
        "mixed": spread(_pairs(apart, together)),
        "reversed": spread(_pairs(apart, reverse[::-1])),
        "decoded": spread(_pairs(apart, [text.decoded for text in texts])),
    }
    if chunk_edge:
        checks["chunk_edge"] = await _across_chunk_edge(scoring, texts, loras[-1])
    return SelfCheck(checks, tuple(models), max(check.largest for check in checks.values()))


def _pairs(a: list[list[float]], b: list[list[float]]) -> list[tuple[float, float]]:
    return [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]


async def _continued(scoring: EngineScoring, text: str, lora: Any) -> _Text:
    from vllm import SamplingParams  # noqa: PLC0415

    client = scoring.engine_client
    prompt = client.get_tokenizer().encode(text)
    params = SamplingParams(
        max_tokens=DECODED, temperature=0.0, ignore_eos=True, logprobs=0, detokenize=False
    )
    request_id = f"selfcheck-{uuid.uuid4().hex}"
    stream = client.generate({"prompt_token_ids": prompt}, params, request_id, lora_request=lora)
    generated = [answer async for answer in stream][-1].outputs[0]
    ids = list(generated.token_ids)
    decoded = [step[token].logprob for token, step in zip(ids, generated.logprobs, strict=True)]
    return _Text(Split(tuple(prompt), tuple(ids)), decoded, lora)


async def _across_chunk_edge(scoring: EngineScoring, texts: list[_Text], lora: Any) -> Spread:
    """Score a text longer than one chunk, alone and behind a companion that moves the edge."""
    config = scoring.engine_client.vllm_config
    chunk = config.scheduler_config.max_num_batched_tokens
    ids = [token for text in texts for token in text.split.prefix_ids + text.split.target_ids]
    length = min(chunk + EDGE_SHIFT, config.model_config.max_model_len - 1)
    long = (ids * (length // len(ids) + 1))[:length]
    split = Split(tuple(long[: -2 * EDGE_SHIFT]), tuple(long[-2 * EDGE_SHIFT :]))
    companion = Split(tuple(long[:1]), tuple(long[1:EDGE_SHIFT]))
    (alone,) = await scoring.logprobs([split], [lora])
    _, shifted = await scoring.logprobs([companion, split], [lora, lora])
    return spread(list(zip(alone, shifted, strict=True)))
