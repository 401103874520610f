"""Lists the modules that this engine applies adapters to, by the names that an adapter's file uses.

vLLM fuses projections, and each model says of which names in the file it fuses them. A name that is not among
them is left out in silence, or ends the load with a trace: `gate_up_proj` of Glm4, which vLLM makes of two names
that the file does not have; experts on a CPU.
"""

from typing import Any

from lorecall.server.engine.common.plugin import require_fields

EXPERTS = "experts"
"""Stands for the projections of a mixture's experts."""


def adapted_modules(self: Any) -> list[str]:
    """Return the last parts of the modules' names, in order; `EXPERTS` where experts are adapted."""
    from vllm.model_executor.layers.attention.mla_attention import MLAAttention
    from vllm.model_executor.layers.fused_moe import MoERunner

    manager = self.model_runner.lora_manager._adapter_manager
    absorbs = any(isinstance(module, MLAAttention) for module in manager.model.modules())
    found: set[str] = set()
    for name, module in manager.modules.items():
        own = name.rpartition(".")[2]
        if (
            own == "kv_b_proj" and absorbs
        ):  # its base's weights are in other matrices by now, without the adapter's
            continue
        parts = manager.packed_modules_mapping.get(own) or [own]
        found.update(part.rpartition(".")[2] for part in parts)
        if isinstance(getattr(module, "base_layer", None), MoERunner):
            found.add(EXPERTS)
    return sorted(found)


def apply() -> None:
    """Give the worker the method, which the server calls by name."""
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.v1.worker.worker_base import WorkerBase

    require_fields(LoRAModelManager, "model", "modules", "packed_modules_mapping")
    WorkerBase.lorecall_adapted_modules = adapted_modules
