"""LoRA over an INT8 (W8A8) base on CPU, with which vLLM 0.32 does not start.

The CPU INT8 kernel passes the weight to oneDNN and sets `layer.weight = None`; `_get_lora_device` then reads
`None.device`. A CPU has one device, so the function can return it without the weight.
"""

import importlib
import pkgutil

import torch
from lorecall.server.engine.common.plugin import require
from torch import nn


def apply() -> None:
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
