"""Shows adapters in `vllm:lora_requests_info` by their public names, which are what LoRA-aware routers match.

vLLM 0.32 labels the metric with the engine's names, and ours are `name@version`. While a name moves to another
version, the requests on both versions count under the one name.
"""

import functools
from typing import Any

from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.common.version_names import public_name


def apply() -> None:
    """Make vLLM count an adapter's waiting and running requests by its public name."""
    from vllm.v1.metrics.stats import LoRARequestStates

    update = require(
        LoRARequestStates, "_request_update", ("self", "req_id", "lora_name", "waiting", "running")
    )

    @functools.wraps(update)
    def update_by_public_name(self: Any, req_id: str, lora_name: str | None, **change: bool) -> None:
        update(self, req_id, None if lora_name is None else public_name(lora_name), **change)

    LoRARequestStates._request_update = update_by_public_name
