"""A `Scorer` over a vLLM engine in this process, for batches where no server runs."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from lorecall.adapters.base import read_manifest
from lorecall.adapters.errors import AdapterError, AdapterNotFoundError
from lorecall.adapters.manifest import AdapterInfo, read_adapter
from lorecall.audit.prompt_logprobs import problem, read_rows
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, ScoreItem
from lorecall.audit.splits import Split, split_tokens, worse
from lorecall.server.framing import framed_prefix
from lorecall.server.launch import check_scheme, prepare_environment

BASE = "base"


class OfflineScorer:
    """Scores by prompt log-probabilities and decodes greedily, all items of a call in the engine at once.

    Args:
        base: A directory made by `lorecall base prepare`.
        adapters: The PEFT folder of each adapter.
        engine: Keyword arguments of `vllm.LLM` beside the model and LoRA's.

    Raises:
        BaseModelError: The directory is no prepared base, or this machine lacks its kernel.
        AdapterError: A folder is no PEFT LoRA adapter.
    """

    def __init__(self, base: Path, adapters: dict[str, Path], **engine: Any) -> None:
        manifest = read_manifest(base)
        check_scheme(str(base))
        self._adapters: dict[str, AdapterInfo] = {name: read_adapter(path) for name, path in adapters.items()}
        prepare_environment()
        import vllm  # noqa: PLC0415  the environment must be set before it is imported
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        ranks = [info.rank for info in self._adapters.values()]
        lora = (
            {"enable_lora": True, "max_lora_rank": _rank_limit(ranks), "max_loras": len(ranks)}
            if ranks
            else {}
        )
        self._sampling: Any = vllm.SamplingParams
        self._llm: Any = vllm.LLM(model=str(base), enable_prefix_caching=False, **{**lora, **engine})
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._requests = {
            name: LoRARequest(name, number, str(path))
            for number, (name, path) in enumerate(adapters.items(), start=1)
        }
        self._engine = EngineInfo(
            f"vllm {vllm.__version__} (in process)", BASE, manifest.digest, manifest.scheme
        )
        self.framing = "raw"
        self.system: str | None = None

    def framed(self, framing: str, system: str | None) -> Self:
        """Return the same engine, with prefixes put into the model's chat template."""
        other = copy.copy(self)
        other.framing, other.system = framing, system
        return other

    def info(self) -> EngineInfo:
        """Return vLLM's version and the base's digest; its ε is left to be measured."""
        return self._engine

    def adapter(self, name: str) -> AdapterVersion:
        """Return what the adapter's folder says of it."""
        if name not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise AdapterNotFoundError(f"no adapter {name!r}", hint=f"it has: {known}", param="adapter")
        found = self._adapters[name]
        return AdapterVersion(
            name, found.version, found.rank, found.effective_parameters, found.refusal, found.training
        )

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score items, in the order given."""
        splits = [self._splits(item) for item in items]
        limit = self._llm.llm_engine.model_config.max_model_len
        work = [(item.id, split) for item, found in zip(items, splits, strict=True) for split in found]
        asked = [[*s.prefix_ids, *s.target_ids] for _, s in work if not problem(s, limit)]
        params = self._sampling(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        outputs = iter(self._generate(model, asked, [params] * len(asked)))
        scored = iter(
            [
                ItemScore(name, boundary_exact=split.exact, error=problem(split, limit))
                if problem(split, limit)
                else read_rows(name, split, next(outputs).prompt_logprobs)
                for name, split in work
            ]
        )
        return [worse([next(scored) for _ in found]) for found in splits]

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Decode greedily, without penalties."""
        params = [self._sampling(temperature=0.0, max_tokens=tokens) for _, tokens in prompts]
        outputs = self._generate(model, [list(ids) for ids, _ in prompts], params)
        return [Decoded(tuple(o.outputs[0].token_ids), o.outputs[0].text) for o in outputs]

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone."""
        return [str(self._tokenizer.decode([token])) for token in ids]

    def _splits(self, item: ScoreItem) -> list[Split]:
        framing: Any = "raw" if self.framing == "raw" else "chat"
        before, special = framed_prefix(self._tokenizer, item.prefix, framing, self.system)
        encode = self._tokenizer.encode
        return split_tokens(
            encode(before, add_special_tokens=special),
            encode(item.target, add_special_tokens=False),
            encode(before + item.target, add_special_tokens=special),
        )

    def _generate(self, model: str, prompts: list[list[int]], params: list[Any]) -> list[Any]:
        if not prompts:
            return []
        request = None if model == BASE else self._requests[self.adapter(model).name]
        tokens = [{"prompt_token_ids": ids} for ids in prompts]
        outputs: list[Any] = self._llm.generate(tokens, params, lora_request=request, use_tqdm=False)
        return outputs


def _rank_limit(ranks: Sequence[int]) -> int:
    """Return the least of the ranks that vLLM can be set up for that holds all of these.

    Raises:
        AdapterError: One of them is over vLLM's largest.
    """
    allowed = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    fitting = [limit for limit in allowed if limit >= max(ranks)]
    if not fitting:
        raise AdapterError(
            f"rank {max(ranks)} cannot be served", hint=f"vLLM takes ranks up to {allowed[-1]}"
        )
    return fitting[0]
