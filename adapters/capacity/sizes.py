"""The sizes of a base that memory and bandwidth follow from, read from its files without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
"""The bytes of one number, by dtype; "fp8" is a key/value cache in 8 bits."""

EMBEDDINGS = ("lm_head", "embed_tokens")


@dataclass(frozen=True, slots=True)
class BaseSizes:
    """The sizes of a base.

    Attributes:
        weights: Bytes of its weights.
        read: Bytes of the weights that a decode step reads: all but input embeddings of their own.
        cached_values: Numbers that one token leaves in the key/value cache, over all layers.
        widths: Σ (d_in + d_out) over its linear layers: a slot's numbers for each unit of rank.
        experts: Whether it is a mixture of experts, of which a step reads a part only.
    """

    weights: int
    read: int
    cached_values: int
    widths: int
    experts: bool


def slot_widths(facts: BaseFacts) -> int:
    """Return Σ (d_in + d_out) over the linear layers, on which vLLM puts A (rank, d_in) and B (d_out, rank)."""
    return sum(d_in + d_out for name, (d_in, d_out) in facts.modules.items() if _is_linear(name, facts))


def read_sizes(base: Path) -> BaseSizes:
    """Read a base's sizes from its configuration and the headers of its weights.

    Raises:
        BaseModelError: It is no model directory, or its cache is of a kind that is not computed here.
    """
    facts = read_base_facts(base)
    config = json.loads((base / "config.json").read_text())
    text = config.get("text_config", config)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    unread = 0 if tied else _embedding_bytes(facts, str(text.get("dtype") or text.get("torch_dtype")))
    return BaseSizes(
        weights=weights,
        read=weights - unread,
        cached_values=_cached_values(text, base),
        widths=slot_widths(facts),
        experts=any(text.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")),
    )


def _is_linear(name: str, facts: BaseFacts) -> bool:
    return name not in facts.embeddings and name.rpartition(".")[2] not in EMBEDDINGS


def _embedding_bytes(facts: BaseFacts, dtype: str) -> int:
    shapes = [facts.modules[name] for name in facts.embeddings]
    return sum(rows * columns for rows, columns in shapes) * BYTES.get(dtype, 2)


def _cached_values(config: dict[str, Any], base: Path) -> int:
    """Return 2 · layers · KV heads · head size, or layers · (latent + rope) for multi-head latent attention."""
    try:
        layers = int(config["num_hidden_layers"])
        if latent := config.get("kv_lora_rank"):
            return layers * (int(latent) + int(config["qk_rope_head_dim"]))
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        return 2 * layers * int(config.get("num_key_value_heads") or heads) * head
    except (KeyError, TypeError, ValueError) as error:
        raise BaseModelError(
            f"{base / 'config.json'} does not say how large its key/value cache is: {error}",
            hint="a plan is for transformers with attention in every layer",
            param="base",
        ) from error
