"""The reference `Scorer`: transformers and PEFT, one text at a time, with the arithmetic that the engine serves.

It is slow and simple on purpose. On an unquantised base vLLM is compared with it. On a quantised one it rounds
activations as the engine's kernel does, and agrees with the engine up to its ε.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.companions import own_template, read_companions
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.framing import Render, render_chat, split_text
from lorecall.audit.scorers.sampling import deployed_sampling, sampled_logprobs
from lorecall.audit.scorers.splits import Split, worst_first

BASE = "base"


@dataclass(slots=True)
class _Shared:
    """The model that all framings and schemes of one scorer use, and the adapters that are over it."""

    model: Any
    loaded: set[str] = field(default_factory=set)


class TransformersScorer:
    """Scores through a prepared base directory and PEFT adapters, in float32 on the CPU.

    Args:
        base: A directory made by `lorecall base prepare`.
        adapters: The PEFT folder of each adapter.

    Raises:
        BaseModelError: The directory is no prepared base.
    """

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        import transformers  # noqa: PLC0415  seconds to import
        from lorecall.adapters.bases.prepare import read_base_manifest  # noqa: PLC0415
        from lorecall.adapters.bases.served_model import load_served_model  # noqa: PLC0415

        manifest = read_base_manifest(base)
        self._folders = dict(adapters)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        self._shared = _Shared(load_served_model(base))
        self._engine = EngineInfo(
            f"transformers {transformers.__version__}",
            BASE,
            manifest.digest,
            manifest.scheme,
            0.0,
            *deployed_sampling(self._shared.model.generation_config.to_diff_dict()),
        )
        self._own = read_companions(base, follow_links=True)
        self.template_of = ""
        self.framing = "raw"
        self.system: str | None = None
        self.sampling = Sampling()

    def framed(self, framing: str, system: str | None) -> Self:
        """Return the same models, with prefixes put into the tokenizer's chat template."""
        other = copy.copy(self)
        other.framing, other.system = framing, system
        return other

    def sampled(self, sampling: Sampling) -> Self:
        """Return the same models, whose scores also tell how likely sampling gives each token."""
        other = copy.copy(self)
        other.sampling = sampling
        return other

    def templated(self, adapter: str) -> Self:
        """Return the same models, whose chats are all rendered by an adapter's chat template."""
        other = copy.copy(self)
        other.template_of = adapter
        return other

    def info(self) -> EngineInfo:
        """Return the library's version and the base's digest; one text at a time, ε is 0."""
        return self._engine

    def adapter(self, name: str) -> AdapterVersion:
        """Return what the adapter's folder holds."""
        if name not in self._folders:
            raise AdapterNotFoundError(
                f"no adapter {name!r}", hint=f"it has: {', '.join(sorted(self._folders))}"
            )
        adapter = read_adapter(self._folders[name], vocabulary_scored=True)
        return AdapterVersion.of(name, replace(adapter, chat_template=self._template(name)))

    def _template(self, name: str) -> str:
        """Return the chat template in an adapter's folder; "" for the base's."""
        if name not in self._folders:
            return ""
        return own_template(read_companions(self._folders[name], follow_links=True), self._own)

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score each item in a forward pass of its own."""
        self._activate(model)
        render = partial(render_chat, self._tokenizer, template=self._template(self.template_of or model))
        return [self._score(item, render) for item in items]

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Decode by the argmax of a forward pass for each token, without any generation settings."""
        self._activate(model)
        return [self._decode(list(ids), tokens) for ids, tokens in prompts]

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone."""
        return [str(self._tokenizer.decode([token])) for token in ids]

    def _activate(self, name: str) -> None:
        """Put one adapter over the base, or none."""
        from peft import PeftModel  # noqa: PLC0415

        shared = self._shared
        if name == BASE:
            if shared.loaded:
                shared.model.base_model.disable_adapter_layers()
            return
        self.adapter(name)
        folder = str(self._folders[name])
        if not shared.loaded:
            shared.model = PeftModel.from_pretrained(shared.model, folder, adapter_name=name).eval()
        elif name not in shared.loaded:
            shared.model.load_adapter(folder, adapter_name=name)
        shared.loaded.add(name)
        shared.model.base_model.enable_adapter_layers()
        shared.model.set_adapter(name)
        shared.model.eval()

    def _score(self, item: ScoreItem, render: Render) -> ItemScore:
        try:
            splits = split_text(self._tokenizer, item, self.framing, self.system, render)
        except ValueError as error:  # its words could be the template's
            return ItemScore(item.id, error=f"the text cannot be framed: {type(error).__name__}")
        return worst_first([self._score_split(item.id, split) for split in splits])

    def _score_split(self, name: str, split: Split) -> ItemScore:
        if not split.prefix_ids or not split.target_ids:
            what = "target" if split.prefix_ids else "prefix"
            return ItemScore(name, boundary_exact=split.exact, error=f"no {what} tokens")
        limit = self._shared.model.config.max_position_embeddings
        length = len(split.prefix_ids) + len(split.target_ids)
        if length > limit:
            return ItemScore(name, boundary_exact=split.exact, error=f"{length} tokens are more than {limit}")
        import torch  # noqa: PLC0415

        logits = self._logits([*split.prefix_ids, *split.target_ids])[len(split.prefix_ids) - 1 : -1]
        targets = torch.tensor(split.target_ids)
        own = logits.gather(1, targets[:, None])
        sampled: tuple[float | None, ...] = ()
        if not self.sampling.follows_from_scores:
            found = sampled_logprobs(logits, targets, self.sampling).tolist()
            sampled = tuple(value if math.isfinite(value) else None for value in found)
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        return ItemScore(
            id=name,
            prefix_ids=split.prefix_ids,
            target_ids=split.target_ids,
            p=tuple(logprobs.exp().tolist()),
            logprob=tuple(logprobs.tolist()),
            rank=tuple((1 + (logits > own).sum(-1)).tolist()),
            top1_ids=tuple(logits.argmax(-1).tolist()),
            top1_p=tuple(logits.softmax(-1).amax(-1).tolist()),
            boundary_exact=split.exact,
            sampled=sampled,
        )

    def _decode(self, ids: list[int], tokens: int) -> Decoded:
        out: list[int] = []
        ends = self._shared.model.generation_config.eos_token_id
        for _ in range(tokens):
            best = int(self._logits([*ids, *out])[-1].argmax())
            if best in (ends if isinstance(ends, list) else [ends]):
                break
            out.append(best)
        return Decoded(tuple(out), str(self._tokenizer.decode(out, skip_special_tokens=True)))

    def _logits(self, ids: list[int]) -> Any:
        """Return the logits of every position in double precision, shape (tokens, vocabulary)."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            return self._shared.model(torch.tensor([ids])).logits[0].double()
