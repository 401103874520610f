"""Replaces vLLM's CPU LoRA kernels by the grouped ones of `grouped_lora.py`, and has INT8 bases take adapters.

The wrapper is named and not imported: vLLM imports it where adapters are on, and only there is it compiled.

vLLM 0.32 does not start with adapters over an INT8 (W8A8) base: its kernel for CPUs passes the weight to oneDNN
and sets `layer.weight = None`; `_get_lora_device` then reads `None.device`. A CPU has one device, so the function
can return it without the weight.
"""

import importlib
import pkgutil
from typing import Any

import torch
from lorecall.server.engine.common.plugin import require, require_fields
from torch import nn

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
    _find_device_without_weight()


def _find_device_without_weight() -> None:
    """Replace vLLM's `_get_lora_device` in every LoRA layer's module that imported it."""
    from vllm.lora import layers

    upstream = require(layers.utils, "_get_lora_device", ("base_layer",))

    def lora_device(base_layer: nn.Module) -> torch.device:
        if hasattr(base_layer, "weight") and base_layer.weight is None:
            return torch.device("cpu")
        return upstream(base_layer)

    for found in pkgutil.iter_modules(layers.__path__):
        module = importlib.import_module(f"{layers.__name__}.{found.name}")
        if hasattr(module, "_get_lora_device"):
            vars(module)["_get_lora_device"] = lora_device
