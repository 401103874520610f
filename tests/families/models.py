"""A tiny random model of each family, and an adapter for it: what people bring, small enough to serve in seconds.

The widths are multiples of 32, which the CPU kernels for experts ask for. Every family has at least two layers,
and more where its layers are of different kinds (sliding and full attention, recurrent and attention).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.tiny import build_tokenizer

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LLAMA: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""Sizes under the names that most configurations use."""
GEMMA: dict[str, Any] = {"sliding_window": 32, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 128,  # as published; the CPU's kernel takes no others
    "linear_value_head_dim": 128,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@dataclass(frozen=True, eq=False)
class Family:
    """One row of the table.

    Attributes:
        model_type: Its name in transformers; a row's name where `name` is not given.
        config: What differs from `LLAMA`; None leaves a setting out.
        modules: What the adapter adapts.
        name: The row's name.
        parts: Configurations of the parts of a multimodal model, by their names.
        wrong: The schemes in which it is known not to be served rightly.
        why: What vLLM itself does not do then.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = (*ATTENTION, *MLP)
    name: str = ""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return self.name or self.model_type


FAMILIES = (
    Family("llama"),
    Family("qwen2", {"num_attention_heads": 2}),  # it has no head_dim; a CPU has no attention for 16
    Family("qwen3"),
    Family("qwen3_moe", EXPERTS, ATTENTION),
    Family("mistral", {"sliding_window": 32}),
    Family("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, ATTENTION),
    Family("gemma2", GEMMA),
    Family("gemma3_text", {**GEMMA, "num_hidden_layers": 7}),
    Family(
        "gemma4_text",
        {
            "sliding_window": 32,
            "global_head_dim": 32,
            "tie_word_embeddings": True,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    Family("phi3", modules=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    Family("olmo2"),
    Family("olmo3", {"sliding_window": 32, "num_hidden_layers": 4}),
    Family("granite", {"attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    Family(
        "gpt_neox",
        {"num_attention_heads": 2},
        modules=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    Family("starcoder2", modules=(*ATTENTION, "c_fc", "c_proj")),
    Family("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}),
    Family(
        "cohere2",
        {"sliding_window": 32, "num_hidden_layers": 4, "tie_word_embeddings": True},
    ),
    Family("exaone4", {"sliding_window": 32, "num_hidden_layers": 4, "sliding_window_pattern": 4}),
    Family("seed_oss"),
    Family("ernie4_5"),
    Family(
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32, "intermediate_size": 64},
        ATTENTION,
    ),
    Family(
        "gemma3",
        name="gemma3 multimodal",
        parts={
            "text_config": GEMMA,
            "vision_config": VISION,
        },
    ),
    Family(
        "mistral3",
        name="mistral3 multimodal",
        parts={
            "text_config": {"model_type": "mistral", "sliding_window": None},
            "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 16},
        },
    ),
    Family(
        "llama4",
        name="llama4 multimodal",
        modules=ATTENTION,
        parts={
            "text_config": {"intermediate_size_mlp": 128, "num_local_experts": 4},
            "vision_config": {**VISION, "vision_output_dim": 64, "projector_input_dim": 64},
        },
    ),
    Family(
        "lfm2",
        {"block_dim": 64, "conv_dim": 64, "conv_dim_out": 64, "num_attention_heads": 2},  # vLLM reads them
        modules=("q_proj", "k_proj", "v_proj", "w1", "w2", "w3"),
        wrong=("none", "int8"),
        why="vLLM's numbers depend on the other requests of the batch; `base prepare` refuses it",
    ),
    Family("qwen3_next", {**EXPERTS, **DELTA, "num_hidden_layers": 4}, ATTENTION),
    Family("glm4", modules=(*ATTENTION, "down_proj")),
    Family(
        "qwen3_5",
        name="qwen3_5 multimodal",
        modules=ATTENTION,
        parts={
            "text_config": {"num_hidden_layers": 4, **DELTA},
            "vision_config": {
                **VISION,
                "depth": 1,
                "num_heads": 2,
                "out_hidden_size": 64,
                "deepstack_visual_indexes": [],
            },
        },
        wrong=("none", "int8"),
        why="vLLM's class imports torchvision, also for text",
    ),
)


def build_source(family: Family, path: Path) -> Path:
    """Write a random model of a family with a tokenizer, as its publisher would, to `path`."""
    if family.parts:
        parts = {
            name: ({**LLAMA, **part} if name == "text_config" else part)
            for name, part in family.parts.items()
        }
        config = AutoConfig.for_model(family.model_type, **parts, **family.config)
        auto = AutoModelForImageTextToText
    else:
        config = AutoConfig.for_model(family.model_type, **{**LLAMA, **family.config})
        auto = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config)
        _spread(model)
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def _spread(model: torch.nn.Module) -> None:
    """Draw again what a new model has at a constant (norms, biases, sinks): leaving it out would show."""
    for parameter in model.parameters():
        if parameter.dim() == 1 and parameter.is_floating_point():
            parameter.data += torch.randn_like(parameter) * 0.1
        elif float(parameter.detach().std()) < 0.02:
            parameter.data = torch.randn_like(parameter) * 0.1


def build_adapter(
    family: Family, model: Any, base: Path, path: Path, *, seed: int = 1, rank: int = 4
) -> Path:
    """Write a random adapter of a prepared base's transformers model to `path`: A and B from N(0, 0.04)."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family.modules), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.save_pretrained(path)
    saved = path / "adapter_config.json"
    saved.write_text(
        json.dumps(json.loads(saved.read_text()) | {"base_model_name_or_path": str(base)}, indent=2) + "\n"
    )
    adapted.unload()
    return path
