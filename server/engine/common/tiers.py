"""Lists the adapters in the engine's slots and in its memory, and pins adapters in memory.

vLLM's own pin also occupies a slot; a batch of `--max-loras` other adapters then has too few slots, and the
engine dies. Our pin keeps an adapter in the worker's memory only, from which a slot is filled quickly.
"""

from typing import Any

from lorecall.server.engine.common.plugin import require, require_fields


def adapter_tiers(self: Any) -> dict[str, list[int]]:
    """Return the integer ids of the adapters in slots and in memory (those in slots included)."""
    manager = self.model_runner.lora_manager._adapter_manager
    slots = [lora_id for lora_id in manager.lora_index_to_id if lora_id is not None]
    return {"slots": slots, "memory": sorted(manager.list_adapters())}


def pin_adapter(self: Any, lora_id: int, pinned: bool) -> bool:  # noqa: FBT001  # vLLM's RPC passes positional values
    """Pin or unpin an adapter in the worker's memory; return whether it was there."""
    cache = self.model_runner.lora_manager._adapter_manager._registered_adapters
    if lora_id not in cache:
        return False
    if pinned:
        cache.pin(lora_id)
    elif lora_id in cache.pinned_items:
        cache._unpin(lora_id)
    return True


def apply() -> None:
    """Give the worker the two methods, which the server calls by name."""
    from vllm.lora.model_manager import AdapterLRUCache, LoRAModelManager
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin
    from vllm.v1.worker.worker_base import WorkerBase

    require_fields(LoRAModelRunnerMixin, "lora_manager")
    require_fields(WorkerLoRAManager, "_adapter_manager")
    require_fields(LoRAModelManager, "lora_index_to_id", "_registered_adapters")
    require(LoRAModelManager, "list_adapters", ("self",))
    require_fields(AdapterLRUCache, "pinned_items")
    require(AdapterLRUCache, "pin", ("self", "key"))
    require(AdapterLRUCache, "_unpin", ("self", "key"))
    WorkerBase.lorecall_adapter_tiers = adapter_tiers
    WorkerBase.lorecall_pin_adapter = pin_adapter
