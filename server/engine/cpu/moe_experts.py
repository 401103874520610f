"""Mixtures of experts with LoRA on a CPU, where vLLM 0.32 takes Triton's kernels for experts, which a CPU lacks.

Whenever LoRA is on vLLM wraps the experts for adapters of their own, and only Triton's experts can be wrapped.
Here the experts keep the CPU's kernels and are not wrapped: adapters reach attention, dense projections and
routers. An adapter of experts is refused by validation, which asks the engine what it wraps.
"""

from typing import Any

from lorecall.server.engine.common.plugin import require, require_fields


def apply() -> None:
    """Choose the kernels of experts as without LoRA, and leave experts unwrapped."""
    from vllm.lora import model_manager
    from vllm.model_executor.layers.fused_moe import MoERunner
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

    finish = require(FusedMoEConfig, "__post_init__", ("self",))
    require_fields(FusedMoEConfig, "is_lora_enabled")
    supported = require(model_manager, "is_supported_lora_module", ("module_name", "module"))

    def without_lora(self: Any) -> None:
        finish(self)
        self.is_lora_enabled = False

    def is_supported(module_name: str, module: Any, supported_lora_modules: list[str]) -> bool:
        return not isinstance(module, MoERunner) and supported(module_name, module, supported_lora_modules)

    FusedMoEConfig.__post_init__ = without_lora
    model_manager.is_supported_lora_module = is_supported
