"""Experts on a CPU keep the CPU's kernels when adapters are on; tests/families serves such models."""

import pytest
import torch
from lorecall.server.engine.cpu import moe_experts
from vllm.lora import model_manager
from vllm.model_executor.layers.fused_moe import MoERunner
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import (
    FusedMoEConfig,
    FusedMoEParallelConfig,
    RoutingMethodType,
)
from vllm.model_executor.layers.fused_moe.oracle.unquantized import (
    UnquantizedMoeBackend,
    select_unquantized_moe_backend,
)


def config_of_experts() -> FusedMoEConfig:
    return FusedMoEConfig(
        num_experts=4,
        experts_per_token=2,
        hidden_dim=64,
        intermediate_size=64,
        num_local_experts=4,
        num_logical_experts=4,
        activation=MoEActivation.SILU,
        device="cpu",
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=FusedMoEParallelConfig.make_no_parallel(),
        in_dtype=torch.float32,
        is_lora_enabled=True,
    )


def test_the_cpu_s_kernels_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock vLLM takes Triton's whenever LoRA is on; when it no longer does, the fix can go."""
    monkeypatch.setattr(FusedMoEConfig, "__post_init__", FusedMoEConfig.__post_init__)
    monkeypatch.setattr(model_manager, "is_supported_lora_module", model_manager.is_supported_lora_module)
    moe_experts.apply()
    config = config_of_experts()
    assert select_unquantized_moe_backend(config)[0] is UnquantizedMoeBackend.CPU
    config.is_lora_enabled = True
    assert select_unquantized_moe_backend(config)[0] is UnquantizedMoeBackend.TRITON


def test_experts_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other layers are: what vLLM says of them stays."""
    monkeypatch.setattr(FusedMoEConfig, "__post_init__", FusedMoEConfig.__post_init__)
    monkeypatch.setattr(model_manager, "is_supported_lora_module", lambda *_arguments: True)
    monkeypatch.setattr(moe_experts, "require", lambda owner, name, _parameters: getattr(owner, name))
    moe_experts.apply()
    experts = MoERunner.__new__(MoERunner)
    assert not model_manager.is_supported_lora_module("mlp.experts", experts, ["experts"])
    assert model_manager.is_supported_lora_module("mlp.gate", torch.nn.Linear(2, 2), ["gate"])
