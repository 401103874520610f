"""What LoRA-aware routers read out of a server, by their own rules.

The rules are those of the model server protocol of the Gateway API inference extension (proposal 003), of llm-d's
`core-metrics-extractor`, `lora-affinity-scorer` and `models-data-extractor`, and of its `lora-load-state-scorer`
(pull request 2792 of llm-d-router).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

INFO = "vllm:lora_requests_info"
NO_ROOM = 0.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server as a router knows it from a scrape.

    Attributes:
        active: Adapters with a running request.
        waiting: Adapters with a waiting request.
        most_active: How many adapters fit at once.
        resident: The level, "gpu" or "cpu", of each adapter that is loaded.
        in_slots: How many slots are taken.
        slots: How many there are.
        info_series: How many series of `INFO` there are.
    """

    active: frozenset[str]
    waiting: frozenset[str]
    most_active: int
    resident: Mapping[str, str]
    in_slots: int
    slots: int
    info_series: int

    def affinity(self, adapter: str) -> float:
        """Return the score that llm-d's `lora-affinity-scorer` gives this server for an adapter."""
        if adapter in self.active:
            return 1.0
        if len(self.active) + len(self.waiting) < self.most_active:
            return 0.8
        return 0.6 if adapter in self.waiting else NO_ROOM


def scrape(exposition: str) -> Endpoint:
    """Return what a router knows of a server after one scrape of its `/metrics`."""
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    info = samples.get(INFO, [])
    latest = max(info, key=lambda one: one.value).labels if info else {}
    loaded = {
        one.labels["adapter_name"]: one for one in samples["vllm:lora_adapter_loaded"] if one.value == 1
    }
    in_slots, slots = (
        int(samples[name][0].value)
        for name in ("vllm:num_gpu_loaded_lora_adapters", "vllm:max_gpu_lora_adapters")
    )
    return Endpoint(
        _names(latest.get("running_lora_adapters", "")),
        _names(latest.get("waiting_lora_adapters", "")),
        int(latest.get("max_lora") or 0),
        {name: one.labels["level"] for name, one in loaded.items()},
        in_slots,
        slots,
        len(info),
    )


def models(listed: Mapping[str, Any]) -> dict[str, str]:
    """Return the models of a server's `/v1/models`, each with its parent, "" for a base."""
    return {one["id"]: one.get("parent") or "" for one in listed["data"]}


def _names(csv: str) -> frozenset[str]:
    return frozenset(name.strip() for name in csv.split(",") if name.strip())
