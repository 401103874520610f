"""Orders the rows of an adapter's q_proj and k_proj as vLLM orders those of the base (Llama 4).

Llama 4's rotary embedding turns neighbouring channels, and vLLM's kernel the two halves of a head. So vLLM puts
the rows of the base's q_proj and k_proj in another order when it loads them. vLLM 0.32 leaves those of an
adapter's B in theirs, and adds each to another channel than the one that it was trained for: wrong by nats.
"""

from typing import Any

from lorecall.server.engine.common.plugin import require

REORDERED = ("q_proj", "k_proj")
"""The modules in question, by the last parts of their names."""


def apply() -> None:
    """Have the model that reorders the base's rows reorder those of each adapter, too."""
    from vllm.lora.worker_manager import WorkerLoRAManager

    load = require(WorkerLoRAManager, "_load_adapter", ("self", "lora_request"))

    def load_adapter(self: Any, lora_request: Any) -> Any:
        lora = load(self, lora_request)
        reorder_rows(self._adapter_manager.model, lora.loras)
        return lora

    WorkerLoRAManager._load_adapter = load_adapter


def reorder_rows(model: Any, layers: dict[str, Any]) -> None:
    """Put the rows of B in the order that a model gives the rows of its weights at load.

    Args:
        model: vLLM's; it is left alone unless it, or its language model, has `permute_qk_weight_for_rotary`.
        layers: `LoRALayerWeights` by the module's name in vLLM. B has the shape (d_out, rank).
    """
    prefix = "language_model." if hasattr(model, "language_model") else ""
    reorder = getattr(getattr(model, "language_model", model), "permute_qk_weight_for_rotary", None)
    if reorder is None:
        return
    for name, layer in layers.items():
        if name.startswith(prefix) and name.rpartition(".")[2] in REORDERED:
            _, layer.lora_b = reorder(f"{name}.weight", layer.lora_b)
