"""Replaces vLLM's CPU LoRA kernels by the grouped ones of `grouped_lora.py`.

The wrapper is named and not imported: vLLM imports it where adapters are on, and only there is it compiled.
"""

from typing import Any

from lorecall.server.engine.common.plugin import require, require_fields

WRAPPER = "lorecall.server.engine.cpu.grouped_lora.GroupedPunicaWrapper"


def apply() -> None:
    """Make the CPU platform use the grouped wrapper, and have it pack what a slot gets."""
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.platforms.cpu import CpuPlatform

    require(CpuPlatform, "get_punica_wrapper", ())
    CpuPlatform.get_punica_wrapper = classmethod(lambda _cls: WRAPPER)
    activate = require(LoRAModelManager, "activate_adapter", ("self", "lora_id"))
    require_fields(LoRAModelManager, "lora_index_to_id", "punica_wrapper_mapping")

    def activate_adapter(self: Any, lora_id: int) -> Any:
        activated = activate(self, lora_id)
        if activated:
            slot = self.lora_index_to_id.index(lora_id)
            for wrapper in self.punica_wrapper_mapping.values():
                wrapper.pack_slot(slot)
        return activated

    LoRAModelManager.activate_adapter = activate_adapter
