"""Checks a prepared base in the engine against transformers on the same weights, before anybody relies on it.

vLLM has its own code for each family of models. Where that code is wrong for this machine, its numbers are wrong
in silence: LFM2's depend on the other requests of the batch. Each text is scored alone and with the others, and
decoded.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorecall.adapters.bases.quantize import SCHEMES
from lorecall.adapters.core.errors import BaseModelError
from lorecall.audit.judging.epsilon import TEXTS
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.start.environment import check_scheme, prepare_environment, served_dtype

COUNT = 4
"""Texts that are compared."""

LENGTH = 96
"""Their tokens at most."""

DECODED = 12
"""Tokens that are decoded after each."""

EXACT, ROUNDED = 0.005, 0.15
"""Allowed mean |difference of log p| beside the noise: in float32, and where the engine rounds to less."""

NOISE = 3.0
"""Times the noise that is allowed: where activations are rounded, one digit decides about whole steps."""

ENGINE = {
    "max_model_len": 256,
    "max_num_seqs": COUNT,
    "max_num_batched_tokens": 256,
    "enable_lora": True,
    "max_loras": 1,
    "max_lora_rank": 8,
    "kv_cache_memory_bytes": 1 << 28,
    "enforce_eager": True,
}


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, in nats.

    Attributes:
        tokens: Log-probabilities compared.
        largest: Their largest |difference|.
        mean: The mean.
        allowed: The mean that is allowed.
    """

    tokens: int
    largest: float
    mean: float
    allowed: float


def verify_base(base: Path) -> Verified:
    """Compare the engine's log-probabilities of four texts, and of what it decodes, with transformers'.

    Args:
        base: A directory made by `prepare_base`, of a scheme in `quantize.SCHEMES`.

    Raises:
        BaseModelError: The numbers differ, or the engine does not start or dies of the texts.
    """
    texts = _texts(base)
    with TemporaryDirectory(prefix="lorecall-verify-") as work, ThreadPoolExecutor(1) as beside:
        referring = beside.submit(_refer, base, texts)  # most of an engine's start keeps one core busy
        alone, together = _ask(base, texts, Path(work) / "engine.log")
        reference, noise = referring.result()
    gaps: list[float] = []
    for answers in (alone, together):
        for ids, answer in zip(texts, answers, strict=True):
            found = [*_scores(answer), *answer["logprobs"]]
            expected = reference.logprobs([*ids, *answer["ids"]])
            gaps += [abs(one - other) for one, other in zip(found, expected, strict=True)]
    floor = EXACT if served_dtype(str(base)) == "float32" else ROUNDED
    mean, allowed = sum(gaps) / len(gaps), floor + NOISE * noise
    if not mean <= allowed:  # also where it is no number
        raise BaseModelError(
            f"the engine computes this model wrongly: over {len(gaps)} tokens its log-probabilities differ from"
            f" transformers' by {mean:.3f} nats on average (at most {max(gaps):.3f}; {allowed:.3f} is allowed)",
            hint="vLLM does not serve this family rightly on this machine; --no-verify prepares it all the same",
            param="from",
        )
    return Verified(len(gaps), max(gaps), mean, allowed)


def _texts(base: Path) -> list[list[int]]:
    """Return the texts' token ids: of unequal lengths, so that a batch mixes them unevenly."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    joined = [" ".join(TEXTS[first:] + TEXTS[:first]) for first in range(COUNT)]
    return [tokenizer.encode(text)[: LENGTH - 17 * number] for number, text in enumerate(joined)]


def _ask(base: Path, texts: list[list[int]], log: Path) -> tuple[list[Any], list[Any]]:
    """Return the engine's answers to the texts, each alone and all together."""
    import torch

    score: dict[str, Any] = {"prompt_logprobs": 1} if torch.cuda.is_available() else {"score_from": 1}
    requests = [{"ids": ids, "max_tokens": DECODED, "logprobs": 1, **score} for ids in texts]
    prepare_environment()
    arguments = {**ENGINE, "model": str(base), "dtype": served_dtype(str(base))}
    try:
        engine = EngineHost(log, arguments, environ=_in_one_process())
        try:
            return [engine.run([request])[0] for request in requests], engine.run(requests)
        finally:
            engine.close()
    except EngineDiedError as error:
        raise BaseModelError(
            f"the engine cannot serve this model: {error.message.rpartition('its last errors: ')[2]}",
            hint="vLLM's own words; --no-verify prepares it all the same",
            param="from",
        ) from error


def _in_one_process() -> dict[str, str]:
    """Return the variables by which a CPU's engine runs in one process: vLLM is imported once, not thrice."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    threads = str(len(os.sched_getaffinity(0)))
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads}


def _scores(answer: Any) -> list[float]:
    """Return log p of the prompt's tokens after the first."""
    if answer["scores"] is not None:
        return [row[0] for row in answer["scores"]]
    return list(answer["prompt_logprobs"][1:])


def _refer(base: Path, texts: list[list[int]]) -> "tuple[_Reference, float]":
    """Return the reference, and its noise on the texts."""
    reference = _Reference(base)
    return reference, reference.noise(texts)


class _Reference:
    """The base in transformers, in float32 with the engine's rounding."""

    def __init__(self, base: Path) -> None:
        from lorecall.adapters.bases.served_model import load_served_model

        self._model = load_served_model(base)

    def logprobs(self, ids: list[int], nudge: float = 0.0) -> list[float]:
        """Return log p of every token after the first; `nudge` is the relative change of the embeddings."""
        import torch

        def change(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
            return out * (1 + nudge * torch.randn(out.shape, generator=torch.Generator().manual_seed(0)))

        tokens = torch.tensor([ids])
        hook = self._model.get_input_embeddings().register_forward_hook(change)
        try:
            with torch.no_grad():
                logits = self._model(tokens, use_cache=False).logits[0]
        finally:
            hook.remove()
        chosen = torch.log_softmax(logits[:-1].double(), dim=-1).gather(1, tokens[0, 1:].unsqueeze(1))
        found: list[float] = chosen.squeeze(1).tolist()
        return found

    def noise(self, texts: list[list[int]]) -> float:
        """Return the mean |difference of log p| between two evaluations that differ in a number's last digits."""
        gaps: list[float] = []
        for ids in texts:
            pairs = zip(self.logprobs(ids), self.logprobs(ids, nudge=1e-6), strict=True)
            gaps += [abs(one - other) for one, other in pairs]
        return sum(gaps) / len(gaps)


def why_not(base: Path, scheme: str) -> str:
    """Return why a prepared base of a scheme cannot be verified on this machine, "" where it can."""
    from importlib.util import find_spec

    if scheme not in SCHEMES:
        return f"there is no reference for {scheme}"
    if find_spec("vllm") is None:
        return "vLLM is not installed here"
    try:
        check_scheme(str(base))
    except BaseModelError as error:
        return error.message
    return ""
