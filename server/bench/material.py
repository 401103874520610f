"""Inputs of the benchmarks: random prompts, and random adapters on all linear modules."""

import json
import random
from pathlib import Path
from typing import Any

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

VOCABULARY = 40_000
"""Token ids of the prompts, unless a base has fewer."""


def random_prompts(count: int, length: int, seed: int, vocabulary: int = VOCABULARY) -> list[list[int]]:
    """Return `count` prompts of `length` token ids, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311  (not for secrets)
    low = min(1000, vocabulary // 2)  # special tokens come first
    return [[draw.randrange(low, vocabulary) for _ in range(length)] for _ in range(count)]


def module_widths(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (d_in, d_out) of each linear module of a Llama-like model, from its config.json."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads) * head
    return {
        "q_proj": (hidden, heads * head),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (heads * head, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def write_random_adapter(
    path: Path, base: Path, rank: int, seed: int, dtype: str = "float32", scale: float = 0.02
) -> Path:
    """Write a PEFT adapter with small random weights on every linear module of a Llama-like base.

    Args:
        path: Directory to write.
        base: Model directory.
        rank: LoRA rank.
        seed: Seed of the weights.
        dtype: Their dtype, a name of torch's.
        scale: The standard deviation of both factors.
    """
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (d_in, d_out) in module_widths(config).items():
            block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            tensors[f"{name}.lora_A.weight"] = scale * torch.randn(rank, d_in, generator=generator)
            tensors[f"{name}.lora_B.weight"] = scale * torch.randn(d_out, rank, generator=generator)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(MODULES),
        "bias": "none",
    }
    (path / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n")
    return path
