"""Makes `vllm:lora_requests_info` say what LoRA-aware routers read out of it.

vLLM 0.32 labels it with the engine's names, and ours are `name@version`: here they are the public names. While a
name moves to another version, the requests on both versions count under the one name.

vLLM also lists each adapter that has a request both as running and as waiting, so that a router counts its slots
twice; here it is listed where it has one. And vLLM keeps one series for every mix of adapters that ever ran
together; here there is the latest, which is the one that routers take. It comes before the one that it replaces
goes: a scrape has a thread of its own, and sees whatever is there.
"""

import functools
from typing import Any

from lorecall.server.engine.common.plugin import require, require_fields
from lorecall.server.engine.common.version_names import public_name


def apply() -> None:
    """Make vLLM count an adapter's requests by its public name, list it once, and keep one series."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.metrics.stats import LoRARequestStates, SchedulerStats

    update = require(
        LoRARequestStates, "_request_update", ("self", "req_id", "lora_name", "waiting", "running")
    )
    fill = require(LoRARequestStates, "update_scheduler_stats", ("self", "scheduler_stats"))
    record = require(PrometheusStatLogger, "record", ("self", "scheduler_stats"))
    require_fields(SchedulerStats, "waiting_lora_adapters", "running_lora_adapters")
    require_fields(PrometheusStatLogger, "gauge_lora_info")

    @functools.wraps(update)
    def update_by_public_name(self: Any, req_id: str, lora_name: str | None, **change: bool) -> None:
        update(self, req_id, None if lora_name is None else public_name(lora_name), **change)

    @functools.wraps(fill)
    def fill_without_zeros(self: Any, scheduler_stats: Any) -> None:
        fill(self, scheduler_stats)
        if scheduler_stats is not None:
            for counts in (scheduler_stats.waiting_lora_adapters, scheduler_stats.running_lora_adapters):
                for name in [name for name, count in counts.items() if not count]:
                    del counts[name]

    @functools.wraps(record)
    def record_latest(self: Any, scheduler_stats: Any, *args: Any, **others: Any) -> None:
        record(self, scheduler_stats, *args, **others)
        if scheduler_stats is not None and self.gauge_lora_info is not None:
            (family,) = self.gauge_lora_info.collect()
            for before in family.samples[:-1]:  # in the order in which they came
                self.gauge_lora_info.remove(*before.labels.values())

    LoRARequestStates._request_update = update_by_public_name
    LoRARequestStates.update_scheduler_stats = fill_without_zeros
    PrometheusStatLogger.record = record_latest
