"""The engine says which modules it adapts, by the names in an adapter's file."""

from types import SimpleNamespace

import torch
from lorecall.server.engine.common.adapted_modules import adapted_modules
from vllm.model_executor.layers.attention.mla_attention import MLAAttention
from vllm.model_executor.layers.fused_moe import MoERunner


def test_fused_modules_stand_for_what_they_are_fused_of() -> None:
    """As GLM 4 and Phi 3 state it, with experts that are wrapped; a module that stands for itself stays."""
    plain, experts = SimpleNamespace(), SimpleNamespace(base_layer=MoERunner.__new__(MoERunner))
    manager = SimpleNamespace(
        model=torch.nn.Module(),
        modules={
            "model.layers.0.self_attn.qkv_proj": plain,
            "model.layers.0.self_attn.o_proj": plain,
            "model.layers.0.mlp.gate_up_proj": plain,
            "model.layers.1.mlp.experts": experts,
        },
        packed_modules_mapping={
            "qkv_proj": ["qkv_proj"],
            "gate_up_proj": ["gate_proj", "up_proj"],
            "experts": ["experts.0.gate_proj", "experts.0.down_proj"],
        },
    )
    worker = SimpleNamespace(
        model_runner=SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    )
    found = adapted_modules(worker)
    assert found == ["down_proj", "experts", "gate_proj", "o_proj", "qkv_proj", "up_proj"]
    del manager.modules["model.layers.1.mlp.experts"]
    assert adapted_modules(worker) == ["gate_proj", "o_proj", "qkv_proj", "up_proj"]


def test_what_is_in_other_matrices_by_now_gets_no_adapter() -> None:
    """With multi-head latent attention vLLM decodes with matrices that it made of kv_b_proj at load."""
    attention = MLAAttention.__new__(MLAAttention)
    torch.nn.Module.__init__(attention)
    names = ("kv_b_proj", "o_proj")
    for model, expected in (
        (torch.nn.Sequential(attention), ["o_proj"]),
        (torch.nn.Module(), ["kv_b_proj", "o_proj"]),
    ):
        manager = SimpleNamespace(
            model=model,
            modules={f"model.layers.0.self_attn.{name}": SimpleNamespace() for name in names},
            packed_modules_mapping={},
        )
        runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
        assert adapted_modules(SimpleNamespace(model_runner=runner)) == expected
