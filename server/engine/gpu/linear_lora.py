"""Puts adapters on linear layers only, for the reason in `common/served_modules.py`.

It also saves the slots' matrices as wide as the vocabulary, with which no vocabulary over 258,048 tokens starts.
"""

from typing import Any

from lorecall.server.engine.common.deployment import is_named
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.common.served_modules import linear_only


def apply() -> None:
    """Keep LoRA off the embeddings, in a server that names our plugin; stock vLLM beside it stays as it is."""
    if not is_named():
        return
    from vllm.lora import model_manager

    stock = require(model_manager, "get_supported_lora_modules", ("model",))

    def supported_modules(model: Any) -> list[str]:
        return linear_only(stock(model))

    model_manager.get_supported_lora_modules = supported_modules
